"""Bias, activation, gain and clamp against their definition."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.models.stylegan2.layers import FullyConnected
from hyperinverter.ops.bias_act import activate_, split_gain


def bias_act(x: Tensor, b: Tensor, act: str = "linear", gain: float = 1.0, clamp: float | None = None) -> Tensor:
    """As the layers do it: what may be folded goes into bias and input; `gain` is beside the activation's own."""
    before, after = split_gain(act, gain)
    return activate_((x + b.reshape(1, -1, *[1] * (x.ndim - 2))) * before, act, clamp, after)


def test_order_of_the_steps() -> None:
    torch.manual_seed(0)
    x, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    shifted = x + b[None, :, None, None]
    torch.testing.assert_close(bias_act(x, b), shifted)
    torch.testing.assert_close(bias_act(x, b, "lrelu"), F.leaky_relu(shifted, 0.2) * math.sqrt(2))
    torch.testing.assert_close(bias_act(x, b, "lrelu", gain=0.5), F.leaky_relu(shifted, 0.2) * math.sqrt(0.5))
    limited = (F.leaky_relu(shifted, 0.2) * 3 * math.sqrt(2)).clamp(-0.4, 0.4)
    torch.testing.assert_close(bias_act(x, b, "lrelu", gain=3, clamp=0.4), limited)
    torch.testing.assert_close(bias_act(x[:, :, 0, 0], b, "relu"), F.relu(x[:, :, 0, 0] + b) * math.sqrt(2))


@pytest.mark.parametrize(
    ("act", "function", "own_gain"),
    [
        ("relu", F.relu, math.sqrt(2)),
        ("tanh", torch.tanh, 1.0),
        ("sigmoid", torch.sigmoid, 1.0),
        ("elu", F.elu, 1.0),
        ("selu", F.selu, 1.0),
        ("softplus", F.softplus, 1.0),
        ("swish", lambda x: x * torch.sigmoid(x), math.sqrt(2)),
    ],
)
def test_every_published_activation(act: str, function: Callable[[Tensor], Tensor], own_gain: float) -> None:
    """The gain multiplies what comes out, also where the activation is not homogeneous; the clamp comes last."""
    torch.manual_seed(0)
    x, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    activated = function(x + b[:, None, None])
    torch.testing.assert_close(bias_act(x, b, act), activated * own_gain)
    torch.testing.assert_close(bias_act(x, b, act, gain=0.5, clamp=0.2), (activated * own_gain * 0.5).clamp(-0.2, 0.2))


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"'gelu', expected one of \['elu', 'linear', 'lrelu', .*'tanh'\]"):
        FullyConnected(1, 1, "gelu")
