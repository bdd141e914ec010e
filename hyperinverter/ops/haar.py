"""The 2D Haar transform between an image's pixels and four bands of half its size, differentiable any number of times.

Letters: N images, C channels, S side in px.
"""

from typing import Any

import torch
from torch import Tensor


def inverse_haar(x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Inverse 2D Haar transform of x, or of x times scales [N, 4C]: [N, 4C, S, S] -> [N, C, 2S, 2S].

    The channels are four bands low, lh, hl, hh of C each. A pair (low, high) becomes (low + high, low - high) / sqrt 2,
    first along rows for (low, lh) and (hl, hh), then along columns.
    """
    if torch.is_grad_enabled():
        return _InverseHaar.apply(x if scales is None else x * scales[:, :, None, None])
    return _sums(x * (0.5 if scales is None else 0.5 * scales[:, :, None, None]))


class _InverseHaar(torch.autograd.Function):
    """The transform is orthonormal: each direction is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sums(x * 0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Haar.apply(gradient)


class _Haar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _to_bands(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _InverseHaar.apply(gradient)


def _sums(x: Tensor) -> Tensor:
    """The transform of 2 x."""
    n, channels, height, width = x.shape
    low, lh, hl, hh = x.chunk(4, dim=1)
    out = _empty(n, channels // 4, 2 * height, 2 * width, x)
    even, even_high = low + lh, hl + hh
    torch.add(even, even_high, out=out[:, :, 0::2, 0::2])
    torch.sub(even, even_high, out=out[:, :, 0::2, 1::2])
    odd, odd_high = torch.sub(low, lh, out=even), torch.sub(hl, hh, out=even_high)
    torch.add(odd, odd_high, out=out[:, :, 1::2, 0::2])
    torch.sub(odd, odd_high, out=out[:, :, 1::2, 1::2])
    return out


def _to_bands(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    out = _empty(n, 4 * channels, height // 2, width // 2, x)
    low, lh, hl, hh = out.chunk(4, dim=1)
    first, second = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2]
    third, fourth = x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
    even, even_high, odd, odd_high = first + second, first - second, third + fourth, third - fourth
    torch.add(even, odd, out=low)
    torch.sub(even, odd, out=lh)
    torch.add(even_high, odd_high, out=hl)
    torch.sub(even_high, odd_high, out=hh)
    return out.mul_(0.5)


def _empty(n: int, channels: int, height: int, width: int, like: Tensor) -> Tensor:
    size = (n, channels, height, width)
    return torch.empty(size, device=like.device, dtype=like.dtype, memory_format=torch.channels_last)
