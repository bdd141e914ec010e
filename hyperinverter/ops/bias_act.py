"""Bias, activation, gain and clamp in one place.

Source: StyleGAN2 (arXiv:1912.04958), section B; gains as in StyleGAN2-ADA (arXiv:2006.06676).
"""

import math

import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2  # StyleGAN, all generator and discriminator layers
ACTIVATION_GAINS = {"linear": 1.0, "lrelu": math.sqrt(2.0)}  # keep the variance of a unit normal input near 1


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias per channel, apply the activation, multiply by the gain, clamp.

    Args:
        x: activations, channels in dimension 1, [N, C, ...].
        b: bias [C], or None for no bias.
        act: "linear" or "lrelu" (slope 0.2).
        gain: multiplies the activation, must be positive; None means the activation's own gain (1 or sqrt(2)).
        clamp: the result is limited to [-clamp, clamp]; None means no limit.
    Returns:
        Tensor of x's shape.
    Raises:
        ValueError: unknown activation, or a gain that is not positive.
    """
    if act not in ACTIVATION_GAINS:
        raise ValueError(f"unknown activation {act!r}, expected one of {sorted(ACTIVATION_GAINS)}")
    gain = ACTIVATION_GAINS[act] if gain is None else float(gain)
    if not gain > 0:
        raise ValueError(f"the gain must be positive, got {gain}")
    # Both activations are positively homogeneous: the gain may come before them, in the pass that adds the bias.
    y = x * gain
    if b is not None:
        y = y + b.reshape(1, -1, *[1] * (x.ndim - 2)) * gain
    return activate_(y, act, clamp)


def activate_(x: Tensor, act: str, clamp: float | None = None) -> Tensor:
    """Activation and clamp alone, for callers that have folded bias and gain into x; may overwrite x."""
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE, inplace=True)
    return x if clamp is None else x.clamp(-clamp, clamp)
