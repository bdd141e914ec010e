"""LPIPS v0.1 (Zhang et al., CVPR 2018, arXiv:1801.03924): the published perceptual loss and metric."""

from typing import Any

from torch import Tensor

from hyperinverter.extractors.base import Extractor, check_size
from hyperinverter.pretrained.published import from_published


class Lpips(Extractor):
    """LPIPS of images in [-1,1]; `net` alex is the paper's.

    Args:
        backbone: torchvision's state dict of the ImageNet network, to which the `lpips` package adds its calibrated
            heads; or a whole published LPIPS state dict.
        net: alex, vgg or squeeze.
    """

    filenames = ("alexnet-owt-7be5be79.pth",)
    also_as = ("alexnet_features_torchvision.safetensors", "alexnet_features_torchvision.npz")
    purpose = "LPIPS (AlexNet, ImageNet)"
    source = (
        "a package registry (python scripts/download.py alexnet) or from torchvision "
        "(https://download.pytorch.org/models/alexnet-owt-7be5be79.pth)"
    )
    smallest_px = 32

    def __init__(self, backbone: dict[str, Any], net: str = "alex") -> None:
        super().__init__()
        self.net = from_published(backbone, "lpips", net=net)
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        check_size(images, type(self))
        return self.net.features(images)

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return self.net.distance(a, b)
