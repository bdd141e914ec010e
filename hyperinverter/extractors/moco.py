"""MoCo v2 features (Chen et al., 2020, arXiv:2003.04297): what replaces face identity for domains without faces.

Loss as published by Tov et al. (e4e, SIGGRAPH 2021) and used in HyperInverter's section 4.1 for churches.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import Embedding, check_size, load_exactly

PREFIX = "module.encoder_q."


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
        from torchvision.models import resnet50

        state = checkpoint.get("state_dict", checkpoint)
        if any(key.startswith(PREFIX) for key in state):
            state = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
        with torch.device("meta"):  # no random initialisation of 25 million numbers that are replaced at once
            net = resnet50(weights=None)
        net.fc = nn.Identity()
        self.net = net.to_empty(device="cpu")
        load_exactly(
            self.net, {key: value for key, value in state.items() if not key.startswith("fc.")}, "MoCo v2's ResNet50"
        )
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        return F.normalize(self.net(F.interpolate(images, size=224)).float(), dim=1)
