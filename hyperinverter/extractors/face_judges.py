"""Networks that come trained and say something of a face in one number: its age, yaw, or how happy it looks.

SSR-Net, for the age, is here: Yang et al., "SSR-Net: A Compact Soft Stagewise Regression Network for Age Estimation",
IJCAI 2018. Written from the paper and from the names and shapes in the published weights (shamangary/SSR-Net,
Apache-2.0): three stages of three bins over 101 years, trained on IMDB. Letters: N images, K bins of a stage.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import (
    CARRIED,
    Extractor,
    check_size,
    load_exactly,
)
from hyperinverter.extractors.onnx_faces import EmotionHappy, FaceResAge, FsaNetYaw
from hyperinverter.extractors.resize import crop_resize
from hyperinverter.utils.errors import DAMAGED, UserError, reason_of

STAGES, BINS, YEARS = 3, 3, 101  # K is BINS in each stage; a stage splits a bin of the one before
LAYERS = 4  # convolutions of each stream
POOLED = (4, 3, 3)  # side of the maps that stages 1 to 3 see: the last ones, and two earlier ones after pooling
POOL = {1: 4, 2: 8}  # stage (from 0) -> side over which it pools the maps of an earlier layer
MAPS = 10  # channels of each stage's own 1x1 convolution
INPUT_PX = 64
MOST_GROUPS = 8  # in one another in the file; Keras has two or three


class Stream(nn.Module):
    """Four 3x3 convolutions without padding, halved in between: maps of 31, 14, 6 and 4 px from 64."""

    def __init__(self, channels: int, activation: type[nn.Module], pool: type[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels if i else 3, channels, 3) for i in range(LAYERS))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, eps=1e-3) for _ in range(LAYERS))
        self.activation, self.pool = activation(), pool(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = self.activation(norm(conv(x)))
            x = self.pool(x) if i < LAYERS - 1 else x
            maps.append(x)
        return maps


class Stage(nn.Module):
    """One stage: how probable each bin is, by how much the bins move, and by how much their width changes."""

    def __init__(self, side: int, pool_px: int | None, channels: tuple[int, int]) -> None:
        super().__init__()
        size = MAPS * side * side
        self.maps = nn.ModuleList(nn.Conv2d(c, MAPS, 1) for c in channels)
        self.mixes = nn.ModuleList(nn.Linear(size, BINS) for _ in channels)
        self.pools = (nn.MaxPool2d(pool_px), nn.AvgPool2d(pool_px)) if pool_px else (nn.Identity(), nn.Identity())
        self.delta = nn.Linear(size, 1)
        self.hidden = nn.Linear(BINS, 2 * BINS)
        self.bins = nn.Linear(2 * BINS, BINS)
        self.shifts = nn.Linear(2 * BINS, BINS)

    def forward(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of both streams -> probabilities [N,K] (not normalised), shifts [N,K], change of width [N,1]."""
        flat, mixed = [], []
        for x, conv, pool, mix in zip((small, large), self.maps, self.pools, self.mixes, strict=True):
            x = pool(F.relu(conv(x))).permute(0, 2, 3, 1).flatten(1)  # channels last, as the weights were trained
            flat.append(x)
            mixed.append(F.relu(mix(x)))
        hidden = F.relu(self.hidden(mixed[0] * mixed[1]))
        delta = torch.tanh(self.delta(flat[0] * flat[1]))
        return F.relu(self.bins(hidden)), torch.tanh(self.shifts(hidden)), delta


