"""LPIPS v0.1 (Zhang et al., CVPR 2018, arXiv:1801.03924) through the `lpips` package, the backbone read from a file.

The package carries the calibrated linear heads; the ImageNet backbone is torchvision's file.
"""

import warnings

from torch import Tensor

from hyperinverter.extractors.base import Extractor, check_size, load_exactly, perceptual_distance, unit_normalise


class Lpips(Extractor):
    """The published perceptual loss and metric; `net` alex is the paper's.

    Args:
        backbone: torchvision's state dict of the ImageNet network, keys `features.*` (others are ignored).
        net: alex or vgg.
    """

    filenames = ("alexnet-owt-7be5be79.pth",)
    purpose = "LPIPS (AlexNet, ImageNet)"
    source = "torchvision (https://download.pytorch.org/models/alexnet-owt-7be5be79.pth)"
    smallest_px = 32

    def __init__(self, backbone: dict[str, Tensor], net: str = "alex") -> None:
        super().__init__()
        import lpips

        with warnings.catch_warnings():
            # torchvision warns about the `pretrained` argument that the package passes to it
            warnings.filterwarnings("ignore", message=".*'(pretrained|weights)'.*")
            self.model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        # the package cuts the backbone into slices but keeps torchvision's layer indices: slice1.0 = features.0
        net_state = {key: backbone[name] for key in self.model.net.state_dict()
                     if (name := f"features.{key.split('.', 1)[1]}") in backbone}  # fmt: skip
        load_exactly(self.model.net, net_state, f"torchvision's {net} backbone")
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        check_size(images, type(self))
        return [unit_normalise(maps) for maps in self.model.net(self.model.scaling_layer(images))]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        # a head is Dropout (off) and one 1x1 convolution to a single channel without bias
        return perceptual_distance(a, b, [head.model[-1].weight for head in self.model.lins])
