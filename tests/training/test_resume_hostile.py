"""Checkpoints that load and are not what a trainer wrote: one message with the file's name, or the run goes on."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from hyperinverter.checkpoint import load_training_state, training_states
from hyperinverter.models.build import build_w_encoder
from hyperinverter.training.optim import build_optimizer
from hyperinverter.training.resume import find_state, restore
from hyperinverter.utils.errors import UserError

from .conftest import TRAIN

DEEP: dict = {}
for _ in range(300):
    DEEP = {"a": DEEP}
ODD = (None, "x", -1, 1.5, float("nan"), 2**70, True, b"x", [], [1], [None, None], {}, {"a": {}}, {1: 2}, DEEP,
       torch.ones(3), torch.tensor([torch.nan]))  # fmt: skip
DROP = object()


def places(tree: object, inside: tuple = (), depth: int = 3) -> list[tuple]:
    """Paths of keys and numbers into nested mappings and lists; of a long list its ends."""
    found = [inside] if inside else []
    if depth and isinstance(tree, dict):
        for key in list(tree)[:6] if inside else tree:
            found += places(tree[key], (*inside, key), depth - 1)
    elif depth and isinstance(tree, list | tuple) and tree:
        for index in {0, len(tree) - 1}:
            found += places(tree[index], (*inside, index), depth - 1)
    return found


def changed(tree: object, place: tuple, value: object) -> object:
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(place) == 1 and value is DROP:
        del copy[place[0]]
    else:
        copy[place[0]] = changed(copy[place[0]], place[1:], value)
    return copy


@pytest.fixture(scope="module")
def state(whole_run):
    return load_training_state(training_states(whole_run("phase1")[0] / "checkpoints")[0])


@pytest.mark.parametrize("every", [41, pytest.param(5, marks=pytest.mark.slow)])
def test_every_value_of_a_checkpoint(every, state, make_config, tiny_domain):
    config = make_config("phase1")
    w_encoder = build_w_encoder(tiny_domain)
    optimizer = build_optimizer(w_encoder.parameters(), config.optimizer)
    initial = deepcopy(w_encoder.state_dict())
    path = training_states_folder(config) / "step_00000006.pt"

    def go_on(found: object) -> bool:
        torch.save(found, path)
        w_encoder.load_state_dict(initial)
        try:
            frozen = dict(state["frozen"])
            resumed = find_state(config, trainer="phase1", networks=["w_encoder"], frozen=frozen)
            parts = {"w_encoder": w_encoder, "optimizer": optimizer}
            restore(resumed, parts, {optimizer: config.optimizer}, data=([0] * 9, [0] * 3))
            return True
        except UserError as error:
            assert str(path.parent) in str(error) and len(str(error)) < 20_000
            return False
        finally:
            for left in path.parent.iterdir():
                left.unlink()

    assert go_on(state)
    refused = 0
    for place, value in [(place, value) for place in places(state) for value in (DROP, *ODD)][::every]:
        refused += not go_on(changed(state, place, value))
    assert refused > 10
    assert all(not go_on(value) for value in ODD)


def training_states_folder(config):
    folder = Path(config.output) / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_weights_that_are_not_finite(state, make_config):
    config = make_config("phase1", schedule={"max_steps": 8})
    name = next(name for name, tensor in state["w_encoder"].items() if tensor.is_floating_point())
    weights = {**state["w_encoder"], name: torch.full_like(state["w_encoder"][name], torch.nan)}
    torch.save({**state, "w_encoder": weights}, training_states_folder(config) / "step_00000006.pt")
    with pytest.raises(UserError, match=r"its w_encoder does not fit \(.* holds NaN"):
        TRAIN["phase1"](config)
