"""Encoders into W+: one code per style, under the parameter names of the released checkpoints (without any prefix).

Sources: pSp (Richardson et al., CVPR 2021, arXiv:2008.00951; eladrich/pixel2style2pixel), e4e (Tov et al., SIGGRAPH
2021, arXiv:2102.02766; omertov/encoder4editing), ReStyle (Alaluf et al., ICCV 2021, arXiv:2104.02699;
yuval-alaluf/restyle-encoder). All return what the network gives; adding the average code is `model.py`'s.
Letters: N images, L styles, C channels, H and W pixels, w_dim numbers of a style vector.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.encoders import FeaturePyramid, WEncoder, pyramid_level
from hyperinverter.models.stylegan2.layers import FullyConnected

POOLED_SIZE = 7  # px of the map before the fully connected layer of BackboneEncoderUsingLastLayerIntoWPlus, published
RESNET_PREFIX = "ResNet"


def halvings_of(map_size: int) -> int:
    """Stride-2 convolutions that a map2style head needs until one pixel is left; at least one."""
    return max((map_size - 1).bit_length(), 1)


class MapToStyle(nn.Module):
    """One style's head (published: GradualStyleBlock): stride-2 convolutions down to one pixel, then a linear layer.

    Args:
        in_channels: C of the map.
        w_dim: width of the style.
        map_size: longer side of the map, px.
        width: channels of the convolutions; None: w_dim, as published.
    """

    def __init__(self, in_channels: int, w_dim: int, map_size: int, width: int | None = None):
        super().__init__()
        width = w_dim if width is None else width
        layers: list[nn.Module] = []
        for _ in range(halvings_of(map_size)):
            layers += [nn.Conv2d(in_channels, width, 3, 2, 1), nn.LeakyReLU(0.01)]  # torch's slope, as published
            in_channels = width
        self.convs = nn.Sequential(*layers)
        self.linear = FullyConnected(width, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, w_dim]."""
        return self.linear(self.convs(x).flatten(1))


class GradualStyleEncoder(FeaturePyramid):
    """pSp's encoder: styles 0-2 read the coarse map of the pyramid, 3-6 the middle one, the rest the fine one."""

    def __init__(
        self,
        config: EncoderConfig,
        *,
        num_styles: int,
        w_dim: int = 512,
        input_channels: int = 3,
        head_width: int | None = None,
    ):
        super().__init__(config, input_channels=input_channels)
        self.num_styles, self.w_dim = num_styles, w_dim
        sizes = [self.pyramid_sizes[pyramid_level(style)] for style in range(num_styles)]
        self.styles = nn.ModuleList(MapToStyle(self.pyramid_channels, w_dim, size, head_width) for size in sizes)

    def offsets(self, images: Tensor, last: int) -> list[Tensor]:
        """Outputs [N, w_dim] of the heads 0 to `last`."""
        maps = self.pyramid(images)
        return [head(maps[pyramid_level(i)]) for i, head in enumerate(self.styles[: last + 1])]

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        return torch.stack(self.offsets(images, self.num_styles - 1), dim=1)


class BackboneEncoder(Trunk):
    """ReStyle's simpler encoder: every style reads the trunk's last map."""

    def __init__(
        self,
        config: EncoderConfig,
        *,
        num_styles: int,
        w_dim: int = 512,
        input_channels: int = 3,
        head_width: int | None = None,
    ):
        super().__init__(config, input_channels=input_channels)
        self.num_styles, self.w_dim = num_styles, w_dim
        size = (self.widths[-1], w_dim, self.stage_sizes[-1], head_width)
        self.styles = nn.ModuleList(MapToStyle(*size) for _ in range(num_styles))

    def offsets(self, images: Tensor, last: int) -> list[Tensor]:
        """Outputs [N, w_dim] of the heads 0 to `last`."""
        features = self.stages(images)[-1]
        return [head(features) for head in self.styles[: last + 1]]

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        return torch.stack(self.offsets(images, self.num_styles - 1), dim=1)


class Encoder4Editing(GradualStyleEncoder):
    """e4e's encoder: pSp's architecture, but the first head gives w and the others how their styles differ from w.

    Attributes:
        progressive_stage: how many differences are added, in the order of the styles; the other styles stay at w.
            Training starts at 0 and counts up; None means all of them, as for inference.
    """

    progressive_stage: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        return _progressive(self, images)


class ProgressiveBackboneEncoder(BackboneEncoder):
    """ReStyle's encoder for e4e: the simpler architecture read as `Encoder4Editing` reads pSp's."""

    progressive_stage: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        return _progressive(self, images)


def start_at_w(encoder: Encoder4Editing | ProgressiveBackboneEncoder) -> None:
    """Let every difference from w begin at zero, so that an encoder whose last heads have not learned yet is whole.

    Published heads begin at small random differences, which an encoder saved before they are trained would add.
    """
    for head in cast(Iterable[MapToStyle], encoder.styles[1:]):
        nn.init.zeros_(head.linear.weight)
        nn.init.zeros_(head.linear.bias)


def _progressive(encoder: Encoder4Editing | ProgressiveBackboneEncoder, images: Tensor) -> Tensor:
    """w of the first head, repeated to every style, plus the differences up to the encoder's stage."""
    last = encoder.num_styles - 1
    stage = last if encoder.progressive_stage is None else encoder.progressive_stage
    if stage < 0:
        raise ValueError(f"progressive_stage is {stage}; expected 0 (w only) to {last}, or None for all")
    w, *differences = encoder.offsets(images, min(stage, last))
    unchanged = [w] * (last - len(differences))
    return torch.stack([w, *(w + difference for difference in differences), *unchanged], dim=1)


class LastLayerWPlusEncoder(Trunk):
    """pSp's BackboneEncoderUsingLastLayerIntoWPlus: all styles at once from the trunk's last map, pooled to 7 px."""

    def __init__(
        self,
        config: EncoderConfig,
        *,
        num_styles: int,
        w_dim: int = 512,
        input_channels: int = 3,
        hidden_size: int | None = None,
    ):
        super().__init__(config, input_channels=input_channels)
        self.num_styles, self.w_dim = num_styles, w_dim
        hidden_size = w_dim if hidden_size is None else hidden_size
        self.output_layer_2 = nn.Sequential(
            nn.BatchNorm2d(self.widths[-1]),
            nn.AdaptiveAvgPool2d(POOLED_SIZE),
            nn.Flatten(),
            nn.Linear(self.widths[-1] * POOLED_SIZE**2, hidden_size),
        )
        self.linear = FullyConnected(hidden_size, num_styles * w_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        codes = self.linear(self.output_layer_2(self.stages(images)[-1]))
        return codes.reshape(-1, self.num_styles, self.w_dim)


# published class -> ours; on a ResNet34 trunk the published class is the same with RESNET_PREFIX before its name
ENCODERS: dict[str, type[Trunk]] = {
    "GradualStyleEncoder": GradualStyleEncoder,
    "Encoder4Editing": Encoder4Editing,
    "BackboneEncoder": BackboneEncoder,
    "ProgressiveBackboneEncoder": ProgressiveBackboneEncoder,
    "BackboneEncoderUsingLastLayerIntoWPlus": LastLayerWPlusEncoder,
    "BackboneEncoderUsingLastLayerIntoW": WEncoder,
}
