"""Layers that the StyleGAN2 generator and discriminator share: equalised linear and convolution, and the size rules.

Source: StyleGAN2 (arXiv:1912.04958) and its ADA version (arXiv:2006.06676); parameter names as published by NVIDIA.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.ops.bias_act import ACTIVATION_GAINS, activate_
from hyperinverter.ops.conv2d import conv2d
from hyperinverter.ops.upfirdn2d import downsample2d, filter2d, setup_filter


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ... resolution, pixels.

    Raises:
        ValueError: the resolution is not a power of two of at least 8.
    """
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


class FullyConnected(nn.Module):
    """Linear layer whose stored weight has unit variance; 1 / sqrt(in) is applied at run time (equalised rate).

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        act: "linear" or "lrelu".
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
        self.act = act
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor, weight_residual: Tensor | None = None, bias_residual: Tensor | None = None) -> Tensor:
        """[N, in] -> [N, out]; residuals [N, out, in] and [N, out] are added to the stored values image by image."""
        gain = ACTIVATION_GAINS[self.act]  # folded into weight and bias: the activations are positively homogeneous
        y = F.linear(x, self.weight * (self.weight_gain * gain), self.bias * (self.bias_gain * gain))
        if weight_residual is not None:
            y = y + (weight_residual @ x.unsqueeze(-1)).squeeze(-1) * (self.weight_gain * gain)
        if bias_residual is not None:
            y = y + bias_residual * (self.bias_gain * gain)
        return activate_(y, self.act)


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, optional FIR down-sampling by 2, bias, activation and gain.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd, pixels.
        act: "linear" or "lrelu".
        bias: whether a bias is learned.
        down: 1, or 2 to halve the size.
        clamp: limit of the output before `gain`; None means no limit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        act: str = "linear",
        bias: bool = True,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.down, self.clamp = act, down, clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter())
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[N, I, H, W] -> [N, O, H / down, W / down]; `gain` multiplies the result (and its clamp)."""
        total_gain = gain * ACTIVATION_GAINS[self.act]
        weight = self.weight * (self.weight_gain * total_gain)
        bias = None if self.bias is None else self.bias * total_gain
        if self.down == 1:
            y = conv2d(x, weight, bias, padding=self.padding)
        elif self.padding == 0:  # 1x1: filter and decimate first, the convolution is then four times cheaper
            y = conv2d(downsample2d(x, self.resample_filter), weight, bias)
        else:
            margin = self.padding + (self.resample_filter.shape[0] - self.down) // 2
            y = conv2d(filter2d(x, self.resample_filter, padding=margin), weight, bias, stride=self.down)
        return activate_(y, self.act, None if self.clamp is None else self.clamp * gain)
