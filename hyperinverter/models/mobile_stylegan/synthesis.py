"""MobileStyleGAN's synthesis network: styles to image, with optional weight residuals per image and early heads.

Source: MobileStyleGAN (Belousov, 2021, arXiv:2104.04767); weight residuals: HyperInverter (arXiv:2112.00719), section
3.2. Letters: N images, L styles, R px of the image.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperinverter.models.mobile_stylegan.layers import EarlyHead, Head, MobileLayer, StyledConv, ToImage
from hyperinverter.models.residuals import (
    Residuals,
    check_drawing,
    check_feature_layer,
    check_residuals,
    feature_residual,
    of_image,
    part_of,
    rows_of,
    with_feature_residual,
    with_residual,
)
from hyperinverter.models.stylegan2.layers import channels_at, check_reduced
from hyperinverter.models.target_layers import TargetLayer
from hyperinverter.ops.haar import inverse_haar

STRIPS_FROM_PX = 128  # without gradients on a CPU, layers from here on are computed in strips


class MobileSynthesis(nn.Module):
    """Styles to image: a full convolution at 4 px, then layers at 8 px to R/2, each of which doubles the size.

    Styles: `conv1` reads 0; of layer i `up` and `conv1` read 1 + 3i, `conv2` 2 + 3i; an image head reads 3 + 3i.

    Attributes:
        recompute_from_px: as of StyleGAN2's synthesis: layers from this size on keep no activations for the backward
            pass; None: all keep them.
        resolutions: sides in px that `forward` draws without drawing a larger image first.
        feature_layers: layers whose features can be changed, all but the last: name -> channels, px.
    """

    def __init__(
        self,
        *,
        resolution: int,
        w_dim: int,
        channel_base: int,
        channel_max: int,
        early_heads: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        if resolution < 32 or resolution & (resolution - 1):
            raise ValueError(f"resolution must be a power of two of at least 32 pixels, got {resolution}")
        self.resolution, self.w_dim = resolution, w_dim
        self.recompute_from_px: int | None = None
        sizes = [2**i for i in range(3, resolution.bit_length() - 1)]  # 8 ... R/2
        widths = [channels_at(size, channel_base, channel_max) for size in [4, *sizes]]
        if any(width % 4 for width in widths):
            raise ValueError(f"a layer's channels must be a multiple of 4 for the Haar transform, got {widths}")
        self.num_ws = 2 + 3 * len(sizes)
        self.input = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.conv1 = StyledConv(widths[0], widths[0], w_dim, size=4)
        pairs = zip(pairwise(widths), sizes, strict=True)
        self.layers = nn.ModuleList(MobileLayer(*channels, w_dim, size=size) for channels, size in pairs)
        self.to_img = ToImage(widths[-1], 12, w_dim)
        heads = dict(sorted((early_heads or {}).items()))
        if any(px not in sizes for px in heads):
            raise ValueError(f"an early head draws the size of a layer, one of {sizes} px; got {list(heads)}")
        width = dict(zip(sizes, widths[1:], strict=True))
        self.feature_layers = {f"layers.{i}": (width[size], size) for i, size in enumerate(sizes[:-1])}
        self.early = nn.ModuleDict({str(px): EarlyHead(width[px], heads[px], w_dim) for px in heads})
        self.resolutions = (*heads, resolution)

    def forward(
        self,
        ws: Tensor,
        weight_residuals: Residuals | None = None,
        noise_mode: str = "const",
        resolution: int | None = None,
    ) -> Tensor:
        """Draw images [N, 3, r, r]; arguments, and errors, as of StyleGAN2's synthesis.

        Parameters are named as "layers.0.conv1.depthwise". An image of the next larger size that can be drawn is
        reduced to `resolution` by box mean; not one that leaves a layer out whose features have a residual.
        """
        resolution = check_reduced(resolution, self.resolution)
        residuals = weight_residuals or {}
        check_drawing(self, ws, residuals, noise_mode)
        if len(ws) > 1 and ws.device.type == "cpu" and noise_mode != "random":
            # One image at a time: its weights take its styles for nothing, and what it writes stays in the caches.
            rows = [self._draw(ws[i : i + 1], of_image(residuals, i), noise_mode, resolution) for i in range(len(ws))]
            return torch.cat(rows)
        return self._draw(ws, residuals, noise_mode, resolution)

    def features(
        self, ws: Tensor, layer: str, weight_residuals: Residuals | None = None, noise_mode: str = "const"
    ) -> Tensor:
        """What a layer of `feature_layers` puts out, [N, C, r, r]; the other arguments, and errors, as of `forward`."""
        residuals = weight_residuals or {}
        _, px, _ = check_feature_layer(self, layer)
        check_drawing(self, ws, residuals, noise_mode)
        count = self.layers_up_to(px)
        if ws.device.type != "cpu":
            return self._features(ws, residuals, noise_mode, count)
        rows = [self._features(ws[i : i + 1], of_image(residuals, i), noise_mode, count) for i in range(len(ws))]
        return torch.cat(rows)

    def layers_up_to(self, px: int) -> int:
        """How many layers there are up to the one of px pixels; the next style, 3 times this, is an early head's."""
        return sum(layer.size <= px for layer in self._layers())

    def noise_scales(self) -> dict[str, float]:
        """Noise inputs by name, each with its root mean square, which holds the strength of its layer's noise."""
        stored = {name: b for name, b in self.named_buffers() if name.endswith("noise_const")}
        return {name: float(b.square().mean().sqrt()) for name, b in stored.items() if not name.startswith("early.")}

    def _draw(self, ws: Tensor, residuals: Residuals, noise_mode: str, resolution: int) -> Tensor:
        changed = [self.feature_layers[name][1] for name in residuals if name in self.feature_layers]
        px = min(size for size in self.resolutions if size >= max([resolution, *changed]))
        count = self.layers_up_to(px)
        image = self._features(ws, residuals, noise_mode, count, self._head(px, ws[:, 3 * count], residuals))
        if image.shape[-1] != resolution:
            image = F.avg_pool2d(image, image.shape[-1] // resolution)
        return image.contiguous()

    def _head(self, px: int, w: Tensor, residuals: Residuals) -> Head:
        """What draws px pixels from the last layer for it; w [N, w_dim] is its style."""
        if px == self.resolution:
            own = part_of(residuals, "to_img")
            return Head(lambda x, _: inverse_haar(self.to_img(x, w, own)), halo=0, scale=2)
        early, own = self.early[str(px)], part_of(residuals, f"early.{px}")
        return Head(lambda x, rows: early(x, w, own, rows), halo=EarlyHead.halo, scale=1)

    def _features(
        self, ws: Tensor, residuals: Residuals, noise_mode: str, count: int, head: Head | None = None
    ) -> Tensor:
        """What the first `count` layers put out, [N, C, S, S], or the image that a head draws from it."""
        x = with_residual(self.input, residuals, "input")[:, 0].expand(len(ws), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.conv1(x, ws[:, 0], part_of(residuals, "conv1"), noise_mode)
        strips = len(ws) == 1 and ws.device.type == "cpu" and noise_mode != "random" and not torch.is_grad_enabled()
        for i, layer in enumerate(self._layers()[:count]):
            arguments = (x, ws[:, 1 + 3 * i : 3 + 3 * i], part_of(residuals, f"layers.{i}"), noise_mode)
            last = head if i == count - 1 else None
            if strips and layer.size >= STRIPS_FROM_PX:
                x = layer.in_strips(*arguments, last, feature_residual(residuals, f"layers.{i}"))
                continue
            recompute = torch.is_grad_enabled() and layer.size >= (self.recompute_from_px or math.inf)
            x = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
            x = with_feature_residual(x, residuals, f"layers.{i}")
            x = x if last is None else last.draw(x, None)
        return x

    def _layers(self) -> Sequence[MobileLayer]:
        return cast(Sequence[MobileLayer], self.layers)

    def prepare(self, weight_residuals: Residuals | None = None) -> Residuals:
        """What `forward` takes in the place of the residuals; here they are what it needs, there is nothing to gain."""
        residuals = dict(weight_residuals or {})
        check_residuals(self, residuals, rows_of(residuals))
        return residuals

    def target_layers(self, target_set: str) -> list[TargetLayer]:
        """Weights that hypernetworks can change, low to high resolution; for the sets see `models.target_layers`.

        Both kernels of a separable convolution are targets; the image head stands for torgb.
        """
        convs: dict[str, tuple[StyledConv | ToImage, int, int]] = {"conv1": (self.conv1, 0, 4)}
        for i, layer in enumerate(self._layers()):
            convs |= {f"layers.{i}.conv{n}": (getattr(layer, f"conv{n}"), n + 3 * i, layer.size) for n in (1, 2)}
        last = {"to_img": (self.to_img, 3 * len(self.layers), self.resolution)}
        if target_set != "conv_without_bias_without_torgb":
            convs |= last
        places = {name: (style, px) for name, (_, style, px) in convs.items()}
        kinds = {f"{name}.weight": "torgb" if name in last else "conv" for name in convs}
        kernels = [(f"{name}.{kernel}", places[name]) for name, (conv, *_) in convs.items() for kernel in conv.kernels]
        if target_set == "all_without_bias":
            places |= {f"layers.{i}.up": (1 + 3 * i, layer.size) for i, layer in enumerate(self._layers())}
            affines = [(f"{name}.modulation.weight", place) for name, place in places.items()]
            kinds |= {name: "affine" for name, _ in affines}
            kernels += affines
        # A depthwise kernel's output channels are its input channels, and nothing is demodulated.
        return [
            TargetLayer(
                name,
                tuple(self.get_parameter(name).shape),
                style,
                style,
                scaled_dim=0,
                kind=kinds.get(name, name.rpartition(".")[2]),
                px=px,
            )
            for name, (style, px) in kernels
        ]
