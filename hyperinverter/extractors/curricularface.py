"""Face identity of the metric: CurricularFace's IR-101 (Huang et al., CVPR 2020, arXiv:2004.00288).

Another network than the loss's ArcFace, so that the metric does not reward what the loss optimised.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hyperinverter.extractors.base import Embedding, check_size
from hyperinverter.extractors.mobilefacenet import FACE_LEFT, FACE_PX, FACE_SIDE, FACE_TOP
from hyperinverter.extractors.resize import crop_resize
from hyperinverter.published import from_published


class CurricularFace(Embedding):
    """Unit 512-vectors of IR-101 on FFHQ-framed images in [-1,1].

    The published script finds five landmarks with MTCNN and skips images without a detection. Inputs here are
    FFHQ-framed already, so the square that lies on the same 112 px template is cut out of all and none is skipped.

    Args:
        state: content of CurricularFace_Backbone.pth.
    """

    filenames = ("CurricularFace_Backbone.pth",)
    purpose = "the CurricularFace identity metric (identity)"
    source = "the pixel2style2pixel project (its README, 'Auxiliary Models': CurricularFace Backbone)"
    smallest_px = 16

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.net = from_published(state, "curricularface", input_size=FACE_PX)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        faces = crop_resize(images.float(), FACE_LEFT, FACE_TOP, FACE_SIDE, FACE_PX)
        return F.normalize(self.net(faces).float(), dim=1)
