"""Layers of MobileStyleGAN's synthesis network, each with weight residuals per image.

Source: MobileStyleGAN (Belousov, 2021, arXiv:2104.04767), section 3, with demodulation folded into the kernels.
Letters: N images, S side of a layer in px, I and O input and output channels, M = N, or 1 for what the batch shares.

Layers also draw some of their rows: `rows` of the result, for which x holds one more on either side for every 3x3
kernel, where there are any (`around`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.models.residuals import ChannelScales, Residuals, part_of, residual_of, with_residual
from hyperinverter.ops.bias_act import LRELU_SLOPE
from hyperinverter.ops.haar import inverse_haar
from hyperinverter.utils.distributed import randn_rows

# A strip of a layer has about this many numbers: 8 MB, which a process that does not `keep_freed_memory` gets back
# without page faults; whole maps are a sixth to a half slower there. Smaller ones leave less to two cores at once.
STRIP_NUMBERS = 1 << 21


class Modulation(nn.Module):
    """Style of a layer: w [N, w_dim] -> scales of its input channels [N, C]."""

    def __init__(self, w_dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, w_dim) / math.sqrt(w_dim))
        self.bias = nn.Parameter(torch.ones(channels))

    def forward(self, w: Tensor, residuals: Residuals) -> Tensor:
        """w [N, w_dim] -> [N, C]."""
        scales = F.linear(w, self.weight, self.bias)
        weight, bias = residual_of(residuals, "weight"), residual_of(residuals, "bias")
        if weight is not None:
            scales = scales + (weight @ w.unsqueeze(-1)).squeeze(-1)
        return scales if bias is None else scales + bias


class Up(nn.Module):
    """Modulated inverse Haar transform: doubles the side, quarters the channels."""

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.modulation = Modulation(w_dim, channels)

    def forward(self, x: Tensor, scales: Tensor) -> Tensor:
        """x [N, C, S, S], scales [N, C] -> [N, C/4, 2S, 2S]."""
        return inverse_haar(x, scales)


class StyledConv(nn.Module):
    """Style, 3x3 convolution (a full kernel, or depthwise then pointwise), noise, bias, leaky ReLU without gain."""

    noise_const: Tensor

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, *, size: int, separable: bool = False) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(9 * in_channels)
        self.modulation = Modulation(w_dim, in_channels)
        self.kernels = ("depthwise", "pointwise") if separable else ("weight",)
        if separable:
            self.depthwise = nn.Parameter(torch.randn(in_channels, 1, 3, 3))
            self.pointwise = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        else:
            self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("noise_const", torch.zeros(size, size))

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        residuals: Residuals,
        noise_mode: str,
        rows: slice | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """x [N, I, S, S], w [N, w_dim] -> [N, O, S, S], or `rows` of it; `out`: written into, as of `conv2d`."""
        scales = self.modulation(w, part_of(residuals, "modulation")) * self.scale
        (first, gains), *rest = [_scaled(getattr(self, kernel), residuals, kernel) for kernel in self.kernels]
        bias = with_residual(self.bias, residuals, "bias")
        if rest:  # of a depthwise kernel, output channels are input channels
            x = conv2d(x, first, None, scales if gains is None else scales * gains, groups=x.shape[1])
            if rows is not None:
                x = x[:, :, (top := min(rows.start, 1)) : top + rows.stop - rows.start]
            (first, gains), scales = rest[0], None
        noise = None
        if noise_mode != "none":
            noise = self.noise_const[rows or slice(None)]
            if noise_mode == "random":
                noise = noise.std() * randn_rows(len(x), 1, *noise.shape, shared=self.training, device=x.device)
        x = conv2d(x, first, bias, scales, gains, noise=noise, out=out)
        return F.leaky_relu(x, LRELU_SLOPE, inplace=not torch.is_grad_enabled())


class MobileLayer(nn.Module):
    """One resolution: modulated inverse Haar transform, two separable convolutions."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, *, size: int) -> None:
        super().__init__()
        self.size = size
        self.up = Up(in_channels, w_dim)
        self.conv1 = StyledConv(in_channels // 4, out_channels, w_dim, size=size, separable=True)
        self.conv2 = StyledConv(out_channels, out_channels, w_dim, size=size, separable=True)

    def forward(
        self,
        x: Tensor,
        ws: Tensor,
        residuals: Residuals,
        noise_mode: str,
        rows: slice | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """x [N, I, S/2, S/2], ws [N, 3, w_dim] -> [N, O, S, S], or `rows` of it, from and to an even one."""
        x = self.up(x, self.up.modulation(ws[:, 0], part_of(residuals, "up.modulation")))
        wider = None if rows is None else around(rows, 1, self.size)
        x = self.conv1(x, ws[:, 0], part_of(residuals, "conv1"), noise_mode, wider)
        return self.conv2(x, ws[:, 1], part_of(residuals, "conv2"), noise_mode, rows, out)

    def in_strips(
        self,
        x: Tensor,
        ws: Tensor,
        residuals: Residuals,
        noise_mode: str,
        head: "Head | None" = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """What `forward` gives for one image, strip by strip, plus `added`; with a head the image that it draws."""
        size, channels = self.size, self.conv2.bias.shape[0]
        height = min(max(8, STRIP_NUMBERS // (size * channels) // 2 * 2), size)
        halo, scale = (0, 1) if head is None else (head.halo, head.scale)
        kept = 2 * halo  # rows of the strip before, which the head still needs
        held = _empty(x, channels, kept + height if head is not None else size, size)
        image = held if head is None else _empty(x, 3, scale * size, scale * size)
        for top in range(0, size, height):
            rows = slice(top, min(top + height, size))
            place = slice(kept, kept + rows.stop - top) if head is not None else rows
            part = x[:, :, around(slice(top // 2, rows.stop // 2), 1, size // 2)]
            strip = self(part, ws, residuals, noise_mode, rows, held[:, :, place])
            if added is not None:
                strip += added[:, :, rows]
            if head is not None:
                drawn = slice(max(top - halo, 0), rows.stop if rows.stop == size else rows.stop - halo)
                given = held[:, :, place.start - min(kept, top) : place.stop]
                image[:, :, scale * drawn.start : scale * drawn.stop] = head.draw(given, drawn)
                held[:, :, :kept] = held[:, :, height : height + kept]
        return image


class ToImage(nn.Module):
    """Style and modulated 1x1 convolution, without demodulation."""

    kernels = ("weight",)

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(in_channels)
        self.modulation = Modulation(w_dim, in_channels)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals) -> Tensor:
        """x [N, I, S, S], w [N, w_dim] -> [N, O, S, S]."""
        scales = self.modulation(w, part_of(residuals, "modulation")) * self.scale
        bias = with_residual(self.bias, residuals, "bias")
        return conv2d(x, with_residual(self.weight, residuals, "weight"), bias, scales)


class EarlyHead(nn.Module):
    """Draws the image reduced to a quarter from the last but one layer: two separable convolutions and 1x1 to RGB."""

    halo = 2  # of two 3x3 kernels

    def __init__(self, in_channels: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv1 = StyledConv(in_channels, channels, w_dim, size=1, separable=True)
        self.conv2 = StyledConv(channels, channels, w_dim, size=1, separable=True)
        self.to_img = ToImage(channels, 3, w_dim)

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals, rows: slice | None = None) -> Tensor:
        """x [N, I, S, S], w [N, w_dim] -> [N, 3, S, S], or `rows` of it."""
        wider = None if rows is None else around(rows, 1, x.shape[-1])
        x = self.conv1(x, w, part_of(residuals, "conv1"), "none", wider)
        x = self.conv2(x, w, part_of(residuals, "conv2"), "none", rows)
        return self.to_img(x, w, part_of(residuals, "to_img"))


class Head(NamedTuple):
    """What draws an image from a layer's features.

    Attributes:
        draw: features [N, C, S, S] -> [N, 3, scale S, scale S], or, of some rows of the features, those of the image.
        halo: rows of features that it needs on either side of those that it draws.
        scale: how many rows of the image it draws for one of the features.
    """

    draw: Callable[[Tensor, slice | None], Tensor]
    halo: int
    scale: int


def around(rows: slice, count: int, size: int) -> slice:
    """Rows and `count` more on either side, where there are any."""
    return slice(max(rows.start - count, 0), min(rows.stop + count, size))


def _empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """[N, channels, height, width], as many images and on the device as x."""
    shape = (len(x), channels, height, width)
    return torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=torch.channels_last)


def _scaled(parameter: Tensor, residuals: Residuals, name: str) -> tuple[Tensor, Tensor | None]:
    """A kernel [M, *shape], and by what its output channels [M, O] are multiplied; None: by nothing."""
    residual = residuals.get(name)
    if isinstance(residual, ChannelScales) and residual.scales.shape[1] > 1:
        return parameter.unsqueeze(0), residual.factors[:, :, 0, 0, 0]
    return with_residual(parameter, residuals, name), None


def conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    scales: Tensor | None = None,
    gains: Tensor | None = None,
    groups: int = 1,
    noise: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Convolution with scaled input and output channels and a kernel per image.

    Args:
        x: [N, I, S, S].
        kernel: [M, O, I/groups, k, k].
        bias: [M, O], or None.
        scales: of the input channels [N, I], or None.
        gains: of the output channels [M, O] before the bias, or None; not with `groups`.
        groups: 1, or I (depthwise).
        noise: added to every channel, [S, S] or [N, 1, S, S], or None.
        out: where the result of one image is written, channels last; for pointwise kernels without gradients.
    Returns:
        [N, O, S, S].
    """
    n, side, pixels = len(x), kernel.shape[-1], x.shape[2] * x.shape[3]
    if scales is not None and n == 1 and kernel.numel() <= x.numel():  # into what is smaller
        shape = (-1, 1, 1, 1) if groups > 1 else (1, -1, 1, 1)
        kernel, scales = kernel * scales.view(shape), None
    # So with gains; but a pointwise kernel's gradient, which the backward pass would then compute, costs much.
    small = kernel[0, 0].numel() <= pixels or out is not None
    if gains is not None and n == 1 and small and not torch.is_grad_enabled():
        kernel, gains = kernel * gains.view(1, -1, 1, 1, 1), None
    if scales is not None:
        x = x * scales[:, :, None, None]
    if side == 1 and n == 1 and gains is None and not torch.is_grad_enabled():
        return _pointwise_of_one(x, kernel[0, :, :, 0, 0], bias, noise, out)
    assert out is None
    if side == 1:
        y = _pointwise(x, kernel[..., 0, 0], bias if gains is None else None)
    elif len(kernel) == 1:
        y = F.conv2d(x, kernel[0], padding=side // 2, groups=groups)
    else:
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernel.flatten(0, 1), padding=side // 2, groups=n * groups)
        y = y.view(n, -1, *y.shape[2:])
    if gains is not None:
        y = y * gains[:, :, None, None]
    if bias is not None and (side > 1 or gains is not None):
        y = y + bias[:, :, None, None]
    if noise is None:
        return y
    return y.add(noise) if torch.is_grad_enabled() else y.add_(noise)


def _pointwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """x [N, I, H, W], kernel [M, O, I], bias [M, O] or None -> [N, O, H, W], channels last: one matrix product."""
    n, _, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [N, HW, I]
    if bias is None:
        y = pixels @ kernel.transpose(1, 2)
    elif len(kernel) == 1 and len(bias) == 1:
        y = torch.addmm(bias[0], pixels.flatten(0, 1), kernel[0].t())
    else:
        y = torch.baddbmm(bias[:, None], pixels, kernel.transpose(1, 2).expand(n, -1, -1))
    return y.view(n, height, width, -1).permute(0, 3, 1, 2)


def _pointwise_of_one(
    x: Tensor, kernel: Tensor, bias: Tensor | None, noise: Tensor | None, out: Tensor | None
) -> Tensor:
    """`_pointwise` for x [1, I, H, W], kernel [O, I] without gradients; noise comes with the bias, in one pass."""
    _, _, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)  # [HW, I]
    if out is None:
        y = pixels.new_empty(height * width, len(kernel))
    else:
        y = out.permute(0, 2, 3, 1).view(height * width, -1)
    pixels, weight = pixels.to(y.dtype), kernel.t().to(y.dtype)  # autocast leaves alone what has `out`
    if bias is None:
        torch.mm(pixels, weight, out=y)
    elif noise is None:
        torch.addmm(bias.to(y.dtype), pixels, weight, out=y)
    else:
        torch.addmm(torch.add(noise.reshape(-1, 1), bias, out=y), pixels, weight, out=y)
    return y.view(1, height, width, -1).permute(0, 3, 1, 2)
