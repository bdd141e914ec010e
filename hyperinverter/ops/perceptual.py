"""Distance between feature maps of two images, as LPIPS defines it.

Source: The Unreasonable Effectiveness of Deep Features (Zhang et al., CVPR 2018, arXiv:1801.03924), section 3.
"""

import torch
from torch import Tensor


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
