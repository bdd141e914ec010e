"""Bias, activation, gain and clamp against their definition."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops.bias_act import bias_act


def test_order_of_the_steps() -> None:
    torch.manual_seed(0)
    x, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    shifted = x + b[None, :, None, None]
    torch.testing.assert_close(bias_act(x, b), shifted)
    torch.testing.assert_close(bias_act(x, b, "lrelu"), F.leaky_relu(shifted, 0.2) * math.sqrt(2))
    torch.testing.assert_close(bias_act(x, b, "lrelu", gain=0.5), F.leaky_relu(shifted, 0.2) * 0.5)
    limited = (F.leaky_relu(shifted, 0.2) * 3).clamp(-0.4, 0.4)
    torch.testing.assert_close(bias_act(x, b, "lrelu", gain=3, clamp=0.4), limited)
    torch.testing.assert_close(bias_act(x[:, :, 0, 0], b, "lrelu", gain=1), F.leaky_relu(x[:, :, 0, 0] + b, 0.2))


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
    torch.testing.assert_close(bias_act(x, b, act, gain=0.5, clamp=0.2), (activated * 0.5).clamp(-0.2, 0.2))


def test_leaves_its_input_alone() -> None:
    x = torch.full((1, 2, 1, 1), -1.0)
    bias_act(x, None, "lrelu", gain=1)
    bias_act(x, torch.zeros(2), "lrelu")
    assert x.eq(-1).all()


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"'gelu', expected one of \['elu', 'linear', 'lrelu', .*'tanh'\]"):
        bias_act(torch.zeros(1, 1), act="gelu")
    with pytest.raises(ValueError, match="gain must be positive, got -1"):
        bias_act(torch.zeros(1, 1), gain=-1)
