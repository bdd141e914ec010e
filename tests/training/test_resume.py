"""A run killed and started again gives the numbers of one that never stopped; what does not fit is refused."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.config.schema import AdversarialConfig, OptimizerConfig
from hyperinverter.data import Batches
from hyperinverter.training import phase1, phase2
from hyperinverter.utils.errors import UserError

from .conftest import stats

TRAIN = {"phase1": phase1.train, "phase2": phase2.train}


class Killed(BaseException):
    """What no handler of the trainer may swallow."""


def assert_same(left, right, where="state"):
    """Equal to the last bit, whatever is nested."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        left, right = ({k: v for k, v in d.items() if not str(k).startswith("time/")} for d in (left, right))
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert left == right, where


def assert_same_run(one: Path, other: Path):
    a, b = (load_training_state(folder / "checkpoints") for folder in (one, other))
    a["config"].pop("output"), b["config"].pop("output")
    assert_same(a, b)
    assert stats(one) == stats(other)
    for file in sorted(one.glob("model*/*.safetensors")):
        assert read_model(file).hash == read_model(other / file.relative_to(one)).hash, file.name
    assert len(list(one.glob("model*/*.safetensors"))) == len(list(other.glob("model*/*.safetensors")))


def shown_steps(output: Path) -> dict[str, list[int]]:
    """The steps at which TensorBoard shows a point of each curve; times are not measured right after a start."""
    events = EventAccumulator(str(output)).Reload()
    curves = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    return {name: [point.step for point in events.Scalars(name)] for name in curves}


# (phase, batch at which the process dies): saved at 2 and 4; Phase II turns adversarial at 3
@pytest.mark.parametrize(("phase", "dies_at"), [("phase1", 4), ("phase2", 4), ("phase2", 6)])
def test_killed_and_resumed_is_the_run_that_never_stopped(phase, dies_at, make_config, whole_run, monkeypatch):
    config, calls, get = make_config(phase), [], Batches.get

    def dying(self, position, batch_size):
        calls.append((position, batch_size))
        if len(calls) == dies_at:
            raise Killed
        return get(self, position, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "get", dying)
        with pytest.raises(Killed):
            TRAIN[phase](config)
    TRAIN[phase](config)
    assert_same_run(whole_run(phase)[0], Path(config.output))
    assert shown_steps(Path(config.output)) == shown_steps(whole_run(phase)[0])  # points were shown twice


def test_a_half_written_checkpoint_is_not_taken_for_one(make_config, whole_run, monkeypatch):
    config, saved, save = make_config("phase1"), [], torch.save

    def dying_save(state, path):
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"half a checkpoint")
            raise Killed
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying_save)
        with pytest.raises(Killed):
            phase1.train(config)
    assert load_training_state(Path(config.output) / "checkpoints")["step"] == 2
    phase1.train(config)
    assert_same_run(whole_run("phase1")[0], Path(config.output))


