"""Face identity loss network: ArcFace's IR-SE50 (Deng et al., CVPR 2019, arXiv:1801.07698), cropped as pSp does.

Parameter names are those of the released model_ir_se50.pth. Crop: Richardson et al., CVPR 2021 (pSp), the identity loss
that HyperInverter's section 4.1 uses for faces.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import Embedding, check_size, load_exactly
from hyperinverter.extractors.resize import at_most
from hyperinverter.models.backbones.irse import irse_modules

FRAME_PX = 256  # the crop below is in pixels of an FFHQ-framed image of this size
ROWS, COLUMNS = slice(35, 223), slice(32, 220)
FACE_PX = 112


class FaceNetwork(nn.Module):
    """IR trunk of four stride-2 stages and the 512-d embedding head: [N,3,112,112] -> [N,512], not normalised.

    Args:
        depths: residual units per stage.
        squeeze_excitation: IR-SE units rather than IR.
        has_affine_embedding: the last BatchNorm has weight and bias.
    """

    def __init__(self, depths: Sequence[int], *, squeeze_excitation: bool, has_affine_embedding: bool) -> None:
        super().__init__()
        widths, strides = (64, 128, 256, 512), (2, 2, 2, 2)
        modules = irse_modules(64, 1, widths, depths, strides, squeeze_excitation=squeeze_excitation)
        for name, module in modules.items():
            self.add_module(name, module)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),  # inactive: these networks are always in eval mode; it keeps the published indices
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512, affine=has_affine_embedding),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(faces)))


def build_face_network(state: dict[str, Tensor], what: str, **sizes: object) -> FaceNetwork:
    with torch.device("meta"):  # no random initialisation of weights that are replaced at once
        network = FaceNetwork(**sizes)
    network = network.to_empty(device="cpu")
    load_exactly(network, state, what)
    return network


class ArcFace(Embedding):
    """Unit 512-vectors of IR-SE50 on the face crop, images in [-1,1].

    As published: rows 35:223 and columns 32:220 of the image at 256 px, box mean to 112 px. Larger images are reduced
    to 256 px by box mean first, smaller ones enlarged bilinearly.

    Args:
        state: as in model_ir_se50.pth.
    """

    filenames = ("model_ir_se50.pth",)
    purpose = "the ArcFace identity loss (identity)"
    source = "the pixel2style2pixel project (its README, 'Auxiliary Models': IR-SE50)"
    smallest_px = 16

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        sizes = {"depths": (3, 4, 14, 3), "squeeze_excitation": True, "has_affine_embedding": True}
        self.net = build_face_network(state, "ArcFace IR-SE50 (model_ir_se50.pth)", **sizes)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        images = at_most(images, FRAME_PX)
        if images.shape[-1] < FRAME_PX:
            images = F.interpolate(images, size=FRAME_PX, mode="bilinear", align_corners=False)
        faces = F.adaptive_avg_pool2d(images[:, :, ROWS, COLUMNS], FACE_PX)
        return F.normalize(self.net(faces).float(), dim=1)
