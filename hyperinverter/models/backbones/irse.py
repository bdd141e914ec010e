"""Improved residual units with optional squeeze-and-excitation: the trunk of IR-50, IR-SE50 and IR-101.

Source: ArcFace (Deng et al., CVPR 2019, arXiv:1801.07698) section 3.2.2; Squeeze-and-Excitation (Hu et al., CVPR 2018).
Parameter names are those of the published face networks (`body.3.res_layer.5.fc1.weight`, ...), which released
checkpoints of ArcFace, pSp, e4e, ReStyle, HyperStyle and HyperInverter share.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from hyperinverter.ops.bias_act import PReLU

SE_REDUCTION = 16  # published; a trunk narrower than this keeps one squeezed channel


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from the channels' spatial means."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(channels // SE_REDUCTION, 1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.fc2 = nn.Conv2d(squeezed, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean(dim=(2, 3), keepdim=True)  # [N, C, 1, 1]
        return x * self.fc2(self.fc1(gate).relu()).sigmoid()


class IRUnit(nn.Module):
    """BN, 3x3, PReLU, strided 3x3, BN (, SE) plus a shortcut; nothing after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, squeeze_excitation: bool):
        super().__init__()
        if in_channels == out_channels:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)  # window 1: takes every stride-th pixel
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        layers: list[nn.Module] = [
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        if squeeze_excitation:
            layers.append(SqueezeExcitation(out_channels))
        self.res_layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def irse_modules(
    stem_width: int,
    stem_stride: int,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    *,
    squeeze_excitation: bool,
    input_channels: int = 3,
) -> "OrderedDict[str, nn.Module]":
    """Stem and body under their published names; the first unit of a stage carries the stage's stride."""
    kernel = 7 if stem_stride > 1 else 3
    stem = nn.Sequential(
        nn.Conv2d(input_channels, stem_width, kernel, stem_stride, kernel // 2, bias=False),
        nn.BatchNorm2d(stem_width),
        PReLU(stem_width),
    )
    units: list[nn.Module] = []
    channels = stem_width
    for width, depth, stride in zip(widths, depths, strides, strict=True):
        for position in range(depth):
            units.append(IRUnit(channels, width, stride if position == 0 else 1, squeeze_excitation))
            channels = width
    return OrderedDict(input_layer=stem, body=nn.Sequential(*units))
