"""Model files and training states: whole or not at all, checked, and read without running code."""

import pickle
import random
import stat

import numpy as np
import pytest
import torch

from hyperinverter.checkpoint import (
    load_training_state,
    read_model,
    rng_state,
    save_model,
    save_training_state,
    set_rng_state,
    weights_hash,
    write_atomically,
)
from hyperinverter.utils.errors import UserError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3) / 7, "steps": torch.tensor(3)}


def write(path, **options):
    return save_model(path, STATE, kind="generator", config={"resolution": 64}, **options)


def test_a_model_comes_back_with_its_config_hash_and_needs(tmp_path):
    digest = write(tmp_path / "deep" / "g.safetensors", requires={"generator": "abc"}, info={"steps": 5})
    found = read_model(tmp_path / "deep" / "g.safetensors", "generator")
    assert found.config == {"resolution": 64} and found.requires == {"generator": "abc"} and found.info == {"steps": 5}
    assert found.hash == digest == weights_hash(found.state)
    for name, tensor in STATE.items():
        assert torch.equal(found.state[name], tensor)


def test_half_precision_is_stored_and_read_back_as_float32(tmp_path):
    write(tmp_path / "full.safetensors")
    write(tmp_path / "half.safetensors", half=True)
    found = read_model(tmp_path / "half.safetensors")
    assert found.state["a.weight"].dtype == torch.float32 and found.state["steps"].dtype == torch.int64
    assert torch.equal(found.state["a.weight"], STATE["a.weight"].half().float())


def test_the_hash_sees_names_shapes_types_and_values():
    base = {"w": torch.zeros(2, 3)}
    others = [
        {"v": torch.zeros(2, 3)},
        {"w": torch.zeros(3, 2)},
        {"w": torch.zeros(2, 3).half()},
        {"w": torch.ones(2, 3)},
    ]
    assert len({weights_hash(state) for state in [base, *others]}) == 5
    assert weights_hash(base) == weights_hash({"w": torch.zeros(3, 2).t()})  # memory layout is no content


def test_changed_weights_are_refused(tmp_path):
    path = tmp_path / "g.safetensors"
    write(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="was changed"):
        read_model(path)


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"\x80\x04garbage"])
def test_something_else_is_refused_by_name(tmp_path, content):
    path = tmp_path / "g.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"g\.safetensors: not a readable"):
        read_model(path)


def test_a_cut_model_is_refused(tmp_path):
    path = tmp_path / "g.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="cut short"):
        read_model(path)


def test_foreign_safetensors_and_the_wrong_kind_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, str(tmp_path / "foreign.safetensors"))
    with pytest.raises(UserError, match="not one of this project"):
        read_model(tmp_path / "foreign.safetensors")
    write(tmp_path / "g.safetensors")
    with pytest.raises(UserError, match="holds a generator, but a w_encoder"):
        read_model(tmp_path / "g.safetensors", "w_encoder")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_model(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="kind is 'thing'"):
        save_model(tmp_path / "x.safetensors", STATE, kind="thing", config={})


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_mode_of_any_new_file(tmp_path):
    write(tmp_path / "g.safetensors")
    (tmp_path / "plain").write_text("")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_only_the_newest_states_are_kept(tmp_path):
    for step in (5, 10, 100):
        save_training_state(tmp_path, step, {"x": torch.tensor(step)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010.pt", "step_00000100.pt"]
    assert load_training_state(tmp_path)["step"] == 100
    assert load_training_state(tmp_path / "step_00000010.pt")["x"] == 10


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_newest_state_falls_back_with_a_warning(tmp_path, damage):
    save_training_state(tmp_path, 1, {"x": torch.ones(1000)})
    newest = save_training_state(tmp_path, 2, {"x": torch.ones(1000)})
    content = {"cut": newest.read_bytes()[:500], "empty": b"", "other": b"not a checkpoint"}[damage]
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step_00000002\.pt: cannot be read"):
        assert load_training_state(tmp_path)["step"] == 1
    with pytest.raises(UserError, match="no checkpoint could be read"):
        load_training_state(newest)


def test_no_state_is_no_error_but_a_missing_file_is(tmp_path):
    assert load_training_state(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        load_training_state(tmp_path / "step_00000001.pt")


class Gadget:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_state_that_carries_code_does_not_run_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 1, "x": Gadget()}, tmp_path / "step_00000001.pt")
    (tmp_path / "step_00000002.pt").write_bytes(pickle.dumps(Gadget()))
    with pytest.raises(UserError, match=r"(?s)step_00000002.*step_00000001.*no checkpoint could be read"):
        load_training_state(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_random_generators_go_on_where_they_were():
    def draw():
        return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()

    np.random.randn()  # leaves a cached second value behind
    state = rng_state()
    first = draw()
    draw()
    set_rng_state(state)
    assert draw() == first
