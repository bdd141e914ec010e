"""Convolution whose second derivatives are as fast as its first, for gradient penalties. Source: ours, from linearity.

PyTorch differentiates a convolution twice through general formulas: it also computes gradients of weights that need
none, group by group, and uses the output gradient as an image-sized kernel. R1 (StyleGAN2, arXiv:1912.04958, section B)
and path length regularisation (section 3.2) pay for that. A convolution is bilinear in image and weight, so each of its
derivatives is a convolution, its adjoint (a transposed convolution), or its weight gradient; this file says so.

Letters: N images, I input and O output channels, k kernel size, H and W pixels.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Correlate with a kernel, as `torch.nn.functional.conv2d`, or with one kernel per image; obeys autocast.

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k], or one per image [N, O, I, k, k].
        bias: [O], or None.
        stride: decimation, pixels.
        padding: zeros on each side, pixels.
    Returns:
        [N, O, (H + 2 padding - k) // stride + 1, same of W].
    """
    x, weight, bias = _autocast(x, weight, bias)
    return _Convolution.apply(x, weight, bias, Geometry(stride, padding))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """The adjoint of `conv2d`: x [N, I, H, W], weight [(N,) I, O, k, k] -> [N, O, (H - 1) stride + k, same of W]."""
    x, weight, _ = _autocast(x, weight, None)
    return _Convolution.apply(x, weight, None, Geometry(stride, transposed=True))


def grouped_conv2d(x: Tensor, weight: Tensor, geometry: "Geometry") -> Tensor:
    """Convolution of any `Geometry` in x's own precision, also under autocast; the weight has x's dtype."""
    return _Convolution.apply(x, weight, None, geometry)


class Geometry(NamedTuple):
    """How a convolution moves over the image; sizes in pixels."""

    stride: int = 1
    padding: int = 0
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def arguments(self) -> tuple[Any, ...]:
        """As torch.convolution takes them, from the stride on."""
        stride, padding = [self.stride] * 2, [self.padding] * 2
        return stride, padding, [1, 1], self.transposed, list(self.output_padding), self.groups

    def adjoint(self, x: torch.Size, y: Tensor, weight: Tensor) -> "Geometry":
        """The geometry that takes y's gradient to that of an image of shape x with the same weight."""
        if self.transposed:
            return self._replace(transposed=False, output_padding=(0, 0))
        k = weight.shape[-1]
        rest = [x[d] - ((y.shape[d] - 1) * self.stride - 2 * self.padding + k) for d in (2, 3)]
        return self._replace(transposed=True, output_padding=(rest[0], rest[1]))


class _Convolution(Function):
    """y = convolution(x, weight) + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        # The image is needed for the weight's gradient alone: frozen kernels and fixed filters keep none.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.geometry = x.shape, geometry
        with own_precision(x):
            if weight.ndim == 5:
                y = _convolve_each(x, weight, geometry)
                return y if bias is None else y + bias[:, None, None]
            if _lacks_half_kernel(x, geometry):
                return torch.convolution(x.float(), weight.float(), bias, *geometry.arguments()).to(x.dtype)
            return torch.convolution(x, weight, bias, *geometry.arguments())

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _apply_adjoint(grad_y, ctx.shape, weight, ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = _WeightGradient.apply(x, grad_y, weight, ctx.geometry)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_y.sum(dim=(0, 2, 3))
        return grad_x, grad_weight, grad_bias, None


class _WeightGradient(Function):
    """Gradient of <convolution(x, weight), grad_y> to the weight: bilinear in x and grad_y, shaped like `weight`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad_y: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, grad_y)
        ctx.geometry = geometry
        with own_precision(x):
            return (_weight_gradient_of_each if weight.ndim == 5 else _weight_gradient)(x, grad_y, weight, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, grad_y = ctx.saved_tensors
        grad_x = grad_grad_y = None
        if ctx.needs_input_grad[0]:
            grad_x = _apply_adjoint(grad_y, x.shape, grad, ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_grad_y = _Convolution.apply(x, grad, None, ctx.geometry)
        return grad_x, grad_grad_y, None, None


def _lacks_half_kernel(x: Tensor, geometry: Geometry) -> bool:
    """The adjoint of filtered down-sampling: a CPU has no fast kernel for it in half precision (20 times slower)."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    return half and x.device.type == "cpu" and geometry.transposed and geometry.groups > 1


def _apply_adjoint(grad_y: Tensor, x: torch.Size, weight: Tensor, geometry: Geometry) -> Tensor:
    if geometry.stride == 1 and not geometry.transposed and weight.ndim == 4 and weight.shape[1] == 1:
        # One input channel per group: the adjoint is a convolution with the rotated kernel, on the CPU twice as fast.
        rotated = geometry._replace(padding=weight.shape[-1] - 1 - geometry.padding)
        if rotated.padding >= 0 and geometry.groups == weight.shape[0]:
            return _Convolution.apply(grad_y, weight.flip(2, 3), None, rotated)
    return _Convolution.apply(grad_y, weight, None, geometry.adjoint(x, grad_y, weight))


def _convolve_each(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Image n with kernel n: one grouped convolution on a GPU; on the CPU one by one, which keeps channels_last."""
    if x.device.type != "cpu":
        return _convolve_grouped(x, weight, geometry)
    images = zip(x.split(1), weight.unbind(), strict=True)
    if len(x) == 1:
        return torch.convolution(x, weight[0], None, *geometry.arguments())
    return torch.cat([torch.convolution(image, kernel, None, *geometry.arguments()) for image, kernel in images])


def _weight_gradient_of_each(x: Tensor, grad_y: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if x.device.type != "cpu":
        return _weight_gradient_grouped(x, grad_y, weight, geometry)
    images = zip(x.split(1), grad_y.split(1), weight.unbind(), strict=True)
    return torch.stack([_weight_gradient(*image, geometry) for image in images])


def _convolve_grouped(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    geometry = geometry._replace(groups=len(x))
    y = torch.convolution(_side_by_side(x), weight.flatten(0, 1), None, *geometry.arguments())
    return y.reshape(len(x), -1, *y.shape[2:]).contiguous(memory_format=torch.channels_last)


def _weight_gradient_grouped(x: Tensor, grad_y: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    geometry = geometry._replace(groups=len(x))
    grad = _weight_gradient(_side_by_side(x), _side_by_side(grad_y), weight.flatten(0, 1), geometry)
    return grad.reshape(weight.shape)


def _weight_gradient(x: Tensor, grad_y: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    only_weight = [False, True, False]
    return torch.ops.aten.convolution_backward(grad_y, x, weight, None, *geometry.arguments(), only_weight)[1]


def _side_by_side(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [1, N C, H, W]."""
    return x.reshape(1, -1, *x.shape[2:])


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """What autocast does to convolutions, done here because it does not reach into `Function`."""
    if x.dtype != torch.float64 and _autocasts(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return x, weight, bias


def own_precision(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations keep x's dtype, also under autocast."""
    return torch.autocast(device_type=x.device.type, enabled=False) if _autocasts(x) else nullcontext()


def _autocasts(x: Tensor) -> bool:
    kind = x.device.type  # torch refuses the second question for devices without autocast ("meta")
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
