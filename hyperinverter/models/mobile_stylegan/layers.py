"""Layers of MobileStyleGAN's synthesis network, each with weight residuals per image.

Source: MobileStyleGAN (Belousov, 2021, arXiv:2104.04767), section 3, with demodulation folded into the kernels.
Letters: N images, S side of a layer in px, I and O input and output channels, M = N, or 1 for what the batch shares.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.models.residuals import ChannelScales, Residuals, part_of, residual_of, with_residual
from hyperinverter.ops.bias_act import LRELU_SLOPE
from hyperinverter.ops.haar import inverse_haar
from hyperinverter.utils.distributed import randn_rows

# A strip of a layer has about this many numbers, which stay in the caches; a whole map at 512 px takes three times as
# long. It needs HALO rows of its neighbours: two 3x3 kernels.
STRIP_NUMBERS = 1 << 20
HALO = 2


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
        return inverse_haar(x * scales[:, :, None, None])


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

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals, noise_mode: str, rows: slice = slice(None)) -> Tensor:
        """x [N, I, S, S] (or these rows of it), w [N, w_dim] -> [N, O, S, S]."""
        scales = self.modulation(w, part_of(residuals, "modulation")) * self.scale
        (first, gains), *rest = [_scaled(getattr(self, kernel), residuals, kernel) for kernel in self.kernels]
        bias = with_residual(self.bias, residuals, "bias")
        if rest:  # of a depthwise kernel, output channels are input channels
            x = conv2d(x, first, None, scales if gains is None else scales * gains, groups=x.shape[1])
            (first, gains), scales = rest[0], None
        x = conv2d(x, first, bias, scales, gains)
        if noise_mode != "none":
            noise = self.noise_const[rows]
            if noise_mode == "random":
                noise = noise.std() * randn_rows(len(x), 1, *noise.shape, shared=self.training, device=x.device)
            x = x.add(noise) if torch.is_grad_enabled() else x.add_(noise)
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
        self, x: Tensor, ws: Tensor, residuals: Residuals, noise_mode: str, rows: slice = slice(None)
    ) -> Tensor:
        """x [N, I, S/2, S/2], ws [N, 3, w_dim] -> [N, O, S, S]; x may hold only what `rows` of the output need."""
        x = self.up(x, self.up.modulation(ws[:, 0], part_of(residuals, "up.modulation")))
        x = self.conv1(x, ws[:, 0], part_of(residuals, "conv1"), noise_mode, rows)
        return self.conv2(x, ws[:, 1], part_of(residuals, "conv2"), noise_mode, rows)

    def in_strips(
        self,
        x: Tensor,
        ws: Tensor,
        residuals: Residuals,
        noise_mode: str,
        head: "tuple[ToImage, Residuals] | None" = None,
    ) -> Tensor:
        """What `forward` gives, strip by strip; with the last layer's image head the image that it draws from it."""
        size, channels = self.size, self.conv2.bias.shape[0]
        height = max(8, STRIP_NUMBERS // (size * channels) // 2 * 2)
        out: Tensor | None = None
        for top in range(0, size, height):
            end = min(top + height, size)
            first, last = max(top - HALO, 0), min(end + HALO, size)
            strip = self(x[:, :, first // 2 : last // 2], ws, residuals, noise_mode, slice(first, last))
            strip, scale = strip[:, :, top - first : end - first], 1
            if head is not None:
                strip, scale = draw_image(strip, ws[:, 2], *head), 2
            if out is None:
                shape = (len(x), strip.shape[1], scale * size, scale * size)
                out = torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=torch.channels_last)
            out[:, :, scale * top : scale * end] = strip
        assert out is not None
        return out


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

    def __init__(self, in_channels: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv1 = StyledConv(in_channels, channels, w_dim, size=1, separable=True)
        self.conv2 = StyledConv(channels, channels, w_dim, size=1, separable=True)
        self.to_img = ToImage(channels, 3, w_dim)

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals) -> Tensor:
        """x [N, I, S, S], w [N, w_dim] -> [N, 3, S, S]."""
        x = self.conv1(x, w, part_of(residuals, "conv1"), "none")
        x = self.conv2(x, w, part_of(residuals, "conv2"), "none")
        return self.to_img(x, w, part_of(residuals, "to_img"))


def draw_image(x: Tensor, w: Tensor, head: ToImage, residuals: Residuals) -> Tensor:
    """x [N, I, S, S], w [N, w_dim] -> image [N, 3, 2S, 2S]."""
    return inverse_haar(head(x, w, residuals))


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
) -> Tensor:
    """Convolution with scaled input and output channels and a kernel per image.

    Args:
        x: [N, I, S, S].
        kernel: [M, O, I/groups, k, k].
        bias: [M, O], or None.
        scales: of the input channels [N, I], or None.
        gains: of the output channels [M, O] before the bias, or None; not with `groups`.
        groups: 1, or I (depthwise).
    Returns:
        [N, O, S, S].
    """
    n, side = len(x), kernel.shape[-1]
    if scales is not None and n == 1:  # into the kernel, which is smaller than x
        shape = (-1, 1, 1, 1) if groups > 1 else (1, -1, 1, 1)
        kernel, scales = kernel * scales.view(shape), None
    # So with gains; but a pointwise kernel's gradient, which the backward pass would then compute, costs much.
    if gains is not None and n == 1 and not torch.is_grad_enabled():
        kernel, gains = kernel * gains.view(1, -1, 1, 1, 1), None
    if scales is not None:
        x = x * scales[:, :, None, None]
    if gains is not None:
        y = conv2d(x, kernel, bias=None, groups=groups) * gains[:, :, None, None]
        return y if bias is None else y + bias[:, :, None, None]
    if side == 1:
        return _pointwise(x, kernel[..., 0, 0], bias)
    if len(kernel) == 1:
        y = F.conv2d(x, kernel[0], padding=side // 2, groups=groups)
    else:
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernel.flatten(0, 1), padding=side // 2, groups=n * groups)
        y = y.view(n, -1, *y.shape[2:])
    return y if bias is None else y + bias[:, :, None, None]


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
