"""The released code's operations, as a rendering from their description: what our own operations are timed against.

Nothing here is used by the method. It follows what the published StyleGAN2-ADA operations do without their compiled
CUDA plugins (bias, activation and gain one after the other; zeros inserted and padded before a depthwise filter; a
modulated weight per image in one grouped convolution), and is written without reading them.

Source: StyleGAN2-ADA (arXiv:2006.06676), HyperInverter's release (VinAIResearch/HyperInverter, 3966220) as described in
its own README, and the shapes of its checkpoints. Letters: N images, I and O channels, k kernel side, T filter taps.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE, LRELU_GAIN = 0.2, math.sqrt(2.0)
EPS = 1e-8


def bias_act(x: Tensor, b: Tensor | None, act: str = "linear", gain: float = 1.0, clamp: float | None = None) -> Tensor:
    """Bias, activation (linear or lrelu with its gain), `gain` and clamp, one pass over memory each."""
    if b is not None:
        x = x + b.reshape(1, -1, *[1] * (x.ndim - 2))
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
        gain = gain * LRELU_GAIN
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def upfirdn2d(
    x: Tensor, f: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1.0
) -> Tensor:
    """Insert zeros, pad, filter every channel, decimate.

    Args:
        x: [N, C, H, W].
        f: filter [T, T], applied as a true convolution.
        up: every pixel becomes up x up, of which one is not zero.
        down: every down-th pixel is kept.
        pad: zeros before and after, on both axes, pixels.
        gain: multiplies the filter.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    if pad != (0, 0):
        x = F.pad(x, (*pad, *pad))
    kernel = (f * gain).flip(0, 1).to(x.dtype)[None, None].repeat(c, 1, 1, 1)
    x = F.conv2d(x, kernel, groups=c)
    return x[:, :, ::down, ::down] if down > 1 else x


def upsample2d(image: Tensor, f: Tensor) -> Tensor:
    """Double the size of an image; the mean is kept."""
    taps = f.shape[0]
    return upfirdn2d(image, f, up=2, pad=((taps + 1) // 2, (taps - 2) // 2), gain=4.0)


def conv2d_resample(
    x: Tensor, weight: Tensor, f: Tensor | None = None, up: int = 1, down: int = 1, groups: int = 1
) -> Tensor:
    """A convolution that keeps, doubles or halves the size: the filter is a pass of its own.

    Args:
        weight: [groups O, I, k, k]; correlated, but a true convolution where `up` is 2 (published).
        f: filter of `up` and `down`.
    """
    k = weight.shape[-1]
    taps = 0 if f is None else f.shape[0]
    if up == 2:
        each = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)  # [groups, I, O, k, k]
        x = F.conv_transpose2d(x, each.reshape(-1, *each.shape[2:]), stride=2, groups=groups)
        pad = (k // 2 + (taps + 1) // 2 - (k - 1), k // 2 + (taps - 2) // 2 - (k - 2))
        return upfirdn2d(x, f, pad=pad, gain=4.0)
    if down == 2:
        pad = (k // 2 + (taps - 1) // 2, k // 2 + (taps - 2) // 2)
        if k == 1:
            return F.conv2d(upfirdn2d(x, f, down=2, pad=pad), weight, groups=groups)
        return F.conv2d(upfirdn2d(x, f, pad=pad), weight, stride=2, groups=groups)
    return F.conv2d(x, weight, padding=k // 2, groups=groups)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool,
    up: int = 1,
    f: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """One weight per image, all in one grouped convolution ("fused").

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k].
        styles: [N, I].
        noise: added to the result, broadcast to it.
    """
    n, _, h, w = x.shape
    each = weight[None] * styles[:, None, :, None, None]  # [N, O, I, k, k]
    if demodulate:
        each = each * torch.rsqrt(each.square().sum(dim=(2, 3, 4)) + EPS)[:, :, None, None, None]
    y = conv2d_resample(x.reshape(1, -1, h, w), each.reshape(-1, *weight.shape[1:]), f, up, groups=n)
    y = y.reshape(n, -1, *y.shape[2:])
    return y if noise is None else y.add_(noise)


def fully_connected(x: Tensor, weight: Tensor, bias: Tensor | None, lr_multiplier: float = 1.0) -> Tensor:
    """x W^T / sqrt(in) + b, both scaled at run time; [N, in] -> [N, out]."""
    weight = weight * (lr_multiplier / math.sqrt(weight.shape[1]))
    return F.linear(x, weight, None if bias is None else bias * lr_multiplier)
