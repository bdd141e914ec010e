"""A plain function as what measures images."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SquaredDistance:
    """The squared distance of a function's outputs [1, F], as NVIDIA's projector measures it."""

    features: Callable[[Tensor], Tensor]

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).sum(dim=1)
