"""A run killed and started again gives the numbers of one that never stopped; what does not fit is refused."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hyperinverter.checkpoint import load_training_state, save_training_state
from hyperinverter.config.schema import AdversarialConfig, OptimizerConfig
from hyperinverter.data.loader import Batches
from hyperinverter.training import phase1, phase2
from hyperinverter.training.resume import FORMAT
from hyperinverter.utils.errors import UserError

from .conftest import TRAIN
from .forks import assert_same, assert_same_run


class Killed(BaseException):
    """What no handler of the trainer may swallow."""


def shown_steps(output: Path) -> dict[str, list[int]]:
    """The steps at which TensorBoard shows a point of each curve; times are not measured right after a start."""
    events = EventAccumulator(str(output)).Reload()
    curves = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    return {name: [point.step for point in events.Scalars(name)] for name in curves}


# (phase, batch at which the process dies): saved at 2 and 4; Phase II turns adversarial at 3
@pytest.mark.parametrize(
    ("phase", "dies_at"),
    [
        ("phase1", 2),
        pytest.param("phase2", 4, marks=pytest.mark.slow),
        ("phase2", 6),
        ("phase3", 4),
        ("stylegan2", 4),
        ("restyle_e4e", 4),
        ("hyperstyle", 4),
    ],
)
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


def test_a_state_that_a_killed_run_did_not_come_to_remove_goes(make_config):
    config = make_config("phase1")
    phase1.train(config)
    states = Path(config.output) / "checkpoints"
    names = sorted(path.name for path in states.iterdir())
    shutil.copy(states / names[0], states / "step_00000001.pt")
    phase1.train(config)
    assert sorted(path.name for path in states.iterdir()) == names


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


@pytest.mark.parametrize("phase", [pytest.param("phase1", marks=pytest.mark.slow), "phase2"])
def test_the_discriminator_that_a_loss_looks_through_must_stay_the_same(
    phase, make_config, tiny_model, other_tiny_model, tmp_path
):
    """Its features are the loss: with another one a resumed run would go on towards another goal."""
    weights = {"l2": 1.0, "discriminator_features": 0.1}
    config = make_config(phase, loss_weights=weights, schedule={"max_steps": 2})
    TRAIN[phase](config)
    exchanged = shutil.copytree(tiny_model, tmp_path / "exchanged")
    shutil.copy(other_tiny_model / "discriminator.safetensors", exchanged)
    other = replace(config.domain, weights=replace(config.domain.weights, folder=str(exchanged)))
    longer = replace(config, schedule=replace(config.schedule, max_steps=3))
    with pytest.raises(UserError, match=r"discriminator: trained with weights \w{16}, these are \w{16}"):
        TRAIN[phase](replace(longer, domain=other))
    # a loss that nobody had before has nothing to agree with
    plain = make_config(phase, "plain", schedule={"max_steps": 2})
    TRAIN[phase](plain)
    TRAIN[phase](replace(plain, loss_weights=weights, schedule=longer.schedule))


@pytest.mark.parametrize("trainer", ["stylegan2", "phase1"])
def test_a_run_of_another_domain_is_not_gone_on_with(trainer, make_config, tiny_domain, whole_run, tmp_path):
    """Of equal sizes nothing else would tell: the run of one's cats went on with one's dogs."""
    shutil.copytree(whole_run(trainer)[0], tmp_path / "run")
    config = make_config(trainer)
    config.domain = replace(config.domain, name="dogs")
    with pytest.raises(UserError, match=rf"is of domain micro, this run is of domain dogs; .*outputs/{trainer}_dogs"):
        TRAIN[trainer](config)


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


@pytest.mark.parametrize("damage", ["cut", pytest.param("empty", marks=pytest.mark.slow), "bit"])
def test_a_damaged_newest_checkpoint_falls_back_and_a_named_one_goes_on(damage, make_config, whole_run):
    config = make_config("phase1")
    phase1.train(config)
    folder = Path(config.output) / "checkpoints"
    with pytest.raises(UserError, match=r"holds later ones \(step_00000006.pt\)"):
        phase1.train(replace(config, resume=str(folder / "step_00000004.pt")))
    newest = folder / "step_00000006.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes({"cut": content[:-5000], "empty": b"", "bit": content}[damage])
    with pytest.warns(UserWarning, match=r"step_00000006.pt: cannot be read .* step_00000004.pt, is taken"):
        phase1.train(config)
    assert (folder / "step_00000006.pt.damaged").is_file()  # it counts no longer as one of those that are kept
    (folder / "step_00000006.pt.damaged").unlink()
    assert_same_run(whole_run("phase1")[0], Path(config.output))

    if damage == "cut":
        other = make_config("phase1", "elsewhere", resume=str(folder / "step_00000004.pt"))
        phase1.train(other)
        states = [load_training_state(place) for place in (folder, Path(other.output) / "checkpoints")]
        assert_same(*(state["w_encoder"] for state in states))


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(make_config, whole_run, monkeypatch):
    """Its rows and points were kept beside the new ones."""
    config, get = make_config("phase2", schedule={"log_every": 1, "save_every": 6}), Batches.get

    def dying(self, position, batch_size):
        if position == 12:
            raise Killed
        return get(self, position, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "get", dying)
        with pytest.raises(Killed):
            phase2.train(config)
    phase2.train(config)
    whole = make_config("phase2", "whole", schedule={"log_every": 1, "save_every": 6})
    phase2.train(whole)
    assert_same_run(Path(whole.output), Path(config.output))


# what the file says of itself -> what is told
VERSIONS = {
    r"is a checkpoint of phase2, not of phase1": {"trainer": "phase2", "format": FORMAT},
    r"by a later version of this package \(layout 9, this one knows 2\)": {"trainer": "phase1", "format": 9},
    r"by an earlier version of this package \(it lacks trainer, config,.* go on with that version": {"G": {}},
    r"by an earlier version of this package \(it lacks position, best": {
        "trainer": "phase1",
        "config": {},
        "frozen": {},
    },
}


@pytest.mark.parametrize("told", VERSIONS)
def test_another_trainer_and_another_version_are_told_apart(told, make_config):
    """A state without a mark was called one of another trainer, also when it was the same trainer's."""
    config = make_config("phase1")
    save_training_state(Path(config.output) / "checkpoints", 2, VERSIONS[told])
    with pytest.raises(UserError, match=told):
        phase1.train(config)


