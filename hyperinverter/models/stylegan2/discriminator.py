"""StyleGAN2 discriminator, in every published variant.

Source: StyleGAN2 (arXiv:1912.04958) and its ADA version (arXiv:2006.06676), parameter names as published by NVIDIA;
minibatch standard deviation from Progressive GAN (arXiv:1710.10196), section 3; the projection on a condition from
Miyato and Koyama (arXiv:1802.05637). It computes in the precision of its weights, as the generator does.

Letters: N images, R resolution in pixels, C channels, I image channels, r the resolution of a block, F channels that
the minibatch standard deviation adds.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperinverter.config.domain_schema import DiscriminatorConfig
from hyperinverter.models.stylegan2.layers import (
    Conv2d,
    FullyConnected,
    block_resolutions,
    channels_at,
    check_architecture,
    even_taps,
)
from hyperinverter.models.stylegan2.mapping import MappingNetwork
from hyperinverter.ops.upfirdn2d import downsample2d, setup_filter
from hyperinverter.utils.checks import check_images
from hyperinverter.utils.distributed import all_rows, own_rows, world_size


class DiscriminatorBlock(nn.Module):
    """One resolution: two convolutions that halve the size, by architecture beside a 1x1 skip.

    The first block reads the image; in the architecture "skip" every block reads it, at its own resolution.
    """

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, is_first: bool, config: DiscriminatorConfig) -> None:
        super().__init__()
        act, clamp, taps = config.activation, config.conv_clamp, config.resample_filter
        self.passes_image = config.architecture == "skip"
        self.register_buffer("resample_filter", setup_filter(taps))
        reads_image = is_first or self.passes_image
        self.fromrgb = Conv2d(config.img_channels, in_channels, 1, act, clamp=clamp) if reads_image else None
        self.conv0 = Conv2d(in_channels, in_channels, 3, act, clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, act, down=2, clamp=clamp, resample_filter=taps)
        residual = config.architecture == "resnet"
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=2, resample_filter=taps) if residual else None

    def forward(self, x: Tensor | None, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features [N, C, r, r] (None in the first block), image [N, I, r, r] -> features and image at r/2.

        The image is passed on, as long as a later block reads it; otherwise it is None.
        """
        if self.fromrgb is not None:
            assert image is not None  # a block that reads it is handed it on
            read = self.fromrgb(image)
            x = read if x is None else x + read
            image = downsample2d(image, even_taps(self.resample_filter)) if self.passes_image else None
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        gain = math.sqrt(0.5)  # two branches of unit variance add up to unit variance
        return self.skip(x, gain) + self.conv1(self.conv0(x), gain), image


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, convolution and two fully connected layers at 4 px; projects on a condition."""

    def __init__(self, channels: int, *, cmap_dim: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.mbstd_group_size, self.mbstd_num_channels = config.mbstd_group_size, config.mbstd_num_channels
        act = config.epilogue_activation
        # The published layer that reads the image at 4 px has no clamp.
        self.fromrgb = Conv2d(config.img_channels, channels, 1, act) if config.architecture == "skip" else None
        self.conv = Conv2d(channels + self.mbstd_num_channels, channels, 3, act, clamp=config.conv_clamp)
        self.fc = FullyConnected(channels * 16, channels, act)
        self.out = FullyConnected(channels, cmap_dim or 1)

    def forward(
        self,
        x: Tensor,
        image: Tensor | None = None,
        cmap: Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> Tensor:
        """Features [N, C, 4, 4], image [N, I, 4, 4], mapped condition [N, cmap_dim] -> logits [N, 1]."""
        if self.fromrgb is not None:
            x = x + self.fromrgb(image)
        if self.mbstd_num_channels:
            batches = x.split(len(x) if batch_sizes is None else list(batch_sizes))
            x = torch.cat([x, torch.cat([self._minibatch_std(batch) for batch in batches])], dim=1)
        y = self.out(self.fc(self.conv(x).flatten(1)))
        return y if cmap is None else (y * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])

    def _minibatch_std(self, x: Tensor) -> Tensor:
        """In train mode with the groups of the whole batch, also where their images lie in several processes."""
        group, channels = self.mbstd_group_size, self.mbstd_num_channels
        # Own rows are every world-th image of the batch, so groups that fit in here are those of the whole batch.
        if not self.training or world_size() == 1 or (group is not None and len(x) % group == 0):
            return minibatch_std(x, group, channels)
        return own_rows(minibatch_std(all_rows(x), group, channels))


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1) -> Tensor:
    """How much the images of a group differ: the mean over pixels and channels of their standard deviation.

    Args:
        x: [N, C, H, W]. Image i is in group i mod (N / G).
        group_size: G, images in a group; the batch when it is smaller, or when None.
        num_channels: F, parts of the channels that are averaged separately.
    Returns:
        [N, F, H, W], constant per group and part.
    Raises:
        ValueError: the batch does not divide into groups, or the channels into parts.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(
            f"a batch of {n} images does not divide into groups of {group} (mbstd_group_size); "
            "use a multiple of it as the batch size, or another mbstd_group_size"
        )
    if c % num_channels:
        raise ValueError(f"{c} channels do not divide into {num_channels} parts (mbstd_num_channels)")
    groups = x.reshape(group, n // group, num_channels, c // num_channels, h, w)
    groups = groups - groups.mean(dim=0)
    std = (groups.square().mean(dim=0) + 1e-8).sqrt()  # [N / G, F, C / F, H, W]
    std = std.mean(dim=(2, 3, 4))  # [N / G, F]
    return std.repeat(group, 1).reshape(n, num_channels, 1, 1).expand(n, num_channels, h, w).to(x.dtype)


class Discriminator(nn.Module):
    """Images to one logit each: high for images that look real.

    Args:
        resolution: R, a power of two of at least 8, pixels.
        options: the fields of `config.domain_schema.DiscriminatorConfig`, which says what they mean.
    Attributes:
        config: the arguments that build the network again.
        recompute_from_px: as of `SynthesisNetwork`.
    Raises:
        ValueError: values that make no network; says which.
    """

    def __init__(self, *, resolution: int, **options: Any) -> None:
        super().__init__()
        config = DiscriminatorConfig(**options)
        self.config: dict[str, Any] = {"resolution": resolution, **asdict(config)}
        if config.mbstd_group_size is not None and config.mbstd_group_size < 1:
            got = config.mbstd_group_size
            raise ValueError(f"mbstd_group_size must be at least 1 or None (the whole batch), got {got}")
        check_architecture(config.architecture)
        self.resolution, self.c_dim, self.img_channels = resolution, config.c_dim, config.img_channels
        self.recompute_from_px: int | None = None
        self.block_names: list[str] = []
        for res in reversed(block_resolutions(resolution)[1:]):
            channels = channels_at(res, config.channel_base, config.channel_max)
            following = channels_at(res // 2, config.channel_base, config.channel_max)
            block = DiscriminatorBlock(channels, following, is_first=res == resolution, config=config)
            self.add_module(f"b{res}", block)
            self.block_names.append(f"b{res}")
        smallest = channels_at(4, config.channel_base, config.channel_max)
        mapped = 0 if self.c_dim == 0 else (smallest if config.cmap_dim is None else config.cmap_dim)
        self.mapping = MappingNetwork(config, z_dim=0, w_dim=mapped) if self.c_dim > 0 else None
        self.b4 = DiscriminatorEpilogue(smallest, cmap_dim=mapped, config=config)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [N, I, R, R] in [-1, 1] -> output of every block, [N, C, R/2, R/2] first, [N, C, 4, 4] last."""
        return self._blocks(images)[0]

    def forward(self, images: Tensor, c: Tensor | None = None, batch_sizes: Sequence[int] | None = None) -> Tensor:
        """Score images.

        Args:
            images: [N, I, R, R] in [-1, 1].
            c: condition [N, c_dim].
            batch_sizes: `images` are several batches, one after the other, of these sizes; the minibatch standard
                deviation is taken within each, so that the logits are those of one call per batch. None: one batch.
        Returns:
            Logits [N, 1], unbounded, before any sigmoid.
        """
        outputs, image = self._blocks(images)
        if self.mapping is None and c is not None and c.numel() > 0:
            raise ValueError(f"this discriminator takes no condition (c_dim is 0), got c {tuple(c.shape)}")
        if self.mapping is not None and c is not None and len(c) != len(images):
            raise ValueError(f"expected one condition per image, got {len(c)} for {len(images)} images")
        cmap = None if self.mapping is None else self.mapping(None, c=c)
        return self.b4(outputs[-1], image, cmap, batch_sizes)

    def _blocks(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The output of every block, and the image at 4 px where the architecture reads it there."""
        if self.img_channels == 3:
            check_images(images, self.resolution)
        elif images.ndim != 4 or images.shape[1:] != (self.img_channels, self.resolution, self.resolution):
            expected = f"[N, {self.img_channels}, {self.resolution}, {self.resolution}]"
            raise ValueError(f"images: expected {expected}, got {tuple(images.shape)}")
        x, image = None, images.contiguous(memory_format=torch.channels_last)
        outputs = []
        recompute_from_px = (self.recompute_from_px if torch.is_grad_enabled() else None) or math.inf
        for name in self.block_names:
            block = self.get_submodule(name)
            if int(name[1:]) >= recompute_from_px:
                x, image = checkpoint(block, x, image, use_reentrant=False, preserve_rng_state=False)
            else:
                x, image = block(x, image)
            outputs.append(x)
        return outputs, image
