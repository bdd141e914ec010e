"""Modulated convolution with one shared weight, or one weight per image.

Source: StyleGAN2 (arXiv:1912.04958), section 2.2; weight residuals: HyperInverter (arXiv:2112.00719), section 3.2.

Letters: N images, I input and O output channels, k kernel size, H and W pixels.

The published form modulates the weight, W'_oik = W_oik s_i, and divides it by its norm over (i, k). Convolution is
linear, so scaling the input channels by s and the output channels by d_o = 1 / sqrt(sum_ik (W_oik s_i)^2 + eps) gives
the same numbers with one plain convolution for the whole batch.
"""

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
    flip_weight: bool | None = None,
    padding: int = 0,
    offset: Tensor | None = None,
    gain: float = 1.0,
) -> Tensor:
    """Convolve with a weight that is scaled per image by its style, and optionally shifted per image by a residual.

    Args:
        x: [N, I, H, W].
        weight: stored weight [O, I, k, k].
        styles: scale of each input channel, [N, I].
        weight_residual: added to the stored weight before modulation, [N or 1, O, I, k, k]; None means zero.
        demodulate: scale the output so that unit-variance input gives unit variance.
        up: 1, or 2 to double the size: transposed convolution of stride 2, then `resample_filter`.
        resample_filter: FIR filter [T, T] of sum 1, needed when up is 2.
        flip_weight: False applies the kernel as a true convolution (rotated by 180 degrees), True as a correlation.
            None takes the published setting: correlation when up is 1, convolution when up is 2.
        padding: zeros on each side as for the convolution before up-sampling, pixels ((k - 1) / 2 keeps the size).
        offset: added after demodulation (bias and noise), broadcast to [N, O, up H, up W]; None means zero.
        gain: multiplies the convolution but not the offset; callers fold the activation's gain in.
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
    flip_weight = (up == 1) if flip_weight is None else flip_weight
    if weight_residual is not None and weight_residual.shape[0] == 1:
        weight, weight_residual = weight + weight_residual[0], None
    if weight_residual is not None:
        weight = weight + weight_residual  # [N, O, I, k, k]
    if weight.shape[-1] == 1 and up == 1 and padding == 0:
        y = _pointwise(x, weight, styles)
    else:
        y = _convolve(x * styles[:, :, None, None], weight, up, flip_weight, padding)
    if up == 2:
        # The transposed convolution gives 2 H + k - 2 pixels and the filter takes T - 1 away; this padding leaves 2 H.
        margin = (resample_filter.shape[0] + 1 - weight.shape[-1]) // 2
        y = filter2d(y, resample_filter, padding=margin, gain=4.0)
    if demodulate:
        scale = (demodulation(weight, styles) * gain)[:, :, None, None].to(y.dtype)
        return y * scale if offset is None else _ScaleAdd.apply(y, scale, offset.to(y.dtype))
    y = y if gain == 1 else y * gain
    return y if offset is None else y + offset.to(y.dtype)


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Coefficients d [N, O] that bring the norm of each modulated kernel to 1.

    Args:
        weight: [O, I, k, k], or one per image [N, O, I, k, k].
        styles: [N, I].
    """
    with own_precision(weight):  # squares leave the range of half precision
        weight = weight if weight.dtype == torch.float64 else weight.float()
        energy = _Energy.apply(weight)  # [O, I] or [N, O, I]
        power = styles.to(energy.dtype).square()
        total = power @ energy.t() if energy.ndim == 2 else torch.bmm(energy, power.unsqueeze(2)).squeeze(2)
        return torch.rsqrt(total + DEMODULATION_EPS)


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
            if ctx.offset_shape == (1, *grad.shape[1:]):
                pixels = grad.permute(0, 2, 3, 1)  # [N, H, W, O], contiguous where grad is channels_last
                total = pixels.reshape(len(grad), -1).sum(dim=0)
                grad_offset = total.reshape(1, *pixels.shape[1:]).permute(0, 3, 1, 2)
            else:
                grad_offset = grad.sum_to_size(ctx.offset_shape)
        return grad_y, grad_scale, grad_offset


def _pointwise(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """1x1: modulating the weight is cheaper than the image, and one matrix product per image does the rest."""
    n, _, h, w = x.shape
    modulated = weight[..., 0, 0] * styles.unsqueeze(1)  # [N, O, I]
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, -1)  # a view where x is channels_last
    y = torch.bmm(pixels, modulated.transpose(1, 2).to(x.dtype))  # [N, H W, O]
    return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)


def _convolve(x: Tensor, weight: Tensor, up: int, flip_weight: bool, padding: int) -> Tensor:
    if up == 1:
        return conv2d(x, weight if flip_weight else weight.flip(-1, -2), padding=padding)
    # A transposed convolution is a true one: the flip is the other way round.
    return conv_transpose2d(x, (weight.flip(-1, -2) if flip_weight else weight).transpose(-4, -3), stride=2)


def _check_shapes(x: Tensor, weight: Tensor, styles: Tensor, residual: Tensor | None) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        got = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"expected x [N, I, H, W] and weight [O, I, k, k] with equal I, got {got}")
    if styles.shape != x.shape[:2]:
        raise ValueError(f"styles must be [N, I] = {tuple(x.shape[:2])}, got {tuple(styles.shape)}")
    if residual is not None and (residual.shape[1:] != weight.shape or residual.shape[0] not in (1, x.shape[0])):
        expected = f"[N, O, I, k, k] = {(x.shape[0], *weight.shape)} (or N = 1)"
        raise ValueError(f"weight_residual must be {expected}, got {tuple(residual.shape)}")
