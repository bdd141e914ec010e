"""How far two changes of images lie apart, as a share of the first: for edits that shall keep their effect.

Letters: N images, R pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Added to the mean square of a change, images in [-1, 1], before dividing by it, so that a step of next to nothing does
# not count as much as an edit: a third of what three standard deviations of a smile change on faces64.
SMALLEST_CHANGE = 0.003
SMALLEST_OF_BAND = SMALLEST_CHANGE / 10  # the same for one of several bands, which hold less each; chosen, not measured


def relative_difference(after: Tensor, before: Tensor, bands: int = 1) -> Tensor:
    """Mean square of after - before over that of `before`, [N].

    Args:
        after, before: what an edit changes, [N, 3, R, R], images in [-1, 1].
        bands: octaves of detail that are compared each by itself, and averaged.
    """
    smallest = SMALLEST_CHANGE if bands == 1 else SMALLEST_OF_BAND
    shares = []
    for off, change in zip(octaves(after - before, bands), octaves(before, bands), strict=True):
        off, change = (one.square().mean(dim=(1, 2, 3)) for one in (off, change))
        shares.append(off / (change + smallest))
    return torch.stack(shares).mean(dim=0)


def octaves(images: Tensor, count: int) -> list[Tensor]:
    """[N, 3, R, R] in `count` parts from fine to coarse, at R, R/2, R/4, ... pixels.

    The coarsest one, enlarged bilinearly and added to the next finer and so on, gives the images back.
    """
    result = []
    for _ in range(count - 1):
        coarse = functional.avg_pool2d(images, 2)
        result.append(images - functional.interpolate(coarse, images.shape[-2:], mode="bilinear"))
        images = coarse
    return [*result, images]