class SsrNetwork(nn.Module):
    """[N,3,64,64], B, G, R in 0..255 -> age in years [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.large = Stream(32, nn.ReLU, nn.AvgPool2d)
        self.small = Stream(16, nn.Tanh, nn.MaxPool2d)
        self.stages = nn.ModuleList(Stage(side, POOL.get(i), (16, 32)) for i, side in enumerate(POOLED))

    def forward(self, x: Tensor) -> Tensor:
        small, large = self.small(x), self.large(x)
        age, width = torch.zeros(len(x), device=x.device), torch.full([len(x)], float(YEARS), device=x.device)
        for stage, layer in zip(self.stages, (3, 1, 0), strict=True):  # coarse to fine: deepest maps first
            probabilities, shifts, delta = stage(small[layer], large[layer])
            width = width / (BINS * (1 + delta[:, 0]))
            places = torch.arange(BINS, device=x.device) + shifts  # [N,K], in bins
            age = age + (probabilities * places).sum(dim=1) * width
        return age


class SsrNetAge(Extractor):
    """Age in years of an FFHQ-framed face, [N,1]; the distance is the difference in years.

    The whole image is shown. On 782 held-out photos of faces64 those that CelebA calls young are 30.7 years old in the
    mean and the others 45.6, and age distinguishes them with an area under the curve of 0.88; 0.81 with red and blue
    exchanged, and less with any closer crop (0.82 at nine tenths of the side, 0.72 at seven).

    `state`: of `SsrNetwork`, as `from_keras` gives it.
    """

    filenames = ("ssrnet_age_imdb_64.h5",)
    purpose = "the age in years (ssrnet_age)"
    source = CARRIED
    smallest_px = 16
    package = ("h5py", "reads Keras' files")

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = SsrNetwork()
        load_exactly(self.net, state, "SSR-Net of three stages with three bins (ssrnet_age_imdb_64.h5)")
        self.freeze()

    @classmethod
    def read_file(cls, path: Path) -> dict[str, Tensor]:
        return from_keras(_read_h5(path))

    def features(self, images: Tensor) -> Tensor:
        check_size(images, type(self))
        faces = crop_resize(images.float(), 0, 0, 1, INPUT_PX)
        return self.net((faces.clamp(-1, 1).flip(1) + 1) * 127.5)[:, None]

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs()[:, 0]


def from_keras(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Keras' arrays by `layer/weight` -> the state of `SsrNetwork`; unknown ones are kept, to be refused."""
    places = {f"conv2d_{i + 1}": f"large.convs.{i}" for i in range(LAYERS)}
    places |= {f"conv2d_{i + 1 + LAYERS}": f"small.convs.{i}" for i in range(LAYERS)}
    places |= {
        old.replace("conv2d", "batch_normalization"): new.replace("convs", "norms") for old, new in places.items()
    }
    for i in range(STAGES):
        stage = f"stages.{i}"
        places |= {f"conv2d_{2 * (LAYERS + i) + 1 + k}": f"{stage}.maps.{k}" for k in range(2)}
        places |= {f"dense_{3 * i + 1 + k}": f"{stage}.mixes.{k}" for k in range(2)}
        places |= {f"dense_{3 * i + 3}": f"{stage}.hidden", f"delta_s{i + 1}": f"{stage}.delta"}
        places |= {f"pred_age_stage{i + 1}": f"{stage}.bins", f"local_delta_stage{i + 1}": f"{stage}.shifts"}
    weights = {"kernel:0": "weight", "bias:0": "bias", "gamma:0": "weight", "beta:0": "bias",
               "moving_mean:0": "running_mean", "moving_variance:0": "running_var"}  # fmt: skip
    state = {}
    for name, array in arrays.items():
        layer, _, weight = name.partition("/")
        tensor = torch.from_numpy(np.array(array, dtype=np.float32))
        if weight == "kernel:0":  # [k,k,I,O] and [I,O] there
            tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
        state[f"{places.get(layer, layer)}.{weights.get(weight, weight)}"] = tensor.contiguous()
    return state


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a Keras weights file by `layer/weight`; links to other files are not followed."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    left = path.stat().st_size

    def take(name: str, item: Any) -> None:
        nonlocal left
        if name.count("/") > MOST_GROUPS:
            raise ValueError("its groups lie in one another without end")
        if isinstance(item, h5py.Dataset):
            left -= item.nbytes
            filters = item.id.get_create_plist().get_nfilters()
            # numbers of other files, of none, or that are unpacked to any size
            if item.is_virtual or item.external or filters or item.id.get_storage_size() < item.nbytes or left < 0:
                raise ValueError(f"the numbers of {name[:60]!r} do not lie in it one after the other")
            if item.dtype.kind not in "fiu":
                raise ValueError(f"{name[:60]!r} holds no numbers")
            arrays["/".join(name.split("/")[-2:])] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)
    except (OSError, *DAMAGED) as error:
        raise UserError(f"{path}: it cannot be read as HDF5 ({reason_of(error)}); fetch it again") from error
    return arrays


@dataclass(frozen=True)
class FaceClassifier:
    """A network that says something of a face in one number.

    Attributes:
        what: it is, in words.
        unit: of the number.
        attribute: that it measures, as directions name theirs.
        sign: -1 where more of the attribute lowers the number.
        stands_in_for: the network with which the paper measured the same, and whose numbers these are not.
    """

    extractor: type[Extractor]
    what: str
    unit: str
    attribute: str
    sign: int = 1
    stands_in_for: str = ""

    def raised(self, flip: bool = False) -> str:
        """The attribute that a direction to larger numbers raises, with a minus one that it lowers; or to smaller."""
        return self.attribute if (self.sign < 0) == flip else f"-{self.attribute}"


FACE_CLASSIFIERS = {
    "ssrnet_age": FaceClassifier(SsrNetAge, "age by SSR-Net", "years", "Young", -1, "DEX"),
    "faceres_age": FaceClassifier(FaceResAge, "age by FaceRes", "years", "Young", -1, "DEX"),
    "fsanet_yaw": FaceClassifier(FsaNetYaw, "yaw of the head by FSA-Net", "degrees", "Yaw", 1, "FacePoseNet"),
    "emotion_happy": FaceClassifier(EmotionHappy, "how probably a face looks happy", "probability", "Smiling"),
}
