"""`from_published`: where it stands and what may be handed to it; each kind has tests of its own."""

import numpy as np
import pytest
import torch
from as_published import to_published
from small_stylegan2 import make_generator
from torch import Tensor

import hyperinverter.published
from hyperinverter.config.commands import run_command
from hyperinverter.published import KINDS, Published, from_published
from hyperinverter.releases.catalog import aligned
from hyperinverter.utils.errors import UserError

NVIDIA_G = "stylegan2_ada_generator"


def test_what_the_package_offers() -> None:
    assert {"KINDS", "Published", "from_published"} <= set(hyperinverter.published.__all__)
    assert len(KINDS) == len(set(KINDS)) == 16
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


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_are_no_text_are_refused(kind: str) -> None:
    """They ended in AttributeError: numbers and None have no prefix."""
    stems = ("conv1.weight", "input_layer.0.weight", "encoder.conv1.weight", "hypernet.conv1.weight", "w1", "b4_x.w1")
    for odd in (1, None, (1, 2), b"conv1.weight"):
        state = {odd: torch.zeros(1)} | dict.fromkeys(stems, torch.zeros(4, 3, 3, 3))
        for content in (state, {"state_dict": state}, {"G_ema": state, "D": state, "g_ema": state}):
            with pytest.raises(UserError, match="given state dict: not "):
                from_published(content, kind)


def test_names_out_of_a_file_do_not_reach_the_terminal_as_they_are(tmp_path, capsys) -> None:
    name = "\x1b[2J\x1b]0;title\x07\nerror\u202e" + 10_000 * "k"
    torch.save({name: torch.zeros(1), "w1": torch.zeros(2, 2)}, tmp_path / "odd.pt")
    for words in (["--inspect", f"{tmp_path}/odd.pt"], ["--inspect", f"{tmp_path}/odd.pt", "--kind", "hypernetwork"]):
        with pytest.raises(SystemExit) as stopped:
            run_command("convert", words)
        told = capsys.readouterr().err
        assert stopped.value.code == 2 and len(told) < 1000 and told.startswith("error: ")
        assert told.removesuffix("\n").isprintable()
    assert r"\x1b[2J" in "".join(aligned([("key", name)])) and "\n" not in aligned([("key", name)])[0]
