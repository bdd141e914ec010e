"""MoCo v2 features (Chen et al., 2020, arXiv:2003.04297): what replaces face identity for domains without faces.

Loss as published by Tov et al. (e4e, SIGGRAPH 2021) and used in HyperInverter's section 4.1 for churches.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hyperinverter.extractors.base import Embedding, check_size
from hyperinverter.published import from_published


class Moco(Embedding):
    """Unit 2048-vectors of a ResNet50 trained without labels.

    As published: nearest-neighbour resize to 224 px and no ImageNet normalisation, values stay in [-1,1]. Unlike the
    published code, a batch of one works.

    Args:
        checkpoint: the released file's content (`state_dict` with `module.encoder_q.*`), or a bare ResNet50 state dict;
            the projection head `fc.*` is not used.
    """

    filenames = ("moco_v2_800ep_pretrain.pth.tar",)
    purpose = "the MoCo similarity loss (moco)"
    source = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"
    smallest_px = 8

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        super().__init__()
        self.net = from_published(checkpoint, "moco")
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        return F.normalize(self.net(F.interpolate(images, size=224)).float(), dim=1)
