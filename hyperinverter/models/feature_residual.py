"""A residual of one feature map of the generator: what weights cannot hold of a photo, carried along when w moves.

Ours, in the line of StyleFeatureEditor (Bobkov et al., CVPR 2024, arXiv:2406.10601) and StyleRes (Pehlivan et al., CVPR
2023, arXiv:2212.14359). It is small, and says how small: `capacity`. Both networks begin by changing nothing, so that
an untrained one draws Phase II's images.
Letters: N images, L styles, R px of an image, C channels and p px of the layer, c channels of the residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.domain_schema import FeatureResidualConfig
from hyperinverter.models.hyperinverter import HyperInverterNetwork, HyperInverterOutput
from hyperinverter.models.residuals import FeatureResidual, Residuals, check_feature_layer
from hyperinverter.ops.bias_act import LRELU_SLOPE

# Numbers of the residual per number of the image: a quarter of what StyleFeatureEditor has, and the most there may be.
MOST_CAPACITY = 0.17
MOST_UNSHUFFLE = 2  # a finer map of E2 is read by all its pixels up to this factor, and by box means beyond it


def capacity_of(channels: int, px: int, resolution: int) -> float:
    """Numbers of a residual [channels, px, px] per number of an image [3, resolution, resolution]."""
    return channels * px**2 / (3 * resolution**2)


class ResidualPredictor(nn.Module):
    """E2's maps of the photo and of what Phase II draws, and Phase II's features of the layer -> residual.

    Args:
        maps: (channels, px) of E2's maps.
        layer: (C, p, p) of the generator's layer.
        channels: c.
        width: channels inside.
    """

    def __init__(self, maps: Sequence[tuple[int, int]], layer: tuple[int, int, int], channels: int, width: int) -> None:
        super().__init__()
        self.px = layer[1]
        folds = [min(max(px // self.px, 1), MOST_UNSHUFFLE) ** 2 for _, px in maps]
        inputs = [2 * size * fold for (size, _), fold in zip(maps, folds, strict=True)]
        self.maps = nn.ModuleList(nn.Conv2d(size, width, 1) for size in inputs)
        self.features = nn.Conv2d(layer[0], width, 1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(2))
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, photo: Sequence[Tensor], drawn: Sequence[Tensor], features: Tensor) -> Tensor:
        """Maps of both images, [N, C_i, p_i, p_i] each, and features [N, C, p, p] of unit size -> [N, c, p, p]."""
        x = self.features(features)
        for read, of_photo, of_drawn in zip(self.maps, photo, drawn, strict=True):
            x = x + read(_placed(torch.cat([of_photo - of_drawn, of_photo], dim=1), self.px))
        for block in self.blocks:
            x = block(x)
        return self.last(F.leaky_relu(x, LRELU_SLOPE))


class ResidualCarrier(nn.Module):
    """Residual, and the layer's features before and after w moves -> the residual there.

    Everything it does is a product with what the change of the features gives, without any bias, so that no change
    gives the residual back exactly.
    """

    def __init__(self, layer: tuple[int, int, int], channels: int, width: int) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, bias: bool, side: int = 3) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias)

        def act() -> nn.Module:
            return nn.LeakyReLU(LRELU_SLOPE)

        self.change = nn.Sequential(conv(layer[0], width, False, 1), act(), conv(width, width, False), act())
        self.state = nn.Sequential(conv(channels + layer[0], width, True, 1), act(), conv(width, width, True), act())
        self.mix = nn.Sequential(conv(width, width, False), act())
        self.last = conv(width, 2 * channels, False)
        nn.init.zeros_(self.last.weight)

    def forward(self, residual: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Residual [N, c, p, p], features [N, C, p, p] of unit size -> [N, c, p, p]."""
        change = self.change(after - before) * self.state(torch.cat([residual, before], dim=1))
        scale, shift = self.last(self.mix(change)).chunk(2, dim=1)
        return residual * (1 + scale) + shift


