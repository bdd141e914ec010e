"""Inception-v3 features for FID and KID, through torch-fidelity and from a local file only (nothing is downloaded)."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.extractors.base import Extractor, load_exactly
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import to_uint8

ARRAYS = ("weight", "beta", "mean", "var")  # of a convolution, in the order of the package's archive


class Inception(Extractor):
    """2048 features per image of the TensorFlow Inception of 2015, as FID is defined on.

    There is no `distance`: FID and KID compare sets of images.

    `state`: torch-fidelity's state dict; or number -> flat array, four for each of the 94 convolutions, as in the
    package of `download.py inception_2015`.
    """

    filenames = ("weights-inception-2015-12-05-6726825d.pth",)
    also_as = ("inception_2015_features.safetensors",)
    purpose = "FID and KID (Inception-v3)"
    source = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    )
    smallest_px = 2  # any size is enlarged to 299 px

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = _network()
        what = "Inception-v3 of 2015, for FID"
        load_exactly(self.net, _of_arrays(self.net, state, what) if "0" in state else state, what)
        self.freeze()

    @classmethod
    def read_file(cls, path: Path) -> Any:
        if path.name == cls.filenames[0]:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            expected = path.stem.rpartition("-")[2]  # torch hub's convention: the name ends in the hash's first digits
            if not digest.startswith(expected):
                raise UserError(f"{path}: its SHA-256 starts with {digest[:8]}, expected {expected}; fetch it again")
        return super().read_file(path)

    def features(self, images: Tensor) -> Tensor:
        """Images [N,3,R,R] in [-1,1], rounded to 8 bits -> [N,2048]."""
        return self.net(to_uint8(images))[0]


def _network() -> nn.Module:
    """torch-fidelity's network before it has weights: its own loader could run code from a file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Features(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    return Features("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)


def _of_arrays(network: nn.Module, arrays: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Its state dict from the convolutions' arrays in order; the classifier, which FID leaves out, is 0.

    Raises UserError: their number or sizes are others.
    """
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items() if name.startswith("fc.")}
    convolutions = [name.removesuffix(".conv.weight") for name in network.state_dict() if name.endswith("conv.weight")]
    own = network.state_dict()
    if len(arrays) != len(ARRAYS) * len(convolutions):
        raise UserError(f"these weights are not {what}: {len(arrays)} arrays; fetch the original file")
    for i, name in enumerate(convolutions):
        weight, beta, mean, var = (arrays[str(len(ARRAYS) * i + j)] for j in range(len(ARRAYS)))
        shape = own[f"{name}.conv.weight"].shape
        state[f"{name}.conv.weight"] = weight.view(shape) if weight.numel() == shape.numel() else weight
        state[f"{name}.bn.weight"] = torch.ones_like(beta)
        state |= {f"{name}.bn.bias": beta, f"{name}.bn.running_mean": mean, f"{name}.bn.running_var": var}
    return state
