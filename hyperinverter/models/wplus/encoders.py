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


class _OneHeadPerStyle(Trunk):
    """A head for every style; which map each of them reads is the subclass's."""

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
        self.styles = nn.ModuleList(MapToStyle(c, w_dim, px, head_width) for c, px in map(self.seen, range(num_styles)))

    def seen(self, style: int) -> tuple[int, int]:
        """Channels, and side in px, of the map that a style's head reads."""
        raise NotImplementedError

    def offsets(self, images: Tensor, last: int) -> list[Tensor]:
        """Outputs [N, w_dim] of the heads 0 to `last`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        return torch.stack(self.offsets(images, self.num_styles - 1), dim=1)


class GradualStyleEncoder(_OneHeadPerStyle, FeaturePyramid):
    """pSp's encoder: styles 0-2 read the coarse map of the pyramid, 3-6 the middle one, the rest the fine one."""

    def seen(self, style: int) -> tuple[int, int]:
        return self.pyramid_channels, self.pyramid_sizes[pyramid_level(style)]

    def offsets(self, images: Tensor, last: int) -> list[Tensor]:
        maps = self.pyramid(images)
        return [head(maps[pyramid_level(i)]) for i, head in enumerate(self.styles[: last + 1])]


class BackboneEncoder(_OneHeadPerStyle):
    """ReStyle's simpler encoder: every style reads the trunk's last map."""

    def seen(self, style: int) -> tuple[int, int]:
        return self.widths[-1], self.stage_sizes[-1]

    def offsets(self, images: Tensor, last: int) -> list[Tensor]:
        features = self.stages(images)[-1]
        return [head(features) for head in self.styles[: last + 1]]


class _FromW(_OneHeadPerStyle):
    """The first head gives w and the others how their styles differ from w.

    `progressive_stage`: how many differences are added, in the order of the styles; the other styles stay at w.
    Training starts at 0 and counts up; None means all of them, as for inference.
    """

    progressive_stage: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], any size -> codes [N, L, w_dim]."""
        last = self.num_styles - 1
        stage = last if self.progressive_stage is None else self.progressive_stage
        if stage < 0:
            raise ValueError(f"progressive_stage is {stage}; expected 0 (w only) to {last}, or None for all")
        w, *differences = self.offsets(images, min(stage, last))
        unchanged = [w] * (last - len(differences))
        return torch.stack([w, *(w + difference for difference in differences), *unchanged], dim=1)


class Encoder4Editing(_FromW, GradualStyleEncoder):
    """e4e's encoder: pSp's architecture, with w and differences from it."""


class ProgressiveBackboneEncoder(_FromW, BackboneEncoder):
    """ReStyle's encoder for e4e: the simpler architecture, with w and differences from it."""


def start_at_w(encoder: Encoder4Editing | ProgressiveBackboneEncoder) -> None:
    """Let every difference from w begin at zero, so that an encoder whose last heads have not learned yet is whole.

    Published heads begin at small random differences, which an encoder saved before they are trained would add.
    """
    for head in cast(Iterable[MapToStyle], encoder.styles[1:]):
        nn.init.zeros_(head.linear.weight)
        nn.init.zeros_(head.linear.bias)


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