@pytest.mark.slow
def test_kill_9_while_a_checkpoint_is_written(make_config, whole_run, tiny_model, photos):
    """A real process, killed with the second checkpoint half on disk, after D joined: the first one goes on exactly."""
    config = make_config("phase2")
    program = f"""
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tiny_model import make_tiny_domain
from training.conftest import phase2, tiny_config
save, saved = torch.save, []
def dying_save(state, path):
    saved.append(path)
    if len(saved) == 2:
        Path(path).write_bytes(b"half a checkpoint")
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, path)
torch.save = dying_save
phase2.train(tiny_config("phase2", *map(Path, {[str(tiny_model), str(photos), config.output]}), make_tiny_domain()))
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]
    assert load_training_state(Path(config.output) / "checkpoints")["step"] == 2
    phase2.train(config)
    assert_same_run(whole_run("phase2")[0], Path(config.output))


def test_more_steps_later_continue_the_same_run(make_config, whole_run):
    config = make_config("phase1", schedule={"max_steps": 3})
    assert phase1.train(config)["step"] == 3
    config.schedule.max_steps = 6
    final = phase1.train(config)
    whole, longer = (
        load_training_state(path / "checkpoints") for path in (whole_run("phase1")[0], Path(config.output))
    )
    for part in ("step", "position", "w_encoder", "optimizer", "rng"):
        assert_same(whole[part], longer[part], part)
    assert phase1.train(config) == final  # nothing left to do


def test_settings_that_do_not_fit_are_refused_all_at_once(make_config, tiny_domain, other_tiny_model):
    config = make_config("phase1", schedule={"max_steps": 2})
    phase1.train(config)

    with pytest.raises(UserError, match=r"resume is never; write resume=auto .* or give another output"):
        phase1.train(replace(config, resume="never"))
    with pytest.raises(UserError, match="checkpoint of phase1, not of phase2"):
        phase2.train(make_config("phase2", schedule={"max_steps": 4}))
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        phase1.train(replace(config, resume="nowhere/step_00000001.pt"))
    with pytest.raises(UserError, match="where no checkpoint is"):
        phase1.train(replace(config, resume=str(other_tiny_model)))

    wider = replace(config.domain, w_encoder=replace(config.domain.w_encoder, widths=[8, 8, 16, 32]))
    adam = OptimizerConfig(lr=1e-2)
    with pytest.raises(UserError) as refusal:
        phase1.train(replace(config, domain=wider, optimizer=adam))
    assert "domain.w_encoder.widths: [8, 8, 16, 16] -> [8, 8, 16, 32]" in str(refusal.value)
    assert "optimizer.name: ranger -> adam" in str(refusal.value)

    other = replace(config.domain, weights=replace(config.domain.weights, folder=str(other_tiny_model)))
    with pytest.raises(UserError, match=r"generator: trained with weights \w{16}, these are \w{16}"):
        phase1.train(replace(config, domain=other))


def test_a_state_from_before_a_setting_of_the_networks_existed_goes_on(make_config):
    """Resumed after an update of the package, it lacks settings that came later; they had their defaults."""
    config = make_config("phase1", schedule={"max_steps": 2})
    phase1.train(config)
    (file,) = (Path(config.output) / "checkpoints").glob("step_00000002.pt")
    state = torch.load(file, weights_only=True)
    for later in ("architecture", "resample_filter", "w_avg_beta"):
        del state["config"]["domain"]["generator"][later]
    torch.save(state, file)
    phase1.train(replace(config, schedule=replace(config.schedule, max_steps=3)))
    assert load_training_state(Path(config.output) / "checkpoints")["step"] == 3


def test_settings_that_change_training_are_told_and_taken(make_config):
    config = make_config("phase2", schedule={"max_steps": 2})
    phase2.train(config)
    before = load_training_state(Path(config.output) / "checkpoints")
    schedule = replace(config.schedule, max_steps=4, log_every=2, validate_every=4, batch_size=3)
    changed = replace(config, schedule=schedule, loss_weights={"l2": 0.5}, optimizer=OptimizerConfig(lr=5e-4))
    changed.adversarial = AdversarialConfig()  # off
    phase2.train(changed)
    after = load_training_state(Path(config.output) / "checkpoints")
    log = (Path(config.output) / "log.txt").read_text()
    for line in ("optimizer.lr: 0.001 -> 0.0005", "loss_weights.l2: 1.0 -> 0.5", "schedule.batch_size: 4 -> 3"):
        assert f"resumed with another {line}" in log
    assert "max_steps" not in log
    assert after["optimizer"]["param_groups"][0]["lr"] == 5e-4
    assert after["position"] == before["position"] + 2 * 3
    assert after["best"]["step"] == 4  # the old best was another sum


def test_a_damaged_newest_checkpoint_falls_back_and_a_named_one_goes_on(make_config):
    config = make_config("phase1", schedule={"max_steps": 4})
    phase1.train(config)
    folder = Path(config.output) / "checkpoints"
    whole = load_training_state(folder)
    with pytest.raises(UserError, match=r"holds later ones \(step_00000004.pt\)"):
        phase1.train(replace(config, resume=str(folder / "step_00000002.pt")))
    (folder / "step_00000004.pt").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match="trying the checkpoint before it"):
        phase1.train(config)
    again = load_training_state(folder)
    assert_same(again["w_encoder"], whole["w_encoder"])

    elsewhere = make_config("phase1", "elsewhere", schedule={"max_steps": 4}, resume=str(folder / "step_00000002.pt"))
    phase1.train(elsewhere)
    assert_same(load_training_state(Path(elsewhere.output) / "checkpoints")["w_encoder"], whole["w_encoder"])