def test_other_images_in_the_folder_are_told(make_config, photos, tmp_path):
    """The order of all images depends on how many there are; a run went on without a word."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    config = make_config("phase1", schedule={"max_steps": 2})
    config.data.root = str(folder)
    phase1.train(config)
    for photo in list(folder.iterdir()):
        shutil.copy(photo, folder / f"new_{photo.name}")
    config.schedule.max_steps = 4
    phase1.train(config)
    log = (Path(config.output) / "log.txt").read_text()
    assert re.search(r"resumed with \d+ training images, saved with 8: not the same run", log)
    assert re.search(r"resumed with \d+ validation images, saved with 4: not the same run", log)


def test_a_part_that_does_not_fit_is_named(make_config):
    config = make_config("phase1", schedule={"max_steps": 2})
    phase1.train(config)
    file = Path(config.output) / "checkpoints" / "step_00000002.pt"
    state = torch.load(file, weights_only=True)
    for part, fault, told in (
        ("optimizer", None, "holds no optimizer"),
        ("optimizer", {"state": {}, "param_groups": []}, ": its optimizer does not fit"),
        ("w_encoder", {}, ": its w_encoder does not fit"),
    ):
        broken = {**state, part: fault} if fault is not None else {k: v for k, v in state.items() if k != part}
        torch.save(broken, file)
        with pytest.raises(UserError, match=rf"step 2 ?{told}"):
            phase1.train(config)
