"""ResNet basic blocks behind a PReLU stem without max-pool: the trunk of the encoders for domains other than faces.

Source: Deep Residual Learning (He et al., CVPR 2016) with the stem of ReStyle (Alaluf et al., ICCV 2021). Block names
are torchvision's, flattened over the stages (`body.3.downsample.0.weight`), as released checkpoints store them.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from hyperinverter.ops.bias_act import PReLU


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
