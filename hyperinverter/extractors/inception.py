"""Inception-v3 features for FID and KID, through torch-fidelity and from a local file only (nothing is downloaded)."""

import hashlib
from pathlib import Path
from typing import Self

from torch import Tensor

from hyperinverter.extractors.base import Extractor, find_required, read_network, told_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import to_uint8


class Inception(Extractor):
    """2048 features per image of the TensorFlow Inception of 2015, as FID is defined on.

    torch-fidelity reads the file with a loader that could run code from it, so `find` first checks the hash in the
    file's name and that the file loads as plain tensors. There is no `distance`: FID and KID compare sets of images.

    Args:
        path: the checked weights file.
    """

    filenames = ("weights-inception-2015-12-05-6726825d.pth",)
    purpose = "FID and KID (Inception-v3)"
    source = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    )
    smallest_px = 2  # any size is enlarged to 299 px

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
        self.freeze()

    @classmethod
    def find(cls) -> Self:
        path = find_required(cls, cls.filenames[0])
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        expected = path.stem.rpartition("-")[2]  # torch hub's convention: the name ends in the hash's first 8 digits
        if not digest.startswith(expected):
            raise UserError(f"{path}: its SHA-256 starts with {digest[:8]}, expected {expected}; fetch it again")
        read_network(path)
        with told_of(cls, [path]):
            return cls(path)

    def features(self, images: Tensor) -> Tensor:
        """Images [N,3,R,R] in [-1,1], rounded to 8 bits -> [N,2048]."""
        return self.net(to_uint8(images))[0]
