"""BatchNorm whose statistics span all processes, so that a batch dealt out to several devices is normalised as one.

Source: Ioffe and Szegedy, ICML 2015 (arXiv:1502.03167). On a GPU this is torch's own SyncBatchNorm; that one refuses a
CPU, which is where runs of several processes are tested.
"""

import torch
from torch import Tensor, nn

from hyperinverter.utils.distributed import all_rows, world_size


class SyncBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches of all processes, which are equally large."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape; in eval mode as nn.BatchNorm2d."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        values = x.float()
        own = torch.stack([values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)])  # [2, C]
        means, variances = all_rows(own[None]).unbind(1)  # [world, C] each
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * world_size())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        y = (values - mean[:, None, None]) * scale[:, None, None]
        return (y + self.bias[:, None, None] if self.affine else y).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of `count` numbers per channel; the variance unbiased, as torch."""
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Exchange every BatchNorm2d inside for one over all processes; parameters and buffers stay the same objects.

    In one process nothing changes.
    """
    if world_size() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
    return network
