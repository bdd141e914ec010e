"""Embeddings by others' networks, cropped and resized as published: who a face is, and MoCo for domains without faces.

Sources: ArcFace (Deng et al., CVPR 2019, arXiv:1801.07698) as the identity loss of pSp (Richardson et al., CVPR 2021)
and HyperInverter's section 4.1; CurricularFace (Huang et al., CVPR 2020, arXiv:2004.00288), the metric, so that it does
not reward what the loss optimised; MoCo v2 (Chen et al., 2020, arXiv:2003.04297) as published by e4e (Tov et al.,
SIGGRAPH 2021) and used in section 4.1 for churches.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from hyperinverter.extractors.base import Embedding, check_size
from hyperinverter.extractors.mobilefacenet import FACE_LEFT, FACE_PX, FACE_SIDE, FACE_TOP
from hyperinverter.extractors.resize import at_most, crop_resize
from hyperinverter.published import from_published


class PublishedEmbedding(Embedding):
    """Unit vectors [N, D] of a network that `from_published` reads; a subclass says what it is shown.

    `state`: the content of its file.
    """

    kind: ClassVar[str]  # as `from_published` takes it
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.net = from_published(state, self.kind, **self.options)
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        return F.normalize(self.net(self.shown(images)).float(), dim=1)

    def shown(self, images: Tensor) -> Tensor:
        """Images [N, 3, R, R] in [-1, 1] -> what the network takes."""
        raise TypeError(f"{type(self).__name__} must define shown(images)")


class ArcFace(PublishedEmbedding):
    """IR-SE50, 512 numbers, on rows 35:223 and columns 32:220 of an FFHQ-framed image at 256 px, box mean to 112 px.

    Larger images are reduced to 256 px by box mean first, smaller ones enlarged bilinearly.
    """

    filenames = ("model_ir_se50.pth",)
    purpose = "the ArcFace identity loss (identity)"
    source = "the pixel2style2pixel project (its README, 'Auxiliary Models': IR-SE50)"
    smallest_px = 16
    kind, options = "arcface", {"input_size": FACE_PX}

    def shown(self, images: Tensor) -> Tensor:
        images = at_most(images, 256)
        if images.shape[-1] < 256:
            images = F.interpolate(images, size=256, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(images[:, :, 35:223, 32:220], FACE_PX)


class CurricularFace(PublishedEmbedding):
    """IR-101, 512 numbers.

    The published script finds five landmarks with MTCNN and skips images without a detection. Inputs here are
    FFHQ-framed already, so the square that lies on the same 112 px template is cut out of all and none is skipped.
    """

    filenames = ("CurricularFace_Backbone.pth",)
    purpose = "the CurricularFace identity metric (identity)"
    source = "the pixel2style2pixel project (its README, 'Auxiliary Models': CurricularFace Backbone)"
    smallest_px = 16
    kind, options = "curricularface", {"input_size": FACE_PX}

    def shown(self, images: Tensor) -> Tensor:
        return crop_resize(images.float(), FACE_LEFT, FACE_TOP, FACE_SIDE, FACE_PX)


class Moco(PublishedEmbedding):
    """ResNet50 trained without labels, 2048 numbers; its projection head `fc.*` is not used.

    As published: nearest-neighbour resize to 224 px and no ImageNet normalisation, values stay in [-1,1]. Unlike the
    published code, a batch of one works.
    """

    filenames = ("moco_v2_800ep_pretrain.pth.tar",)
    purpose = "the MoCo similarity loss (moco)"
    source = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"
    smallest_px = 8
    kind = "moco"

    def shown(self, images: Tensor) -> Tensor:
        return F.interpolate(images, size=224)
