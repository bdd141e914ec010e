"""Distances of two sets of features in which elements count with a weight: for intervals over redrawn photos.

`frechet` is FID's formula (Heusel et al., NeurIPS 2017), `Kernels.distance` KID's unbiased squared MMD with its cubic
kernel (Binkowski et al., ICLR 2018); with all weights 1 they give torch-fidelity's numbers, which takes no weights.
Letters: N, M elements of the sets, F features, B resamples.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor, weights_a: Tensor | None = None, weights_b: Tensor | None = None) -> float:
    """Frechet distance of the Gaussians of two sets [N, F] and [M, F]; it grows as sets get smaller.

    The trace of the root of both covariances' product is the sum of the singular values of A Bᵀ, [N, M], for centred
    A and B: exact, and no F × F matrix for sets smaller than F.
    """
    (mean_a, a), (mean_b, b) = (_centred(x, w) for x, w in ((a, weights_a), (b, weights_b)))
    both = torch.linalg.svdvals(a @ b.T).sum()
    return float((mean_a - mean_b).square().sum() + a.square().sum() + b.square().sum() - 2 * both)


def _centred(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean [F], and rows whose product with their transpose is the covariance."""
    x = x.double()
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    is_there = weights > 0
    x, weights = x[is_there], weights[is_there]
    mean = weights @ x / weights.sum()
    return mean, (weights / (weights.sum() - 1)).sqrt()[:, None] * (x - mean)


@dataclass(frozen=True)
class Kernels:
    """KID's kernel between all elements of two sets: [N, N], [M, M], [N, M]."""

    a: Tensor
    b: Tensor
    both: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Self:
        a, b = a.double(), b.double()
        return cls(*((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))))

    def distance(self, weights_a: Tensor, weights_b: Tensor) -> Tensor:
        """Squared MMD [B] for weights [B, N] and [B, M]; no element is paired with itself, however often drawn."""
        wa, wb = weights_a.double(), weights_b.double()
        across = ((wa @ self.both) * wb).sum(1) / (wa.sum(1) * wb.sum(1))
        return _within(self.a, wa) + _within(self.b, wb) - 2 * across


def _within(kernel: Tensor, weights: Tensor) -> Tensor:
    own = weights.square()
    pairs = ((weights @ kernel) * weights).sum(1) - own @ kernel.diagonal()
    return pairs / (weights.sum(1).square() - own.sum(1))


def redrawn(groups: list[str], count: int, seed: int = 0) -> dict[str, Tensor]:
    """How often each group is drawn in `count` resamples of the groups, with replacement: group -> [count]."""
    names = sorted(set(groups))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return dict(zip(names, torch.from_numpy(drawn).T, strict=True))
