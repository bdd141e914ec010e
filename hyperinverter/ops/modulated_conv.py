"""Modulated convolution with one shared weight, or one weight per image.

Source: StyleGAN2 (arXiv:1912.04958), section 2.2; weight residuals: HyperInverter (arXiv:2112.00719), section 3.2.

Letters: N images, I input and O output channels, k kernel size, H and W pixels.

The published form modulates the weight, W'_oik = W_oik s_i, and divides it by its norm over (i, k). Convolution is
linear, so scaling the input channels by s and the output channels by d_o = 1 / sqrt(sum_ik (W_oik s_i)^2 + eps) gives
the same numbers with one plain convolution for the whole batch. Whichever is smaller is scaled: the weight where each
image has its own anyway or runs alone (on a CPU) and is larger than its kernel, the image elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hyperinverter.ops.conv2d import conv2d, conv_transpose2d, own_precision
from hyperinverter.ops.upfirdn2d import filter2d

DEMODULATION_EPS = 1e-8


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    weight_residual: Tensor | None = None,
    demodulate: bool = True,
    up: int = 1,
    resample_filter: Tensor | None = None,
    padding: int = 0,
    offset: Tensor | Sequence[Tensor] | None = None,
    gain: float = 1.0,
    energy: Tensor | None = None,
) -> Tensor:
    """Convolve with a weight that is scaled per image by its style, and optionally shifted per image by a residual.

    Args:
        x: [N, I, H, W].
        weight: stored weight [O, I, k, k], or one per image [N, O, I, k, k].
        styles: scale of each input channel, [N, I].
        weight_residual: added to the stored weight before modulation, [N or 1, O, I, k, k]; None means zero.
        demodulate: scale the output so that unit-variance input gives unit variance.
        up: 1, a correlation; or 2 to double the size: transposed convolution of stride 2, then `resample_filter`.
            What is transposed is a true convolution, whose kernel is rotated by 180 degrees (as published).
        resample_filter: FIR filter [T, T] of sum 1, needed when up is 2.
        padding: zeros on each side as for the convolution before up-sampling, pixels ((k - 1) / 2 keeps the size).
        offset: added after demodulation, broadcast to [N, O, up H, up W]: a tensor, or several (bias and noise, which
            apart are small and together as large as the result); None means zero.
        gain: multiplies the convolution but not the offset; callers fold the activation's gain in.
        energy: `kernel_energy` of the weight with its residual, where it is known from before; None computes it.
    Returns:
        [N, O, up H, up W] when padding is (k - 1) / 2.
    Raises:
        ValueError: shapes that do not fit, or an unsupported combination; says which.
    """
    _check_shapes(x, weight, styles, weight_residual)
    if up not in (1, 2):
        raise ValueError(f"up must be 1 or 2, got {up}")
    if up == 2 and (resample_filter is None or 2 * padding != weight.shape[-1] - 1 or resample_filter.shape[0] % 2):
        raise ValueError(
            f"up = 2 needs a resample_filter with an even number of taps and padding (k - 1) / 2, "
            f"got k = {weight.shape[-1]}, padding = {padding}; see hyperinverter.ops.upfirdn2d.setup_filter"
        )
    if weight_residual is not None:
        weight = weight + (weight_residual[0] if weight_residual.shape[0] == 1 else weight_residual)
    offsets = () if offset is None else (offset,) if isinstance(offset, Tensor) else tuple(offset)
    if weight.shape[-1] == 1 and up == 1 and padding == 0:
        factor = demodulation(weight, styles, energy) * gain if demodulate else gain
        return _plus(_pointwise(x, weight, styles, factor), offsets)
    scale = (demodulation(weight, styles, energy) * gain)[:, :, None, None] if demodulate else None
    if scales_weight(x, weight):
        kernel = weight * styles[:, None, :, None, None]  # [N, O, I, k, k]
        kernel = kernel * (gain if scale is None else scale.unsqueeze(-1))
        y = _convolve(x, kernel, up, padding, resample_filter)
        return _plus(y, offsets)
    y = _convolve(x * styles[:, :, None, None].to(x.dtype), weight, up, padding, resample_filter)
    if scale is None:
        return _plus(y if gain == 1 else y * gain, offsets)
    scale = scale.to(y.dtype)
    return _plus(_ScaleAdd.apply(y, scale, offsets[0].to(y.dtype)), offsets[1:]) if offsets else y * scale


def scales_weight(x: Tensor, weight: Tensor) -> bool:
    """Whether modulation scales the weight, for each image its own, rather than the image: by what is less to write.

    Args:
        x: the convolution's input [N, I, H, W].
        weight: [O, I, k, k] shared by all images, or [N, O, I, k, k].
    """
    if weight.ndim == 4 and (x.device.type != "cpu" or torch.is_grad_enabled()):
        return False  # one convolution of the whole batch, and one gradient, are worth more than a pass over it
    return weight.shape[-4] * weight.shape[-1] ** 2 <= x.shape[2] * x.shape[3]


def demodulation(weight: Tensor, styles: Tensor, energy: Tensor | None = None) -> Tensor:
    """Coefficients d [N, O] that bring the norm of each modulated kernel to 1.

    Args:
        weight: [O, I, k, k], or one per image [N, O, I, k, k].
        styles: [N, I].
        energy: `kernel_energy(weight)`; None computes it.
    """
    with own_precision(weight):  # squares leave the range of half precision
        energy = kernel_energy(weight) if energy is None else energy
        power = styles.to(energy.dtype).square()
        total = power @ energy.t() if energy.ndim == 2 else torch.bmm(energy, power.unsqueeze(2)).squeeze(2)
        return torch.rsqrt(total + DEMODULATION_EPS)


def kernel_energy(weight: Tensor) -> Tensor:
    """Sum of squares of each k x k kernel in full precision, [(N,) O, I, k, k] -> [(N,) O, I]."""
    with own_precision(weight):
        return _Energy.apply(weight if weight.dtype == torch.float64 else weight.float())


class _Energy(Function):
    """Sum of squares of each k x k kernel; with per-image weights autograd's own way costs as much as a convolution."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        squares = weight.square().flatten(-2)
        return squares @ squares.new_ones(squares.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return weight * (2 * grad)[..., None, None]


class _ScaleAdd(Function):
    """y * scale + offset in one pass; y [N, O, H, W], scale [N, O, 1, 1], offset broadcasts to y.

    Gradients are those of torch.addcmul, without its pass over y for a factor of 1, and with a sum over the batch that
    does not read memory across images (25 times slower on the CPU).
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        ctx.save_for_backward(y, scale)
        ctx.offset_shape = offset.shape
        return torch.addcmul(offset, y, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, scale = ctx.saved_tensors
        grad_y = grad_scale = grad_offset = None
        if ctx.needs_input_grad[0]:
            grad_y = grad * scale
        if ctx.needs_input_grad[1]:
            grad_scale = (grad * y).sum(dim=(2, 3), keepdim=True)
        if ctx.needs_input_grad[2]:
            grad_offset = _summed_to(grad, ctx.offset_shape)
        return grad_y, grad_scale, grad_offset


class _Add(Function):
    """y + offset in y's own memory; backward sums as `_ScaleAdd` does."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, offset: Tensor) -> Tensor:
        ctx.offset_shape = offset.shape
        ctx.mark_dirty(y)
        return y.add_(offset)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, _summed_to(grad, ctx.offset_shape) if ctx.needs_input_grad[1] else None


def _plus(y: Tensor, offsets: Sequence[Tensor]) -> Tensor:
    """y plus all offsets; overwrites y."""
    for offset in offsets:
        offset = offset.to(y.dtype)
        y = _Add.apply(y, offset) if torch.is_grad_enabled() else y.add_(offset)  # torch.compile does not follow `_Add`
    return y


def _summed_to(grad: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of something that was broadcast from `shape` to grad's shape [N, O, H, W]."""
    if shape == (1, *grad.shape[1:]):
        pixels = grad.permute(0, 2, 3, 1)  # [N, H, W, O], contiguous where grad is channels_last
        total = pixels.reshape(len(grad), -1).sum(dim=0)
        return total.reshape(1, *pixels.shape[1:]).permute(0, 3, 1, 2)
    if shape[1:] == (1, *grad.shape[2:]):  # noise: first over the channels, which lie side by side
        return grad.sum(dim=1, keepdim=True).sum_to_size(shape)
    return grad.sum_to_size(shape)


def _pointwise(x: Tensor, weight: Tensor, styles: Tensor, scale: Tensor | float) -> Tensor:
    """1x1: modulating the weight is cheaper than the image, and one matrix product per image does the rest."""
    n, _, h, w = x.shape
    modulated = weight[..., 0, 0] * styles.unsqueeze(1)  # [N, O, I]
    modulated = modulated * (scale.unsqueeze(2) if isinstance(scale, Tensor) else scale)
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, -1)  # a view where x is channels_last
    y = torch.bmm(pixels, modulated.transpose(1, 2).to(x.dtype))  # [N, H W, O]
    return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)


