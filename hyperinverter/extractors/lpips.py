"""LPIPS v0.1 (Zhang et al., CVPR 2018, arXiv:1801.03924): the published perceptual loss and metric."""

from typing import Any, ClassVar, cast

from torch import Tensor

from hyperinverter.extractors.base import CARRIED, Extractor, check_size
from hyperinverter.models.lpips_network import LpipsNetwork
from hyperinverter.published import from_published


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
