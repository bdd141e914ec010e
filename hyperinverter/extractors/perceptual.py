"""Perceptual distances: LPIPS, the same formula on a small SqueezeNet, and in the domain's own discriminator.

Sources: LPIPS v0.1 (Zhang et al., CVPR 2018, arXiv:1801.03924), the published loss and metric; SqueezeNet 1.1 (Iandola
et al., 2016, arXiv:1602.07360) with Caffe's weights and LPIPS's linear heads ("squeeze"), other numbers than LPIPS.
"""

import copy
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import CARRIED, Extractor, check_size, load_exactly
from hyperinverter.models.lpips_network import LpipsNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.ops.distances import perceptual_distance, unit_normalise
from hyperinverter.published import from_published

# Caffe's ImageNet mean in its channel order B, G, R and its range 0..255.
MEAN_BGR = (103.939, 116.779, 123.68)
# fire module -> (squeeze channels, channels of each expand convolution)
FIRES = {"fire2": (16, 64), "fire3": (16, 64), "fire4": (32, 128), "fire5": (32, 128),
         "fire6": (48, 192), "fire7": (48, 192), "fire8": (64, 256), "fire9": (64, 256)}  # fmt: skip
POOL_BEFORE = ("fire2", "fire4", "fire6")
TAPS = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")


class Lpips(Extractor):
    """LPIPS of images in [-1,1]; on AlexNet, which is the paper's loss and metric.

    Args:
        backbone: torchvision's state dict of the ImageNet network, to which the `lpips` package adds its calibrated
            heads; or a whole published LPIPS state dict.
        net: alex, vgg or squeeze; None: the class's own.
    """

    own_net: ClassVar[str] = "alex"

    filenames = ("alexnet-owt-7be5be79.pth",)
    also_as: ClassVar[tuple[str, ...]] = (
        "alexnet_features_torchvision.safetensors",
        "alexnet_features_torchvision.npz",
    )
    purpose = "LPIPS (AlexNet, ImageNet)"
    source = CARRIED
    smallest_px = 32

    def __init__(self, backbone: dict[str, Any], net: str | None = None) -> None:
        super().__init__()
        self.net = cast(LpipsNetwork, from_published(backbone, "lpips", net=net or self.own_net))
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        check_size(images, type(self))
        return self.net.features(images)

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return self.net.distance(a, b)


class LpipsVgg(Lpips):
    """LPIPS on VGG16: what the published projectors measure with."""

    own_net = "vgg"
    filenames = ("vgg16-397923af.pth",)
    also_as = ("vgg16_features_torchvision.safetensors",)
    purpose = "LPIPS (VGG16, ImageNet)"
    source = "torchvision (https://download.pytorch.org/models/vgg16-397923af.pth)"


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


class DiscriminatorFeatures(Extractor):
    """Unit-normalised outputs of every block, squared difference, mean over positions and over blocks.

    Works at the discriminator's own resolution. Range 0..4, as the squared distance of two unit vectors.

    `discriminator`: copied, so that training the original (adversarial loss) does not move this ruler.
    """

    purpose = "the perceptual distance discriminator_features"
    source = "the domain's model folder (discriminator.safetensors)"

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = copy.deepcopy(discriminator)
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        return [unit_normalise(maps) for maps in self.discriminator.features(images)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        # every channel of every block weighs the same: there are no calibrated heads for these features
        weight = torch.full((1, 1, 1, 1), 1 / len(a), device=a[0].device)
        return perceptual_distance(a, b, [weight] * len(a))
