"""Resizing inside losses and metrics: box mean to the loss resolution, and a differentiable crop of the face."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def at_most(images: Tensor, resolution: int) -> Tensor:
    """Images reduced to `resolution` by box mean, as the published losses do; smaller ones are left as they are."""
    return F.adaptive_avg_pool2d(images, resolution) if images.shape[-1] > resolution else images


def crop_resize(images: Tensor, left: float, top: float, side: float, size: int) -> Tensor:
    """Cut a square and resize it to [N,C,size,size]: the numbers of `PIL.Image.resize(size, BILINEAR, box)`.

    One matrix per axis does both, bilinear with antialiasing, so the square may start between pixels and the result is
    differentiable.

    Args:
        images: [N,C,R,R].
        left, top, side: the square in unit coordinates (0..1 of the image's side).
    """
    pixels = images.shape[-1]
    horizontal = _resampling_matrix(pixels, left * pixels, side * pixels, size).to(images)
    vertical = _resampling_matrix(pixels, top * pixels, side * pixels, size).to(images)
    return vertical @ images @ horizontal.T  # [s,R] @ [N,C,R,R] @ [R,s]


@lru_cache(maxsize=32)
def _resampling_matrix(pixels: int, start: float, length: float, size: int) -> Tensor:
    """[size, pixels]: triangle filter around each output pixel's centre, widened when shrinking; rows sum to 1."""
    step = length / size  # input pixels per output pixel
    centres = start + (torch.arange(size, dtype=torch.float64) + 0.5) * step
    positions = torch.arange(pixels, dtype=torch.float64) + 0.5
    weights = (1 - (positions[None] - centres[:, None]).abs() / max(step, 1.0)).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()