def _convolve(x: Tensor, weight: Tensor, up: int, padding: int, f: Tensor | None) -> Tensor:
    if up == 1:
        return conv2d(x, weight, padding=padding)
    y = conv_transpose2d(x, weight.transpose(-4, -3), stride=2)
    assert f is not None  # `modulated_conv2d` has looked
    # It gives 2 H + k - 2 pixels and the filter takes T - 1 away; this padding leaves 2 H.
    return filter2d(y, f, padding=(f.shape[0] + 1 - weight.shape[-1]) // 2, gain=4.0)


def _check_shapes(x: Tensor, weight: Tensor, styles: Tensor, residual: Tensor | None) -> None:
    own = weight.ndim == 5 and weight.shape[0] == x.shape[0] and residual is None
    if x.ndim != 4 or (weight.ndim != 4 and not own) or x.shape[1] != weight.shape[-3]:
        got = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"expected x [N, I, H, W] and weight [O, I, k, k] with equal I, got {got}")
    if styles.shape != x.shape[:2]:
        raise ValueError(f"styles must be [N, I] = {tuple(x.shape[:2])}, got {tuple(styles.shape)}")
    if residual is not None and (residual.shape[1:] != weight.shape or residual.shape[0] not in (1, x.shape[0])):
        expected = f"[N, O, I, k, k] = {(x.shape[0], *weight.shape)} (or N = 1)"
        raise ValueError(f"weight_residual must be {expected}, got {tuple(residual.shape)}")
