"""Face identity loss network: ArcFace's IR-SE50 (Deng et al., CVPR 2019, arXiv:1801.07698), cropped as pSp does.

Crop: Richardson et al., CVPR 2021 (pSp), the identity loss that HyperInverter's section 4.1 uses for faces.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hyperinverter.extractors.base import Embedding, check_size
from hyperinverter.extractors.resize import at_most
from hyperinverter.published import from_published

FRAME_PX = 256  # the crop below is in pixels of an FFHQ-framed image of this size
ROWS, COLUMNS = slice(35, 223), slice(32, 220)
FACE_PX = 112


class ArcFace(Embedding):
    """Unit 512-vectors of IR-SE50 on the face crop, images in [-1,1].

    As published: rows 35:223 and columns 32:220 of the image at 256 px, box mean to 112 px. Larger images are reduced
    to 256 px by box mean first, smaller ones enlarged bilinearly.

    Args:
        state: content of model_ir_se50.pth.
    """

    filenames = ("model_ir_se50.pth",)
    purpose = "the ArcFace identity loss (identity)"
    source = "the pixel2style2pixel project (its README, 'Auxiliary Models': IR-SE50)"
    smallest_px = 16

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.net = from_published(state, "arcface", input_size=FACE_PX)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        images = at_most(images, FRAME_PX)
        if images.shape[-1] < FRAME_PX:
            images = F.interpolate(images, size=FRAME_PX, mode="bilinear", align_corners=False)
        faces = F.adaptive_avg_pool2d(images[:, :, ROWS, COLUMNS], FACE_PX)
        return F.normalize(self.net(faces).float(), dim=1)
