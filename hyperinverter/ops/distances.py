"""How far two images lie apart in feature maps, as LPIPS defines it, and two changes as a share of the first.

Source: The Unreasonable Effectiveness of Deep Features (Zhang et al., CVPR 2018, arXiv:1801.03924), section 3.
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


def unit_normalise(maps: Tensor, eps: float = 1e-10) -> Tensor:
    """Each position's channel vector scaled to length 1, in float32.

    Published as f / (|f| + eps); written so that its gradient stays finite where every channel is 0.
    """
    maps = maps.float()
    return maps * torch.rsqrt(maps.square().sum(dim=1, keepdim=True) + eps * eps)


def perceptual_distance(a: list[Tensor], b: list[Tensor], heads: list[Tensor]) -> Tensor:
    """LPIPS's formula: weighted squared difference, mean over positions, sum over layers.

    Args:
        a: unit-normalised maps [N,C,h,w], one per layer; b: the same of the other images.
        heads: weight of each channel [1,C,1,1], one per layer.
    Returns:
        Distance [N].
    """
    layers = [((x - y).square() * head).sum(dim=1).mean(dim=(1, 2)) for x, y, head in zip(a, b, heads, strict=True)]
    return torch.stack(layers).sum(dim=0)
