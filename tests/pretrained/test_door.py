"""The door itself: where it stands and what may be handed to it; each kind has tests of its own."""

import numpy as np
import pytest
import torch
from small_stylegan2 import make_generator
from torch import Tensor

import hyperinverter.pretrained
from hyperinverter.pretrained import KINDS, Published, from_published
from hyperinverter.pretrained.published.nvidia import to_published
from hyperinverter.utils.errors import UserError

NVIDIA_G = "stylegan2_ada_generator"


def test_the_door_stands_where_it_is_looked_for() -> None:
    assert {"KINDS", "Published", "from_published"} <= set(hyperinverter.pretrained.__all__)
    assert len(KINDS) == 15
    with pytest.raises(ValueError, match=f"kind is 'stylegan'; write one of {KINDS[0]}"):
        from_published({}, "stylegan")


def test_numpy_arrays_do_for_tensors() -> None:
    """As a written recipe fills them, scalars included; the arrays stay as they are."""
    state = to_published(make_generator())
    arrays = {name: np.float32(value) if value.ndim == 0 else value.numpy().copy() for name, value in state.items()}
    for content in (arrays, {"G_ema": arrays}):
        network = from_published(content, NVIDIA_G)
        assert isinstance(network.published, Published)
        loaded: dict[str, Tensor] = to_published(network)
        assert all(torch.equal(loaded[name], value) for name, value in state.items())
    with torch.no_grad():
        network.synthesis.b4.const.zero_()
    assert arrays["synthesis.b4.const"].any()
    with pytest.raises(UserError, match=r"synthesis\.b4\.const is a ndarray, expected a tensor"):
        from_published({**arrays, "synthesis.b4.const": np.array(["a"])}, NVIDIA_G)