class FeatureResidualNetwork(nn.Module):
    """Both networks, and the way from the residual's channels to the layer's.

    Args:
        config: layer, channels and width.
        synthesis: of the generator; gives `feature_layers`.
        maps: (channels, px) of E2's maps.
    Attributes:
        layer: name of the generator's layer.
        shape: (c, p, p) of a residual.
        capacity: numbers of a residual per number of an image.
        size: rms [C] of the layer's features by channel; features are divided by it, and what is added is multiplied.
    Raises:
        ValueError: no such layer, or more capacity than there may be; says what to write.
    """

    size: Tensor

    def __init__(self, config: FeatureResidualConfig, synthesis: nn.Module, maps: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        try:
            layer = check_feature_layer(synthesis, config.layer)
        except ValueError as error:
            raise ValueError(f"domain.feature_residual.layer: {error}") from None
        self.layer, self.shape = str(config.layer), (config.channels, *layer[1:])
        resolution = cast(int, synthesis.resolution)
        self.capacity = capacity_of(config.channels, layer[1], resolution)
        if self.capacity > MOST_CAPACITY:
            most = int(MOST_CAPACITY / capacity_of(1, layer[1], resolution))
            remedy = f"write at most {most}" if most else "choose a layer of fewer px"
            raise ValueError(
                f"domain.feature_residual.channels: {config.channels} at {layer[1]} px are {self.capacity:.3f} numbers "
                f"per number of a {resolution} px image, above {MOST_CAPACITY}: {remedy}"
            )
        self.predictor = ResidualPredictor(maps, layer, config.channels, config.width)
        self.carrier = ResidualCarrier(layer, config.channels, config.width)
        self.expand = nn.Conv2d(config.channels, layer[0], 1, bias=False)
        self.register_buffer("size", torch.ones(layer[0]))

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Set `size` by features [N, C, p, p] of samples, before training."""
        self.size.copy_(features.float().square().mean(dim=(0, 2, 3)).sqrt().clamp(min=1e-4))

    def predict(self, photo: Sequence[Tensor], drawn: Sequence[Tensor], features: Tensor) -> Tensor:
        """E2's maps of photo and Phase II image, features [N, C, p, p] of the layer -> residual [N, c, p, p]."""
        return self.predictor(photo, drawn, features / self._sizes(features))

    def carry(self, residual: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Residual where features [N, C, p, p] were `before` -> residual [N, c, p, p] where they are `after`."""
        sizes = self._sizes(before)
        return self.carrier(residual, before / sizes, after / sizes)

    def expanded(self, residual: Tensor) -> FeatureResidual:
        """Residual [N, c, p, p] as what is added to the layer's features, [N, C, p, p]."""
        values = self.expand(residual)
        return FeatureResidual(values * self._sizes(values))

    def _sizes(self, like: Tensor) -> Tensor:
        return self.size.to(like.dtype)[:, None, None]


@dataclass
class Predicted:
    """What Phase III knows of a batch.

    Attributes:
        phase2: codes and tokens.
        weights: what the tokens stand for.
        drawn: Phase II's images [N, 3, r, r], as E2 has seen them; no gradient.
        features: Phase II's features of the layer, [N, C, p, p]; no gradient.
        residual: [N, c, p, p].
    """

    phase2: HyperInverterOutput
    weights: Residuals
    drawn: Tensor
    features: Tensor
    residual: Tensor


class Phase3Network(nn.Module):
    """Phases I and II, frozen and in eval mode, and the feature residual, which Phase III trains."""

    def __init__(self, network: HyperInverterNetwork, feature_residual: FeatureResidualNetwork) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.feature_residual = feature_residual
        self.train(self.training)

    def train(self, mode: bool = True) -> "Phase3Network":
        super().train(mode)
        self.network.eval()
        return self

    def features(self, ws: Tensor, weights: Residuals | None) -> Tensor:
        """The layer's features [N, C, p, p] of styles [N, L, w_dim] and decoded tokens."""
        return self.network.generator.synthesis.features(ws, self.feature_residual.layer, weights)

    @torch.no_grad()
    def measure_features(self, count: int = 64) -> None:
        """Take the size of the layer's features from `count` samples, the same ones always."""
        generator = self.network.generator
        z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(0))
        parts = [self.features(generator.mapping(some), None) for some in z.to(self.feature_residual.size).split(8)]
        self.feature_residual.measure(torch.cat(parts))

    def predict(self, images: Tensor) -> Predicted:
        """Images [N, 3, H, W] in [-1, 1], normally H = W = R; gradients reach the residual alone."""
        network, e2 = self.network, self.network.layerwise_encoder
        with torch.no_grad():
            phase2 = network.invert(images)
            weights = network.hypernetwork.decode(phase2.tokens)
            drawn = network.synthesise(phase2.ws, weights, resolution=network.enough_for_e2())
            features = self.features(phase2.ws, weights)
            maps = e2.stages(torch.cat([e2.resize(images), e2.resize(drawn)]))
        photo, ours = zip(*(one.chunk(2) for one in maps), strict=True)
        residual = self.feature_residual.predict(photo, ours, features)
        return Predicted(phase2, weights, drawn, features, residual)

    def moved(self, predicted: Predicted, ws: Tensor) -> Residuals:
        """What draws the images at other codes [N, L, w_dim]: weights, and the residual carried there."""
        with torch.no_grad():
            after = self.features(ws, predicted.weights)
        return self.with_residual(
            predicted.weights, self.feature_residual.carry(predicted.residual, predicted.features, after)
        )

    def with_residual(self, weights: Residuals | None, residual: Tensor) -> Residuals:
        """Weights and a residual [N, c, p, p] as the generator's synthesis takes them."""
        return {**(weights or {}), self.feature_residual.layer: self.feature_residual.expanded(residual)}


class _Block(nn.Module):
    """Two 3x3 convolutions, each behind an activation, beside what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.leaky_relu(y, LRELU_SLOPE))
        return x + y


def _placed(maps: Tensor, px: int) -> Tensor:
    """Maps [N, C, s, s] at p px: finer ones by all their pixels (up to MOST_UNSHUFFLE), coarser ones bilinearly."""
    fold = min(max(maps.shape[-1] // px, 1), MOST_UNSHUFFLE)
    if maps.shape[-1] > fold * px:
        maps = F.adaptive_avg_pool2d(maps, fold * px)
    elif maps.shape[-1] < px:
        return F.interpolate(maps, size=(px, px), mode="bilinear", align_corners=False)
    return F.pixel_unshuffle(maps, fold)
