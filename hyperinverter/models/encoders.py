"""The two encoders: E1 (image -> w, `WEncoder`) and E2 (image -> one feature map per style, `LayerwiseEncoder`).

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), sections 3.1 and 3.2; trunk and feature pyramid as in
pSp (Richardson et al., CVPR 2021). Parameter names are those of the released checkpoints, without any prefix.
Letters: N images, L styles (num_ws), C feature channels, w_dim numbers of a style vector.
"""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.schema import EncoderConfig, LayerwiseEncoderConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.stylegan2.layers import FullyConnected
from hyperinverter.ops.batch_norm import normalised_apart

# Styles 0-2 read the coarsest map, 3-6 the middle one, the rest the finest, whatever L is (published thresholds).
COARSE_STYLES = 3
MIDDLE_STYLES = 7


class WEncoder(Trunk):
    """E1: image -> offset of w from the generator's `w_avg` (the caller adds it)."""

    def __init__(self, config: EncoderConfig, *, w_dim: int = 512, input_channels: int = 3):
        super().__init__(config, input_channels=input_channels)
        self.w_dim = w_dim
        self.pool = config.pool
        self.linear = FullyConnected(self.widths[-1] * config.pool**2, w_dim, lr_multiplier=config.linear_rate)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> offsets [N, w_dim]."""
        last = self.stages(images)[-1]
        pooled = last.mean(dim=(2, 3)) if self.pool == 1 else F.adaptive_avg_pool2d(last, self.pool).flatten(1)
        return self.linear(pooled)


class FeaturePyramid(Trunk):
    """Trunk plus two lateral layers: the three-level pyramid under every encoder with one output per style.

    The pyramid is as wide as the last stage, which then enters it without a layer of its own, unless another width is
    given.
    """

    def __init__(self, config: EncoderConfig, *, input_channels: int = 3, pyramid_channels: int | None = None):
        super().__init__(config, input_channels=input_channels)
        self.pyramid_channels = pyramid_channels or self.widths[3]
        own = self.pyramid_channels == self.widths[3]
        self.latlayer0 = nn.Identity() if own else nn.Conv2d(self.widths[3], self.pyramid_channels, 1)
        self.latlayer1 = nn.Conv2d(self.widths[2], self.pyramid_channels, 1)
        self.latlayer2 = nn.Conv2d(self.widths[1], self.pyramid_channels, 1)

    def pyramid(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of any size -> coarse, middle and fine map, each [N, pyramid_channels, size, size]."""
        _, c1, c2, c3 = self.stages(images)
        c3 = self.latlayer0(c3)
        p2 = _upsampled(c3, c2) + self.latlayer1(c2)
        p1 = _upsampled(p2, c1) + self.latlayer2(c1)
        return c3, p2, p1

    @property
    def pyramid_sizes(self) -> tuple[int, int, int]:
        """Sides in px of the coarse, middle and fine map."""
        return self.stage_sizes[3], self.stage_sizes[2], self.stage_sizes[1]


def pyramid_level(style: int) -> int:
    """Which map of the pyramid a style reads: 0 coarse, 1 middle, 2 fine."""
    return 0 if style < COARSE_STYLES else 1 if style < MIDDLE_STYLES else 2


class MapToFeature(nn.Module):
    """One style's head: stride-2 convolutions with LeakyReLU(0.01) down to feature_size, at least one convolution."""

    def __init__(self, in_channels: int, channels: int, map_size: int, feature_size: int):
        super().__init__()
        halvings = int(math.log2(map_size / feature_size)) if map_size >= feature_size else -1
        if halvings < 0 or feature_size << halvings != map_size:
            raise ValueError(
                f"layerwise_encoder: a {map_size} px map cannot be halved to feature_size {feature_size} px; "
                f"choose strides (or input_size) so that stages 2-4 end at {feature_size} px times a power of two"
            )
        strides = [2] * halvings or [1]
        layers: list[nn.Module] = []
        for stride in strides:
            layers += [nn.Conv2d(in_channels, channels, 3, stride, 1), nn.LeakyReLU(0.01)]
            in_channels = channels
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class LayerwiseEncoder(FeaturePyramid):
    """E2: image -> L feature maps, one per style of the generator.

    Args:
        read: styles that somebody reads; the features of others are zeros, without a head. None: all have heads.
    Raises:
        ValueError: a stage's map cannot be halved down to `feature_size`; names both sizes.
    """

    def __init__(self, config: LayerwiseEncoderConfig, *, num_styles: int, read: Collection[int] | None = None):
        super().__init__(config, pyramid_channels=config.pyramid_channels)
        self.num_styles = num_styles
        self.feature_channels = config.feature_channels
        self.feature_size = config.feature_size
        self.styles = nn.ModuleList(
            MapToFeature(
                self.pyramid_channels,
                config.feature_channels,
                self.pyramid_sizes[pyramid_level(style)],
                config.feature_size,
            )
            if read is None or style in read
            else nn.Identity()
            for style in range(num_styles)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> features [N, L, C, feature_size, feature_size]."""
        maps = self.pyramid(images)
        result = {
            style: head(maps[pyramid_level(style)])
            for style, head in enumerate(self.styles)
            if not isinstance(head, nn.Identity)
        }
        unread = torch.zeros_like(next(iter(result.values())))
        return torch.stack([result.get(style, unread) for style in range(self.num_styles)], dim=1)

    def pair(self, images: Tensor, w_images: Tensor) -> tuple[Tensor, Tensor]:
        """Features h of the inputs and h_w of the Phase I images, with the same weights.

        Both go through in one call. In train mode it gives what two passes, inputs first, would: BatchNorm normalises
        each half by its own statistics, and its running averages mix the two (published training behaviour).
        """
        with normalised_apart(self, 2 if self.training else 1):
            h, h_w = self(torch.cat([self.resize(images), self.resize(w_images)])).chunk(2)
        return h, h_w


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear to the size of `like`; corners aligned, unlike the image resize (published)."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
