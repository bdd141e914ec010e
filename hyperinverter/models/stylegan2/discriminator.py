"""StyleGAN2 discriminator in the residual architecture (config-f).

Source: StyleGAN2-ADA (arXiv:2006.06676), parameter names as published by NVIDIA; minibatch standard deviation from
Progressive GAN (arXiv:1710.10196), section 3.

Letters: N images, R resolution in pixels, C channels, r the resolution of a block.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.models.stylegan2.layers import Conv2d, FullyConnected, block_resolutions, channels_at
from hyperinverter.ops.upfirdn2d import setup_filter
from hyperinverter.utils.checks import check_images


class DiscriminatorBlock(nn.Module):
    """One resolution: two convolutions beside a 1x1 skip, both halving the size; the first block also reads RGB."""

    def __init__(self, in_channels: int, out_channels: int, *, reads_rgb: bool, clamp: float | None) -> None:
        super().__init__()
        self.register_buffer("resample_filter", setup_filter())
        self.fromrgb = Conv2d(3, in_channels, 1, "lrelu", clamp=clamp) if reads_rgb else None
        self.conv0 = Conv2d(in_channels, in_channels, 3, "lrelu", clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, "lrelu", down=2, clamp=clamp)
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, r, r] (RGB in the first block) -> [N, C', r/2, r/2]."""
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        gain = math.sqrt(0.5)  # two branches of unit variance add up to unit variance
        return self.skip(x, gain) + self.conv1(self.conv0(x), gain)


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, convolution and two fully connected layers at 4 px."""

    def __init__(self, channels: int, *, mbstd_group_size: int | None, clamp: float | None) -> None:
        super().__init__()
        self.mbstd_group_size = mbstd_group_size
        self.conv = Conv2d(channels + 1, channels, 3, "lrelu", clamp=clamp)
        self.fc = FullyConnected(channels * 16, channels, "lrelu")
        self.out = FullyConnected(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, 4, 4] -> logits [N, 1]."""
        x = torch.cat([x, minibatch_std(x, self.mbstd_group_size)], dim=1)
        return self.out(self.fc(self.conv(x).flatten(1)))


def minibatch_std(x: Tensor, group_size: int | None) -> Tensor:
    """How much the images of a group differ: the mean over pixels and channels of their standard deviation.

    Args:
        x: [N, C, H, W]. Image i is in group i mod (N / G).
        group_size: G, images in a group; the batch when it is smaller, or when None.
    Returns:
        [N, 1, H, W], constant per group.
    Raises:
        ValueError: the batch does not divide into groups.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(
            f"a batch of {n} images does not divide into groups of {group} (mbstd_group_size); "
            "use a multiple of it as the batch size, or another mbstd_group_size"
        )
    groups = x.reshape(group, n // group, c, h, w)
    groups = groups - groups.mean(dim=0)
    std = (groups.square().mean(dim=0) + 1e-8).sqrt()  # [N / G, C, H, W]
    std = std.mean(dim=(1, 2, 3))  # [N / G]
    return std.repeat(group).reshape(n, 1, 1, 1).expand(n, 1, h, w).to(x.dtype)


class Discriminator(nn.Module):
    """Images to one logit each: high for images that look real.

    Args:
        resolution: R, a power of two of at least 8, pixels.
        channel_base: channels at resolution r are min(channel_base / r, channel_max).
        channel_max: see channel_base.
        mbstd_group_size: images compared with each other by the minibatch standard deviation; None means the batch.
        conv_clamp: limit of every convolution's output, for checkpoints trained in half precision; None means no limit.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        mbstd_group_size: int | None = 4,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        if mbstd_group_size is not None and mbstd_group_size < 1:
            raise ValueError(f"mbstd_group_size must be at least 1 or None (the whole batch), got {mbstd_group_size}")
        self.resolution = resolution
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "mbstd_group_size": mbstd_group_size,
            "conv_clamp": conv_clamp,
        }
        self.block_names: list[str] = []
        for res in reversed(block_resolutions(resolution)[1:]):
            channels = channels_at(res, channel_base, channel_max)
            following = channels_at(res // 2, channel_base, channel_max)
            block = DiscriminatorBlock(channels, following, reads_rgb=res == resolution, clamp=conv_clamp)
            self.add_module(f"b{res}", block)
            self.block_names.append(f"b{res}")
        self.b4 = DiscriminatorEpilogue(
            channels_at(4, channel_base, channel_max), mbstd_group_size=mbstd_group_size, clamp=conv_clamp
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """RGB [N, 3, R, R] in [-1, 1] -> output of every block, [N, C, R/2, R/2] first, [N, C, 4, 4] last."""
        x = check_images(images, self.resolution).contiguous(memory_format=torch.channels_last)
        outputs = []
        for name in self.block_names:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """RGB [N, 3, R, R] in [-1, 1] -> logits [N, 1]; unbounded, before any sigmoid."""
        return self.b4(self.features(images)[-1])
