"""Face identity: MobileFaceNet's 128-d embedding. Not ArcFace's IR-SE50: a small net of its own name.

Network: Chen et al., 2018 (arXiv:1804.07573), in the variant of foamliu/MobileFaceNet, whose parameter names are kept.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import CARRIED, Embedding, check_size, load_exactly
from hyperinverter.extractors.resize import crop_resize

# (expansion, channels, repeats, first stride) of the inverted residuals
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
# ImageNet statistics for RGB in 0..1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The square of an FFHQ-framed image that lies on the 112 px ArcFace template (unit coordinates)
FACE_LEFT, FACE_TOP, FACE_SIDE, FACE_PX = 0.1178, 0.1095, 0.7663, 112


class MobileFaceNetwork(nn.Module):
    """[N,3,112,112], ImageNet-normalised -> [N,128]."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.mobilenetv2 import InvertedResidual
        from torchvision.ops import Conv2dNormActivation

        self.conv1 = Conv2dNormActivation(3, 64, stride=2, activation_layer=nn.ReLU6)
        depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        pointwise = nn.Conv2d(64, 64, 1, bias=False)
        layers = {"depthwise": depthwise, "bn1": nn.BatchNorm2d(64), "relu1": nn.ReLU()}
        layers |= {"pointwise": pointwise, "bn2": nn.BatchNorm2d(64), "relu2": nn.ReLU()}
        self.dw_conv = nn.Sequential(OrderedDict(layers))
        blocks, channels = [], 64
        for expansion, width, repeats, first_stride in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, width, first_stride if i == 0 else 1, expansion))
                channels = width
        self.features = nn.Sequential(*blocks)
        self.conv2 = Conv2dNormActivation(channels, 512, kernel_size=1, activation_layer=nn.ReLU6)
        whole = nn.Conv2d(512, 512, 7, groups=512, bias=False)  # one filter per channel over the whole map
        self.gdconv = nn.Sequential(OrderedDict(depthwise=whole, bn=nn.BatchNorm2d(512)))
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm1d(128)
        for layer in self.modules():
            if isinstance(layer, nn.ReLU6):
                layer.inplace = False  # up to a twentieth faster where gradients are wanted

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.dw_conv(self.conv1(x)))  # [N,128,7,7]
        return self.bn(self.conv3(self.gdconv(self.conv2(x))).flatten(1))


class MobileFaceNet(Embedding):
    """Identity embedding of an FFHQ-framed face; the face square is cut out and resized to 112 px inside.

    Args:
        state: as in mobilefacenet_112.npz.
        is_mirrored: True adds the mirrored image's embedding before normalising (the protocol of the metric); the loss
            keeps False, one pass, at half the cost.
    """

    filenames = ("mobilefacenet_112.npz",)
    purpose = "the face identity mobilefacenet"
    source = CARRIED
    smallest_px = 16
    mean: Tensor
    std: Tensor

    def __init__(self, state: dict[str, Tensor], is_mirrored: bool = False) -> None:
        super().__init__()
        self.is_mirrored = is_mirrored
        self.net = MobileFaceNetwork()
        load_exactly(self.net, state, "MobileFaceNet (mobilefacenet_112.npz)")
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        faces = crop_resize(images.float(), FACE_LEFT, FACE_TOP, FACE_SIDE, FACE_PX)
        faces = (faces * 0.5 + 0.5 - self.mean) / self.std
        embedding = self.net(faces).float()
        if self.is_mirrored:
            embedding = embedding + self.net(faces.flip(3)).float()
        return F.normalize(embedding, dim=1)
