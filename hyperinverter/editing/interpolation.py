"""Blend two inverted images: codes and weights together, or codes only (HyperInverter, section 4.6 and figure 9)."""

import torch

from hyperinverter.inverters.inversion import Inversion


def interpolate(first: Inversion, last: Inversion, steps: int, weights: bool = True) -> list[Inversion]:
    """`steps` Inversions at equal distances from `first` (t = 0) to `last` (t = 1), both included.

    The published script starts at its right image (t weighs the left one); here t = 0 is the first image given.

    Args:
        last: as many, by the same model.
        steps: at least 2.
        weights: True blends w and Δθ; False blends w only and uses the generator as it is.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; write at least 2, the two images themselves")
    return [first.interpolate(last, t, weights) for t in torch.linspace(0, 1, steps, dtype=torch.float64).tolist()]
