"""Layers that the StyleGAN2 generator and discriminator share: equalised linear and convolution, and the size rules.

Source: StyleGAN2 (arXiv:1912.04958) and its ADA version (arXiv:2006.06676); parameter names as published by NVIDIA.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.domain_schema import ARCHITECTURES
from hyperinverter.ops.bias_act import activate_, check_activation, split_gain
from hyperinverter.ops.conv2d import conv2d
from hyperinverter.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upsample2d

RESAMPLE_TAPS = (1.0, 3.0, 3.0, 1.0)  # StyleGAN2's filter before normalisation


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ... resolution, pixels. Raises ValueError: the resolution is not a power of two of at least 8."""
    if not isinstance(resolution, int) or resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"the resolution must be a power of two of at least 8 pixels, got {resolution!r}")
    return [2**i for i in range(2, resolution.bit_length())]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Channels of the block at a resolution: min(channel_base / resolution, channel_max), at least 1."""
    channels = min(channel_base // resolution, channel_max)
    if channels < 1:
        raise ValueError(
            f"channel_base must be at least the resolution {resolution}, got {channel_base}: no channels are left"
        )
    return channels


def channel_rule(widths: Mapping[int, int]) -> tuple[int, int]:
    """The inverse of `channels_at`: the smallest channel_base and the channel_max that give these channels.

    Args:
        widths: resolution in pixels -> channels, from 4 px on.
    Raises:
        ValueError: no such rule gives them; names all of them.
    """
    channel_max = max(widths.values())
    channel_base = max(channels * res for res, channels in widths.items())
    if any(channels != min(channel_base // res, channel_max) for res, channels in widths.items()):
        message = ", ".join(f"{channels} at {res} px" for res, channels in sorted(widths.items()))
        raise ValueError(f"no channel_base and channel_max give its channels, min(base / resolution, max): {message}")
    return channel_base, channel_max


def check_reduced(resolution: int | None, full: int) -> int:
    """A resolution that box means of a full image give; None is the full one.

    Raises ValueError: it is larger, or no divisor.
    """
    if resolution is None:
        return full
    if not isinstance(resolution, Integral) or not 1 <= resolution <= full or full % resolution:
        raise ValueError(f"resolution: got {resolution!r} px, expected {full} px divided by a power of two")
    return resolution


def even_taps(f: Tensor) -> Tensor:
    """A resampling filter with an even number of taps: an odd one gets a leading zero, which changes no result.

    Resampling by 2 pads an odd filter by one pixel less on the right (published `upfirdn2d`); the zero stands there.
    """
    return f if f.shape[0] % 2 == 0 else F.pad(f, (1, 0, 1, 0))


def check_architecture(architecture: str) -> str:
    """The name of a known architecture, or a ValueError that lists them."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
    return architecture


class FullyConnected(nn.Module):
    """Linear layer whose stored weight has unit variance; 1 / sqrt(in) is applied at run time (equalised rate).

    Args:
        act: one of `hyperinverter.ops.bias_act.ACTIVATION_GAINS`.
        lr_multiplier: scales the effective learning rate; the stored values are divided by it.
        bias_init: initial effective bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = check_activation(act)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor, weight_residual: Tensor | None = None, bias_residual: Tensor | None = None) -> Tensor:
        """[N, in] -> [N, out]; residuals [N, out, in] and [N, out] are added to the stored values image by image."""
        gain, rest = split_gain(self.act)  # folded into weight and bias where the activation allows
        y = F.linear(x, self.weight * (self.weight_gain * gain), self.bias * (self.bias_gain * gain))
        if weight_residual is not None:
            y = y + (weight_residual @ x.unsqueeze(-1)).squeeze(-1) * (self.weight_gain * gain)
        if bias_residual is not None:
            y = y + bias_residual * (self.bias_gain * gain)
        return activate_(y, self.act, gain=rest)


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, optional FIR resampling by 2, bias, activation and gain.

    Args:
        kernel_size: odd, pixels.
        act: one of `hyperinverter.ops.bias_act.ACTIVATION_GAINS`.
        up: 1, or 2 to double the size (1x1 only: the generator's residual skip).
        down: 1, or 2 to halve the size.
        clamp: limit of the output before `gain`; None means no limit.
        resample_filter: taps, used when up or down is 2.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act: str = "linear",
        bias: bool = True,
        up: int = 1,
        down: int = 1,
        clamp: float | None = None,
        resample_filter: Sequence[float] = RESAMPLE_TAPS,
    ) -> None:
        super().__init__()
        if up not in (1, 2) or down not in (1, 2) or (up == 2 and (kernel_size > 1 or down == 2)):
            raise ValueError(f"up and down are 1 or 2, up = 2 only with a 1x1 kernel; got {up}, {down}, {kernel_size}")
        self.act, self.up, self.down, self.clamp = check_activation(act), up, down, clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, gain: float = 1.0, weight_residual: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: [N, I, H, W].
            gain: multiplies the result (and its clamp).
            weight_residual: added to the stored weight image by image, [N or 1, O, I, k, k]; None means zero.
        Returns:
            [N, O, up H / down, up W / down].
        """
        before, after = split_gain(self.act, gain)
        weight: Tensor = self.weight
        if weight_residual is not None:
            weight = weight + (weight_residual[0] if weight_residual.shape[0] == 1 else weight_residual)
        weight = weight * (self.weight_gain * before)
        bias = None if self.bias is None else self.bias * before
        if self.down == 1:
            y = conv2d(x, weight, bias, padding=self.padding)
        elif self.padding == 0:  # 1x1: filter and decimate first, the convolution is then four times cheaper
            y = conv2d(downsample2d(x, even_taps(self.resample_filter)), weight, bias)
        else:
            f = even_taps(self.resample_filter)
            y = conv2d(filter2d(x, f, padding=self.padding + (f.shape[0] - 2) // 2), weight, bias, stride=2)
        if self.up == 2:
            y = upsample2d(y, even_taps(self.resample_filter))
        return activate_(y, self.act, None if self.clamp is None else self.clamp * gain, after)
