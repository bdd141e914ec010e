"""BatchNorm over another set of images than the batch: over all processes' batches, or over each half of a batch.

Source: Ioffe and Szegedy, ICML 2015 (arXiv:1502.03167). Torch's own SyncBatchNorm refuses a CPU, which is where runs of
several processes are tested, and on a GPU makes the host wait in every layer (pytorch issue 78549: processes may bring
batches of different sizes, here they are equal).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from hyperinverter.utils.distributed import all_rows, average, world_size

M = TypeVar("M", bound=nn.Module)


class SyncBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches of all processes, which are equally large."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape; in eval mode as nn.BatchNorm2d."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        values = x.float()
        own = torch.stack(torch.var_mean(values, (0, 2, 3), correction=0))  # [2, C]
        variances, means = all_rows(own[None]).unbind(1)  # [world, C] each
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * world_size())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = self.bias - mean * scale if self.affine else -mean * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of `count` numbers per channel; the variance unbiased, as torch."""
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


def synchronised(network: M, wanted: bool = True) -> M:
    """Let every BatchNorm2d inside span all processes; call it before the optimiser is built.

    In one process, or where it is not `wanted`, nothing changes.
    """
    if world_size() == 1 or not wanted:
        return network
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm  # its parameters and buffers are the same
    return network


@contextmanager
def normalised_apart(network: nn.Module, parts: int) -> Iterator[None]:
    """Inside, every BatchNorm of `network` takes the equal parts of a batch one after the other, as if each came alone.

    Everything else sees the whole batch, so that several passes cost one of each convolution.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms if parts > 1 else ():

        def apart(input: Tensor, alone: Callable[[Tensor], Tensor] = norm.forward) -> Tensor:  # of whichever class
            return torch.cat([alone(part) for part in input.chunk(parts)])

        norm.forward = apart  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms if parts > 1 else ():
            del norm.forward  # the class's own again


def average_running_statistics(network: nn.Module) -> None:
    """Running statistics that BatchNorm learns, and does not synchronise, become their mean over processes: one model.

    Call it after every step. The mean of variances lacks the spread of the devices' means, which is small.
    """
    if world_size() == 1:
        return
    norms = [module for module in network.modules() if type(module) is nn.BatchNorm2d and module.training]
    buffers = (buffer for norm in norms for buffer in (norm.running_mean, norm.running_var))
    values = [buffer for buffer in buffers if buffer is not None]
    if values:
        means = average(torch.cat(values)).split([len(value) for value in values])
        torch._foreach_copy_(values, list(means))
