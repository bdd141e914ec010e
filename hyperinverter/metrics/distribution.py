"""FID and KID: how far the set of outputs lies from the set of inputs, in Inception features, through torch-fidelity.

FID: Heusel et al., NeurIPS 2017 (arXiv:1706.08500). KID: Binkowski et al., ICLR 2018 (arXiv:1801.01401).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from hyperinverter.extractors.inception import Inception
from hyperinverter.extractors.perceptual import SqueezeNetFeatures
from hyperinverter.metrics.base import KID_SUBSET_SIZE, Metric, NotMeasured, Parts, Remembered
from hyperinverter.utils.checks import check_pairs

KID_SUBSETS, KID_SEED = 100, 2020  # as the paper's scripts call torch-fidelity
FEWEST_IMAGES = 2  # a covariance needs two


class SetMetric(Metric):
    """Collects features [N,F] of both sets. Subclasses define `distance`."""

    better = "lower"
    taken: list[tuple[Tensor, Tensor]]  # features of real and of fake [N,F]

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features = features

    @classmethod
    def build(cls, parts: Parts) -> Self:
        return cls(parts.inception)

    @abstractmethod
    def distance(self, fake: Tensor, real: Tensor) -> float:
        """Two sets of features [n,F] -> their distance."""

    @classmethod
    def networks(cls) -> dict[str, str]:
        return Inception.file_hashes()

    def update(self, real: Tensor, fake: Tensor) -> None:
        check_pairs(real, fake, "real and fake")
        self.taken.append((self.features(real).cpu(), self.features(fake).cpu()))

    @property
    def count(self) -> int:
        return sum(len(real) for real, _ in self.taken)

    def compute(self) -> float:
        if self.count < FEWEST_IMAGES:
            raise NotMeasured(f"{self.name} needs at least {FEWEST_IMAGES} images, got {self.count}")
        real, fake = (torch.cat(features) for features in zip(*self.taken, strict=True))
        return self.distance(fake, real)


class Fid(SetMetric):
    """Frechet distance of two Gaussians; biased upwards for few images, so compare only equal counts."""

    name, unit = "fid", ""

    def distance(self, fake: Tensor, real: Tensor) -> float:
        from torch_fidelity import metric_fid

        statistics = [metric_fid.fid_features_to_statistics(x) for x in (fake, real)]
        return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]

    def protocol(self) -> dict[str, Any]:
        return {"fid_images": self.count}


class FrechetSqueezeNet(Fid):
    """FID's formula on the small SqueezeNet's last features, at the loss resolution: where Inception is absent."""

    name = "frechet_squeezenet"

    @classmethod
    def build(cls, parts: Parts) -> Self:
        parts.check_reduced(SqueezeNetFeatures)
        network = SqueezeNetFeatures.find().to(parts.device)
        return cls(Remembered(lambda images: network.pooled(parts.reduction(images))))

    @classmethod
    def networks(cls) -> dict[str, str]:
        return SqueezeNetFeatures.file_hashes()

    def protocol(self) -> dict[str, Any]:
        return {"frechet_squeezenet_images": self.count}


class Kid(SetMetric):
    """Squared MMD with a cubic kernel, unbiased, mean over subsets, times 1000.

    A subset holds all images where there are fewer than `wanted_size`.
    """

    name, unit = "kid_x1e3", "x 1000"

    def __init__(self, features: Callable[[Tensor], Tensor], wanted_size: int = KID_SUBSET_SIZE) -> None:
        super().__init__(features)
        self.wanted_size = wanted_size

    @classmethod
    def build(cls, parts: Parts) -> Self:
        return cls(parts.inception, parts.kid_subset_size)

    @property
    def subset_size(self) -> int:
        return min(self.wanted_size, self.count)

    def distance(self, fake: Tensor, real: Tensor) -> float:
        from torch_fidelity import metric_kid

        result = metric_kid.kid_features_to_metric(
            fake, real, kid_subsets=KID_SUBSETS, kid_subset_size=self.subset_size, rng_seed=KID_SEED, verbose=False
        )
        return 1000 * result[metric_kid.KEY_METRIC_KID_MEAN]

    def protocol(self) -> dict[str, Any]:
        return {"kid_subset_size": self.subset_size, "kid_subsets": KID_SUBSETS}
