"""Perceptual distances: LPIPS, the same formula on a small SqueezeNet, and in the domain's own discriminator.

Sources: LPIPS v0.1 (Zhang et al., CVPR 2018, arXiv:1801.03924), the published loss and metric; SqueezeNet 1.1 (Iandola
et al., 2016, arXiv:1602.07360) with Caffe's weights and LPIPS's linear heads ("squeeze"), other numbers than LPIPS.
"""

import copy
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from hyperinverter.extractors.base import CARRIED, Extractor, check_size, load_exactly
from hyperinverter.models.lpips_network import LpipsNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.ops.distances import perceptual_distance, unit_normalise
from hyperinverter.published import from_published

# Caffe's ImageNet mean in its channel order B, G, R and its range 0..255.
MEAN_BGR = (103.939, 116.779, 123.68)
# Caffe's name of a layer -> where it stands among torchvision's `features`
PLACES = {"conv1": 0, "fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12}


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
        self.net = LpipsNetwork("squeeze")
        own: dict[str, Tensor] = {}
        for name, value in state.items():
            layer, _, rest = name.partition(".")
            own[f"layers.{PLACES.get(layer, layer)}.{rest.replace('squeeze1x1', 'squeeze')}"] = value
        own |= {f"heads.{i}": heads[f"lin{i}.model.1.weight"] for i in range(len(self.net.heads))}
        load_exactly(self.net, own, "SqueezeNet 1.1 features (squeezenet11_features.npz)")
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        check_size(images, type(self))
        x = (images.flip(1) + 1) * 127.5 - self.mean
        return self.net.maps(x)

    def pooled(self, images: Tensor) -> Tensor:
        """The last tap's mean over the image, [N,512]: for the Frechet distance `frechet_squeezenet`."""
        return self.features(images)[-1].mean((2, 3))

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return self.net.distance(a, b)


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
