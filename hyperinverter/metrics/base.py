"""What every metric offers, and how a value comes with its interval.

Letters: N images of a batch. A metric takes batches of pairs and gives one number; most also give one number per image.
"""

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.extractors.base import Extractor, too_small
from hyperinverter.extractors.dlib_face import DlibFace
from hyperinverter.extractors.inception import Inception
from hyperinverter.extractors.resize import at_most
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.utils.checks import check_pairs
from hyperinverter.utils.images import resized_as_files

KID_SUBSET_SIZE = 1000  # published for faces
REMEMBERED = 3  # batches: the real images and the outputs of two methods
ROWS_AT_ONCE = 1 << 16  # that resamples draw, 0.5 MB of a column


class NotMeasured(Exception):
    """A metric cannot be measured here; the message is the reason that goes into the result."""


class Remembered:
    """A function of images whose last few results are kept: metrics and methods that see the same images share one.

    `compute`: images [N,3,R,R] -> what is wanted of them.
    """

    def __init__(self, compute: Callable[[Tensor], Any]) -> None:
        self._compute = compute
        self._recent: deque[tuple[Tensor, Any]] = deque(maxlen=REMEMBERED)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        for seen, result in self._recent:
            if seen is images:
                return result
        result = self._compute(images)
        self._recent.append((images, result))
        return result


# `metric_filter` -> how images are reduced, as the protocol says
FILTERS = {
    "bilinear": "Pillow's bilinear with antialiasing, from 8-bit to 8-bit pixels (published)",
    "box": "box mean, not rounded (as the training losses)",
}


class Reduction(Remembered):
    """Images above `resolution` are reduced to it; smaller ones are left as they are.

    Args:
        resolution: px.
        filter: a key of FILTERS.
    """

    def __init__(self, resolution: int, filter: str = "bilinear") -> None:
        super().__init__(lambda images: at_most(images, resolution) if filter == "box" else self._resized(images))
        if filter not in FILTERS:
            raise ValueError(f"filter is {filter!r}; write one of {', '.join(FILTERS)}")
        self.resolution = resolution

    def _resized(self, images: Tensor) -> Tensor:
        return resized_as_files(images, self.resolution) if images.shape[-1] > self.resolution else images


class RecentFeatures(Remembered):
    """Features of the last few batches, one network pass for all metrics and methods that see the same images.

    `reduction`: what images go through first; None leaves them alone.
    """

    def __init__(self, extractor: Extractor, reduction: Reduction | None) -> None:
        self.extractor = extractor
        super().__init__(lambda images: extractor.features(images if reduction is None else reduction(images)))


@dataclass
class Parts:
    """What metrics are built from."""

    domain: DomainConfig
    discriminator: Discriminator | None
    device: torch.device
    metric_filter: str = "bilinear"  # a key of FILTERS
    kid_subset_size: int = KID_SUBSET_SIZE

    @cached_property
    def reduction(self) -> Reduction:
        """To the loss resolution, once for every metric there."""
        return Reduction(self.domain.loss_resolution, self.metric_filter)

    @cached_property
    def inception(self) -> RecentFeatures:
        """One Inception for FID and KID."""
        check_there(Inception)
        return RecentFeatures(Inception.find().to(self.device), None)

    @cached_property
    def dlib(self) -> RecentFeatures:
        """One dlib network for identity and distance; on the CPU, whatever the device."""
        check_there(DlibFace)
        return RecentFeatures(DlibFace.find(), None)

    def check_reduced(self, extractor: type[Extractor]) -> None:
        """Raises NotMeasured: a network of images at the loss resolution is absent, or these are too small for it."""
        resolution = min(self.domain.resolution, self.domain.loss_resolution)
        if resolution < extractor.smallest_px:
            raise NotMeasured(too_small(resolution, extractor))
        check_there(extractor)


def check_there(extractor: type[Extractor]) -> None:
    """Raises NotMeasured: a network is absent."""
    if reason := extractor.why_missing():
        raise NotMeasured(reason)


class Metric(ABC):
    """One number over pairs of images.

    Attributes:
        unit: of the number; "" for a plain ratio or score.
        better: "lower" or "higher".
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    better: ClassVar[str]

    def __init__(self) -> None:
        self.taken: list[Any] = []  # per batch; several processes put theirs together before `compute`

    @classmethod
    @abstractmethod
    def build(cls, parts: Parts) -> Self:
        """Raises NotMeasured when its network is absent or its number would mean nothing for this domain."""

    @abstractmethod
    def update(self, real: Tensor, fake: Tensor) -> Tensor | None:
        """Take a batch of pairs [N,3,R,R] in [-1,1]: what `compute` needs of it becomes one more entry of `taken`.

        Returns:
            Values [N] on the CPU, or None if only sets have a value.
        """

    @abstractmethod
    def compute(self) -> float:
        """The number over everything taken so far; raises NotMeasured when that was too little."""

    def fresh(self) -> Self:
        """The same metric with nothing taken yet; networks are shared."""
        empty = copy.copy(self)
        empty.taken = []
        return empty

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `compute()`, where there is one."""
        return None

    @classmethod
    def networks(cls) -> dict[str, str]:
        """File of each network that it measures with, of those that are here -> SHA-256: others give other numbers.

        The domain's discriminator has no file of its own and is not among them.
        """
        return {}

    def protocol(self) -> dict[str, Any]:
        """What a reader must know to compare the number; keys start with the metric's name."""
        return {}


class PerImageMetric(Metric):
    """A metric that is the mean of one value per image. Subclasses define `per_image`."""

    taken: list[Tensor]  # values [N]

    @classmethod
    def build(cls, parts: Parts) -> Self:
        return cls()

    @abstractmethod
    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        """Pairs [N,3,R,R] in [-1,1] -> values [N]."""

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> Tensor:
        check_pairs(real, fake, "real and fake")
        values = self.per_image(real, fake).double().cpu()
        self.taken.append(values)
        return values

    def compute(self) -> float:
        if not self.taken:
            raise NotMeasured(f"{self.name} was given no images")
        return torch.cat(self.taken).mean().item()

    def interval(self) -> tuple[float, float] | None:
        if sum(map(len, self.taken)) < 2:
            return None  # one image says nothing about others
        return bootstrap_interval(torch.cat(self.taken).numpy())


def bootstrap_interval(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [n] over seeded resamples (Efron, 1979).

    It says how far the mean would move with other images of the same kind, not with other training runs.
    """
    means = [values[chosen].mean(1) for chosen in _resamples(len(values), resamples, seed)]
    return middle_95(np.concatenate(means))


def bootstrap_ratio(first: np.ndarray, second: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of mean(second) / mean(first), both [n] of the same images, which are drawn together."""
    drawn = _resamples(len(first), resamples, seed)
    return middle_95(np.concatenate([second[chosen].mean(1) / first[chosen].mean(1) for chosen in drawn]))


def bootstrap_means(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Means of the columns of `values` [n, columns] over seeded resamples of its rows: [resamples, columns]."""
    return np.concatenate([values[chosen].mean(1) for chosen in _resamples(len(values), resamples, seed)])


def _resamples(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Rows that are drawn, [some, count]: all resamples in a few arrays, which is faster than an array for each."""
    rng, at_once = np.random.default_rng(seed), max(1, ROWS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        yield rng.integers(0, count, (min(at_once, resamples - start), count))


def middle_95(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Where the middle 95 % of the values lie: 2.5 % of them are below the first number, 2.5 % above the second."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
