"""Model files and training states: whole or not at all, checked, and read without running code."""

import errno
import os
import pickle
import random
import resource
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


def test_equal_models_are_equal_files(tmp_path):
    """The library writes metadata in an order that changes from file to file."""
    state = {"b": torch.ones(3), "a": torch.zeros(2, 2).half()}
    told = {"kind": "generator", "config": {"domain": "ä"}, "requires": {"generator": "1f"}, "info": {"step": 1}}
    for number in range(8):
        save_model(tmp_path / f"{number}.safetensors", state, **told)
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}) == 1
    assert read_model(tmp_path / "0.safetensors").config == told["config"]


def test_half_precision_is_stored_and_read_back_as_float32(tmp_path):
    write(tmp_path / "full.safetensors")
    write(tmp_path / "half.safetensors", half=True)
    found = read_model(tmp_path / "half.safetensors")
    assert found.state["a.weight"].dtype == torch.float32 and found.state["steps"].dtype == torch.int64
    assert torch.equal(found.state["a.weight"], STATE["a.weight"].half().float())
    for begins, is_rounded in ((["a."], True), (["b."], False)):  # only what begins so
        write(tmp_path / "part.safetensors", half=begins)
        part = read_model(tmp_path / "part.safetensors").state["a.weight"]
        assert torch.equal(part, STATE["a.weight"]) != is_rounded


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


def test_a_flipped_bit_is_noticed_wherever_it_is_or_changes_nothing(tmp_path):
    """torch.load does not compare the checksums in its own files."""
    state = {"x": torch.arange(300.0), "text": "words", "nested": {"list": [1, 2.5, None]}}
    path = save_training_state(tmp_path, 1, state)
    whole, draw, noticed = path.read_bytes(), random.Random(0), 0
    start = whole.index(state["x"].numpy().tobytes()[4:64])
    places = [*range(start, start + 1000, 100), *(draw.randrange(len(whole)) for _ in range(150))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = load_training_state(path)
        except UserError:
            noticed += 1
            continue
        assert place < start or place > start + 1000
        assert torch.equal(found.pop("x"), state["x"]) and found == {
            "step": 1,
            "text": "words",
            "nested": state["nested"],
        }
    assert noticed > 50


def test_something_that_is_no_state_is_told(tmp_path):
    torch.save([1, 2], tmp_path / "step_00000001.pt")
    with pytest.raises(UserError, match="it holds no training state"):
        load_training_state(tmp_path)


def test_old_states_go_only_when_the_new_one_is_there(tmp_path, monkeypatch):
    """And one that was set aside as damaged, or a later one of a run that was taken up before it, is not counted."""
    for step in (1, 2, 9):
        save_training_state(tmp_path, step, {}, keep=3)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"No space.*step_00000003\.pt"):
            save_training_state(tmp_path, 3, {}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_0000000{n}.pt" for n in (1, 2, 9)]
    save_training_state(tmp_path, 3, {}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003.pt", "step_00000009.pt"]


def test_damaged_states_are_set_aside_for_the_run_that_goes_on(tmp_path):
    for step in (1, 2, 3):
        save_training_state(tmp_path, step, {}, keep=3)
    (tmp_path / "step_00000003.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step_00000002\.pt, is taken$"):
        load_training_state(tmp_path)  # a reader renames nothing
    with pytest.warns(UserWarning, match=r"is taken, and step_00000003\.pt is renamed to \*\.damaged"):
        assert load_training_state(tmp_path, set_aside=True)["step"] == 2
    assert (tmp_path / "step_00000003.pt.damaged").is_file()
    assert load_training_state(tmp_path)["step"] == 2


@pytest.mark.parametrize("write_it", [lambda p: save_model(p / "x", STATE, kind="generator", config={}),
                                      lambda p: save_training_state(p, 1, {"x": torch.ones(9999)})])  # fmt: skip
def test_a_write_that_the_system_refuses_names_the_file_and_the_reason(tmp_path, write_it):
    """Libraries tell it in their own ways: torch.save lost the reason, safetensors has an exception of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_it(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG and str(error.value.filename) in {
        f"{tmp_path}/x",
        f"{tmp_path}/step_00000001.pt",
    }
    assert list(tmp_path.iterdir()) == []


def test_bytes_and_name_are_flushed_in_this_order(tmp_path, monkeypatch):
    """Else a power cut leaves a new name without its bytes, or removes the old file before the new one is there."""
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, call=call: (done.append(name), call(*a))[1])
    with write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert done == ["fsync", "replace", "fsync"]


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
