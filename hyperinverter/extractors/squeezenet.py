"""Perceptual distance on SqueezeNet 1.1's Caffe weights with LPIPS's linear heads. Other numbers than LPIPS.

Network: Iandola et al., 2016 (arXiv:1602.07360), version 1.1. Formula and heads: Zhang et al., CVPR 2018 ("squeeze").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import CARRIED, Extractor, check_size, load_exactly
from hyperinverter.ops.perceptual import perceptual_distance, unit_normalise

# Caffe's ImageNet mean in its channel order B, G, R and its range 0..255.
MEAN_BGR = (103.939, 116.779, 123.68)
# fire module -> (squeeze channels, channels of each expand convolution)
FIRES = {"fire2": (16, 64), "fire3": (16, 64), "fire4": (32, 128), "fire5": (32, 128),
         "fire6": (48, 192), "fire7": (48, 192), "fire8": (64, 256), "fire9": (64, 256)}  # fmt: skip
POOL_BEFORE = ("fire2", "fire4", "fire6")
TAPS = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")


class Fire(nn.Module):
    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze1x1(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def build_network() -> nn.ModuleDict:
    """conv1 and fire2 ... fire9, under the names of the weights file."""
    modules: dict[str, nn.Module] = {"conv1": nn.Conv2d(3, 64, 3, stride=2)}
    channels = 64
    for name, (squeeze, expand) in FIRES.items():
        modules[name] = Fire(channels, squeeze, expand)
        channels = 2 * expand
    return nn.ModuleDict(modules)


class SqueezeNetFeatures(Extractor):
    """Seven taps of SqueezeNet 1.1, unit-normalised, compared with the LPIPS heads of the "squeeze" variant.

    Images go in at the size they have: the heads were calibrated on 64 px patches, so 64 px needs no enlargement
    (taps of 31, 15, 7 and 3 px).

    Args:
        state: convolutions by name (`fire2.squeeze1x1.weight`, ...), as in squeezenet11_features.npz.
        heads: `lin0.model.1.weight` ... [1,C,1,1], as in lpips_lin_v0.1_squeeze.npz.
    """

    filenames = ("squeezenet11_features.npz", "lpips_lin_v0.1_squeeze.npz")
    purpose = "the perceptual distance squeezenet_features"
    source = CARRIED
    smallest_px = 32
    mean: Tensor

    def __init__(self, state: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = build_network()
        load_exactly(self.net, state, "SqueezeNet 1.1 features (squeezenet11_features.npz)")
        for i in range(len(TAPS)):
            self.register_buffer(f"head{i}", heads[f"lin{i}.model.1.weight"])
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        check_size(images, type(self))
        x = (images.flip(1) + 1) * 127.5 - self.mean
        x = F.relu(self.net["conv1"](x))
        taps = [x]
        for name in FIRES:
            if name in POOL_BEFORE:
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = self.net[name](x)
            if name in TAPS:
                taps.append(x)
        return [unit_normalise(tap) for tap in taps]

    def pooled(self, images: Tensor) -> Tensor:
        """The last tap's mean over the image, [N,512]: for the Frechet distance `frechet_squeezenet`."""
        return self.features(images)[-1].mean((2, 3))

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return perceptual_distance(a, b, [getattr(self, f"head{i}") for i in range(len(TAPS))])
