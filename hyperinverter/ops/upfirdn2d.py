"""Resampling by a FIR filter: zero insertion, filtering, decimation. Source: StyleGAN2 (arXiv:1912.04958), section B.

Letters: N images, C channels, H and W pixels, T filter taps. Filters have the sum 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperinverter.ops.conv2d import Geometry, grouped_conv2d


def setup_filter(taps: Sequence[float] = (1, 3, 3, 1)) -> Tensor:
    """Two-dimensional filter from one-dimensional taps: the outer product, normalised to the sum 1, [T, T]."""
    total = sum(taps)
    if total == 0:
        raise ValueError(f"filter taps must be a list of numbers with a sum other than zero, got {taps!r}")
    line = torch.tensor(taps, dtype=torch.float32) / total
    return torch.outer(line, line)


def filter2d(x: Tensor, f: Tensor, *, padding: int = 0, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Convolve every channel with the filter, then keep every `stride`-th pixel.

    Args:
        x: [N, C, H, W].
        f: filter [T, T].
        padding: zeros added on each side, pixels.
        stride: decimation, pixels.
    Returns:
        [N, C, (H + 2 padding - T) // stride + 1, same of W].
    """
    kernel = _depthwise_kernel(x, f.flip(0, 1), gain)
    return grouped_conv2d(x, kernel, Geometry(stride, padding, groups=x.shape[1]))


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Enlarge [N, C, H, W] to [N, C, up H, up W], keeping the mean (gain up²). T - up must be even."""
    kernel = _depthwise_kernel(x, f, float(up * up))
    return grouped_conv2d(x, kernel, Geometry(up, _crop(f, up), transposed=True, groups=x.shape[1]))


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Shrink [N, C, H, W] to [N, C, H / down, W / down], keeping the mean. T - down must be even."""
    return filter2d(x, f, padding=_crop(f, down), stride=down)


def _crop(f: Tensor, factor: int) -> int:
    """Pixels on each side by which the filtered image is larger than the resampled one."""
    surplus = f.shape[0] - factor
    if f.ndim != 2 or f.shape[0] != f.shape[1] or surplus < 0 or surplus % 2:
        raise ValueError(f"resampling by {factor} needs a square filter with {factor} + 2n taps, got {tuple(f.shape)}")
    return surplus // 2


def _depthwise_kernel(x: Tensor, f: Tensor, gain: float) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"expected images [N, C, H, W], got {tuple(x.shape)}")
    return (f * gain).to(x.dtype).expand(x.shape[1], 1, -1, -1)
