"""MobileStyleGAN's generator: StyleGAN2's mapping, depthwise separable synthesis in the Haar domain, per-image residuals.

Source: MobileStyleGAN (Belousov, 2021, arXiv:2104.04767), with demodulation folded into the kernels, as the package
`random-face` publishes it; weight residuals: HyperInverter (arXiv:2112.00719), section 3.2. Beyond both: an early head,
which draws a reduced image from the last but one layer.

Letters: N images, L styles, R pixels of the image, S of a layer, C channels, M = N or 1 (what the batch shares).
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperinverter.models.stylegan2.layers import channels_at, check_reduced
from hyperinverter.models.stylegan2.mapping import MappingNetwork
from hyperinverter.models.target_layers import TargetLayer
from hyperinverter.ops.bias_act import LRELU_SLOPE
from hyperinverter.utils.distributed import randn_rows

NOISE_MODES = ("const", "random", "none")
# Without gradients on a CPU, layers from here on are computed in strips of about this many numbers, which stay in the
# caches: at 512 px a whole map takes three times as long. A strip needs HALO rows of its neighbours, two 3x3 kernels.
STRIPS_FROM_PX = 128
STRIP_NUMBERS = 1 << 20
HALO = 2

Residuals = Mapping[str, Tensor]


class MobileGenerator(nn.Module):
    """Latents to images.

    Args:
        resolution: R, a power of two of at least 32, pixels.
        z_dim: size of the input latent.
        w_dim: size of a style.
        channel_base: a layer at S pixels has min(channel_base / S, channel_max) channels.
        channel_max: see channel_base.
        mapping_layers: fully connected layers from z to w.
        early_channels: of the early head; 0 leaves it out.
    Raises:
        ValueError: values that make no network.
    """

    def __init__(
        self,
        *,
        resolution: int,
        z_dim: int = 512,
        w_dim: int = 512,
        channel_base: int = 32768,
        channel_max: int = 512,
        mapping_layers: int = 8,
        early_channels: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "architecture": "mobile_stylegan",
            "resolution": resolution,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "mapping_layers": mapping_layers,
            "early_channels": early_channels,
        }
        self.resolution, self.z_dim, self.w_dim, self.c_dim = resolution, z_dim, w_dim, 0
        self.synthesis = MobileSynthesis(
            resolution=resolution,
            w_dim=w_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            early_channels=early_channels,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim=z_dim, w_dim=w_dim, num_ws=self.num_ws, num_layers=mapping_layers)

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        weight_residuals: Residuals | None = None,
    ) -> Tensor:
        """z [N, z_dim] -> images [N, 3, R, R]; arguments as in `MappingNetwork` and `MobileSynthesis`."""
        return self.synthesis(self.mapping(z, truncation_psi, truncation_cutoff), weight_residuals, noise_mode)


class MobileSynthesis(nn.Module):
    """Styles to image: a full convolution at 4 px, then layers at 8 px to R/2, each of which doubles the size.

    Styles: `conv1` reads 0; of layer i `up` and `conv1` read 1 + 3i, `conv2` 2 + 3i; an image head reads 3 + 3i.

    Attributes:
        recompute_from_px: as of StyleGAN2's synthesis: layers from this size on keep no activations for the backward
            pass; None: all keep them.
        resolutions: sides in px that `forward` draws without drawing a larger image first.
    """

    def __init__(
        self, *, resolution: int, w_dim: int, channel_base: int, channel_max: int, early_channels: int = 0
    ) -> None:
        super().__init__()
        if resolution < 32 or resolution & (resolution - 1):
            raise ValueError(f"resolution must be a power of two of at least 32 pixels, got {resolution}")
        self.resolution, self.w_dim = resolution, w_dim
        self.recompute_from_px: int | None = None
        sizes = [2**i for i in range(3, resolution.bit_length() - 1)]  # 8 ... R/2
        widths = [channels_at(size, channel_base, channel_max) for size in [4, *sizes]]
        if widths[0] % 4 or any(width % 4 for width in widths):
            raise ValueError(f"a layer's channels must be a multiple of 4 for the Haar transform, got {widths}")
        self.num_ws = 2 + 3 * len(sizes)
        self.input = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.conv1 = StyledConv(widths[0], widths[0], w_dim, size=4)
        pairs = zip(widths, widths[1:], sizes, strict=False)
        self.layers = nn.ModuleList(MobileLayer(first, second, w_dim, size=size) for first, second, size in pairs)
        self.to_img = ToImage(widths[-1], 12, w_dim)
        self.early = EarlyHead(widths[-2], early_channels, w_dim) if early_channels else None
        self.resolutions = (sizes[-2], resolution) if early_channels else (resolution,)

    def forward(
        self,
        ws: Tensor,
        weight_residuals: Residuals | None = None,
        noise_mode: str = "const",
        resolution: int | None = None,
    ) -> Tensor:
        """Draw images.

        Args:
            ws: [N, L, w_dim].
            weight_residuals: parameter name without "synthesis." ("layers.0.conv1.depthwise", and any other parameter)
                -> [N, *shape of the parameter], added to the stored parameter of each image; N may be 1 for one
                residual shared by the batch. None or {} means none.
            noise_mode: "const" uses the stored noise, "random" draws new noise, "none" adds none.
            resolution: r, side of the images in px; None is R. The early head draws R/4; from others R is reduced by
                box mean.
        Returns:
            images [N, 3, r, r], nominally in [-1, 1], not clamped.
        Raises:
            ValueError: shapes, residual names, noise mode or resolution that do not fit this generator.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected ws [N, {self.num_ws}, {self.w_dim}], got {tuple(ws.shape)}")
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"unknown noise_mode {noise_mode!r}, expected one of {NOISE_MODES}")
        resolution = check_reduced(resolution, self.resolution)
        residuals = weight_residuals or {}
        self._check_residuals(residuals, len(ws))
        if len(ws) > 1 and ws.device.type == "cpu" and noise_mode != "random":
            # One image at a time: its weights take its styles for nothing, and what it writes stays in the caches.
            rows = [self._draw(ws[i : i + 1], _of_image(residuals, i), noise_mode, resolution) for i in range(len(ws))]
            return torch.cat(rows)
        return self._draw(ws, residuals, noise_mode, resolution)

    def early_features(self, ws: Tensor, weight_residuals: Residuals | None = None) -> Tensor:
        """What the early head draws from: ws [N, L, w_dim] -> [N, C, R/4, R/4]."""
        rows = [self._features(ws[i : i + 1], _of_image(weight_residuals or {}, i), "const", len(self.layers) - 1)[0]
                for i in range(len(ws))]  # fmt: skip
        return torch.cat(rows)

    def _draw(self, ws: Tensor, residuals: Residuals, noise_mode: str, resolution: int) -> Tensor:
        early = self.early is not None and resolution <= self.resolutions[0]
        x, image = self._features(ws, residuals, noise_mode, len(self.layers) - early)
        if early:
            image = self.early(x, ws[:, 3 * len(self.layers) - 3], part_of(residuals, "early"))
        if image.shape[-1] != resolution:
            image = F.avg_pool2d(image, image.shape[-1] // resolution)
        return image.contiguous()

    def _features(
        self, ws: Tensor, residuals: Residuals, noise_mode: str, count: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """The first `count` layers: (features, None), or (None, image [N, 3, R, R]) behind the last of all."""
        x = with_residual(self.input, residuals, "input")[:, 0].expand(len(ws), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        x, image = self.conv1(x, ws[:, 0], part_of(residuals, "conv1"), noise_mode), None
        tiles = x.device.type == "cpu" and noise_mode != "random" and not torch.is_grad_enabled()
        for i, layer in enumerate(self.layers[:count]):
            arguments = (x, ws[:, 1 + 3 * i : 4 + 3 * i], part_of(residuals, f"layers.{i}"), noise_mode)
            head = (self.to_img, part_of(residuals, "to_img")) if i == len(self.layers) - 1 else None
            if tiles and layer.size >= STRIPS_FROM_PX:
                x, image = layer.in_strips(*arguments, head)
                continue
            recompute = torch.is_grad_enabled() and layer.size >= (self.recompute_from_px or math.inf)
            x = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
            if head is not None:
                x, image = None, draw_image(x, arguments[1][:, 2], *head)
        return x, image

    def prepare(self, weight_residuals: Residuals | None = None) -> dict[str, Tensor]:
        """What `forward` takes in the place of the residuals; here they are what it needs, there is nothing to gain."""
        residuals = dict(weight_residuals or {})
        self._check_residuals(residuals, len(next(iter(residuals.values()), ())))
        return residuals

    def target_layers(self, target_set: str) -> list[TargetLayer]:
        """Weights that hypernetworks can change, low to high resolution; for the sets see `models.target_layers`.

        Both kernels of a separable convolution are targets; the image head stands for torgb.
        """
        convs = {"conv1": (self.conv1, 0)}
        for i, layer in enumerate(self.layers):
            convs |= {f"layers.{i}.conv1": (layer.conv1, 1 + 3 * i), f"layers.{i}.conv2": (layer.conv2, 2 + 3 * i)}
        if target_set != "conv_without_bias_without_torgb":
            convs["to_img"] = (self.to_img, 3 * len(self.layers))
        kernels = [
            (f"{name}.{kernel}", conv, style) for name, (conv, style) in convs.items() for kernel in conv.kernels
        ]
        if target_set == "all_without_bias":
            convs |= {f"layers.{i}.up": (layer.up, 1 + 3 * i) for i, layer in enumerate(self.layers)}
            kernels += [(f"{name}.modulation.weight", conv, style) for name, (conv, style) in convs.items()]
        return [TargetLayer(name, tuple(self.get_parameter(name).shape), style, style) for name, _, style in kernels]

    def _check_residuals(self, residuals: Residuals, n: int) -> None:
        if not residuals:
            return
        parameters = dict(self.named_parameters())
        for name, value in residuals.items():
            if name not in parameters:
                raise ValueError(f"weight_residuals: {name!r} is no parameter of this {self.resolution} px generator")
            shape = parameters[name].shape
            if value.ndim != len(shape) + 1 or value.shape[1:] != shape or value.shape[0] not in (1, n):
                raise ValueError(f"weight residual {name!r} must be {(n, *shape)} (or N = 1), got {tuple(value.shape)}")


class Modulation(nn.Module):
    """Style of a layer: w [N, w_dim] -> scales of its input channels [N, C]."""

    def __init__(self, w_dim: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, w_dim) / math.sqrt(w_dim))
        self.bias = nn.Parameter(torch.ones(channels))

    def forward(self, w: Tensor, residuals: Residuals) -> Tensor:
        """w [N, w_dim] -> [N, C]."""
        scales = F.linear(w, self.weight, self.bias)
        if "weight" in residuals:
            scales = scales + (residuals["weight"] @ w.unsqueeze(-1)).squeeze(-1)
        return scales + residuals["bias"] if "bias" in residuals else scales


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
        kernels = [with_residual(getattr(self, kernel), residuals, kernel) for kernel in self.kernels]
        bias = with_residual(self.bias, residuals, "bias")
        first, *rest = kernels
        x = conv2d(x, first, None if rest else bias, scales, groups=x.shape[1] if rest else 1)
        for kernel in rest:
            x = conv2d(x, kernel, bias)
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
    ) -> tuple[Tensor | None, Tensor | None]:
        """What `forward` gives, strip by strip: (features, None), or (None, image) with the last layer's image head."""
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
        return (out, None) if head is None else (None, out)


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


def band_order(channels: int) -> Tensor:
    """Where the channels that enter an inverse Haar transform here lie in published weights, [channels].

    Published, the high bands of a channel stand together ([C, 3]: lh, hl, hh); here each band's channels do, which is
    faster. It concerns whatever writes such channels: `conv1`, `conv2` and `to_img` (kernel rows, bias) and `up`
    (modulation rows).
    """
    high = torch.arange(channels // 4, channels).view(-1, 3).t().flatten()
    return torch.cat([torch.arange(channels // 4), high])


@torch.no_grad()
def mean_w(mapping: MappingNetwork, count: int = 20_000) -> Tensor:
    """The mean of w over seeded z, [w_dim]: what `mapping.w_avg` is where the published weights have none.

    In float64 and rounded to 2^-16, so that every machine finds the same numbers, and with them the same hash.
    """
    exact = deepcopy(mapping).double()
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(mapping.w_dim, dtype=torch.float64)
    for _ in range(count // 1000):
        total += exact(torch.randn(1000, mapping.z_dim, generator=random, dtype=torch.float64))[:, 0].sum(dim=0)
    return ((total / count * 2**16).round() / 2**16).float()


def draw_image(x: Tensor, w: Tensor, head: ToImage, residuals: Residuals) -> Tensor:
    """x [N, I, S, S], w [N, w_dim] -> image [N, 3, 2S, 2S]."""
    return inverse_haar(head(x, w, residuals))


def inverse_haar(x: Tensor) -> Tensor:
    """Inverse 2D Haar transform, [N, 4C, S, S] -> [N, C, 2S, 2S].

    The channels are four bands low, lh, hl, hh of C each. A pair (low, high) becomes (low + high, low - high) / sqrt 2,
    first along rows for (low, lh) and (hl, hh), then along columns.
    """
    return _InverseHaar.apply(x) if torch.is_grad_enabled() else _to_pixels(x)


class _InverseHaar(torch.autograd.Function):
    """The transform is orthonormal: each direction is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _to_pixels(x)

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


def _to_pixels(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    low, lh, hl, hh = (x * 0.5).chunk(4, dim=1)
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


def conv2d(x: Tensor, kernel: Tensor, bias: Tensor | None, scales: Tensor | None = None, groups: int = 1) -> Tensor:
    """Convolution with scaled input channels and a kernel per image.

    Args:
        x: [N, I, S, S].
        kernel: [M, O, I/groups, k, k].
        bias: [M, O], or None.
        scales: of the input channels [N, I], or None.
        groups: 1, or I (depthwise).
    Returns:
        [N, O, S, S].
    """
    n, side = len(x), kernel.shape[-1]
    if scales is not None and n == 1:  # into the kernel, which is smaller than x
        shape = (-1, 1, 1, 1) if groups > 1 else (1, -1, 1, 1)
        kernel, scales = kernel * scales.view(shape), None
    if scales is not None:
        x = x * scales[:, :, None, None]
    if side == 1:
        return _pointwise(x, kernel[..., 0, 0], bias)
    if len(kernel) == 1:
        y = F.conv2d(x, kernel[0], padding=side // 2, groups=groups)
    else:
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernel.flatten(0, 1), padding=side // 2, groups=n * groups)
        y = y.view(n, -1, *y.shape[2:])
    return y if bias is None else y + bias[:, :, None, None]


def _pointwise(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """x [N, I, H, W], kernel [M, O, I], bias [M, O] -> [N, O, H, W], channels last: one matrix product."""
    n, _, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # [N, HW, I]
    if len(kernel) == 1 and len(bias) == 1:
        y = torch.addmm(bias[0], pixels.flatten(0, 1), kernel[0].t())
    else:
        y = torch.baddbmm(bias[:, None], pixels, kernel.transpose(1, 2).expand(n, -1, -1))
    return y.view(n, height, width, -1).permute(0, 3, 1, 2)


def with_residual(parameter: Tensor, residuals: Residuals, name: str) -> Tensor:
    """Stored parameter plus its residual, [M, *shape of the parameter]."""
    return parameter + residuals[name] if name in residuals else parameter.unsqueeze(0)


def part_of(residuals: Residuals, part: str) -> Residuals:
    """The residuals of one submodule, by their names inside it."""
    prefix = part + "."
    return {name.removeprefix(prefix): value for name, value in residuals.items() if name.startswith(prefix)}


def _of_image(residuals: Residuals, i: int) -> Residuals:
    return {name: value if len(value) == 1 else value[i : i + 1] for name, value in residuals.items()}
