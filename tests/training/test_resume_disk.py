"""Full and read-only disks: one message, whole checkpoints, and a run that goes on exactly once there is room."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest

from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.data.loader import Batches
from hyperinverter.training import common, phase1
from hyperinverter.utils import files
from hyperinverter.utils.errors import UserError

from .conftest import TRAIN
from .forks import assert_same_run

linux_only = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux which file is written")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def at_step(monkeypatch):
    """at_step(n, act): `act` is called while the batch of the n-th step from now on is read."""
    acts, calls, get = {}, [], Batches.get

    def getting(self, position, batch_size):
        calls.extend([position] if acts else [])
        acts.pop(len(calls), lambda: None)()
        return get(self, position, batch_size)

    monkeypatch.setattr(Batches, "get", getting)
    return acts.__setitem__


@pytest.fixture
def limit_files():
    """limit_files(bytes): the system lets no file of this process grow beyond; None: any size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


@pytest.fixture
def full_disk(monkeypatch):
    """full_disk(text): files with this in their path take half of what they are given, and then nothing; None: room."""
    write, full, half_full = os.write, [], []

    def writing(handle, data):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if full and full[0] in path:
            if path in half_full:
                raise FULL
            half_full.append(path)
            return write(handle, bytes(data[: len(data) // 2]))
        return write(handle, data)

    def fill(text: str | None) -> None:
        full[:] = [text] if text else []
        half_full.clear()

    monkeypatch.setattr(files.os, "write", writing)
    return fill


# (trainer, what is validated when, the file that no longer fits)
@pytest.mark.parametrize(
    ("trainer", "validate_every", "file"),
    [
        ("phase1", 6, "checkpoints/step_00000004.pt"),
        pytest.param("phase2", 6, "checkpoints/step_00000004.pt", marks=pytest.mark.slow),  # written as phase1's
        ("stylegan2", 6, "model_last/generator.safetensors"),
        ("phase2", 2, "model/hyperinverter.safetensors"),
    ],
)
def test_what_no_longer_fits_on_the_disk_ends_the_run_with_one_message(
    trainer, validate_every, file, make_config, whole_run, at_step, limit_files
):
    """Real writes that the system refuses: by torch, by safetensors."""
    whole, _ = whole_run(trainer, validate_every=validate_every)
    config = make_config(trainer, schedule={"validate_every": validate_every})
    at_step(4, lambda: limit_files(20_000))
    with pytest.raises(UserError) as end:
        TRAIN[trainer](config)
    limit_files(None)
    output = Path(config.output)
    assert str(end.value).startswith(f"{output / file}: File too large. The run has ended; the last checkpoint, ")
    assert "step_00000002.pt, is whole" in str(end.value) and "start the same command again" in str(end.value)
    assert load_training_state(output / "checkpoints")["step"] == 2
    assert all(read_model(path) for path in output.glob("model*/*.safetensors"))
    TRAIN[trainer](config)
    assert_same_run(whole, output)


@linux_only
@pytest.mark.parametrize(
    ("name", "trainer"),
    [("stats.jsonl", "phase1"), ("log.txt", "phase2"), ("tfevents", "phase1")],  # Phase II logs a line at step 3
)
def test_rows_that_could_not_be_written_are_written_when_there_is_room(
    name, trainer, make_config, whole_run, at_step, full_disk, capfd
):
    whole, _ = whole_run(trainer, log_every=1)
    config = make_config(trainer, schedule={"log_every": 1})
    at_step(3, lambda: full_disk(name))
    at_step(4, lambda: full_disk(None))
    TRAIN[trainer](config)
    assert_same_run(whole, Path(config.output))
    told = [line for line in capfd.readouterr().err.splitlines() if "No space left on device" in line]
    assert len(told) == 1 and told[0].endswith("training goes on, and this is tried again")
    steps = [
        line for line in (Path(config.output) / "log.txt").read_text().splitlines() if "step 4: validation" in line
    ]
    assert len(steps) == 1


@linux_only
def test_no_checkpoint_is_written_without_the_rows_before_it(make_config, whole_run, at_step, full_disk):
    config = make_config("phase1")
    at_step(3, lambda: full_disk("stats.jsonl"))
    with pytest.raises(
        UserError, match=r"stats\.jsonl: No space left on device\. The run has ended; the last .*2\.pt, is"
    ):
        phase1.train(config)
    full_disk(None)
    phase1.train(config)
    assert_same_run(whole_run("phase1")[0], Path(config.output))


def test_a_picture_that_cannot_be_written_is_told_and_training_goes_on(make_config, whole_run, monkeypatch):
    def no_room(image, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    config = make_config("phase1")
    with monkeypatch.context() as patch:
        patch.setattr(common, "save_image", no_room)
        phase1.train(config)
    output = Path(config.output)
    told = "samples/input_phase1_00000006.png: No space left on device; training goes on without this picture"
    assert told in (output / "log.txt").read_text()
    for picture in (whole_run("phase1")[0] / "samples").iterdir():
        (output / "samples" / picture.name).write_bytes(picture.read_bytes())
    assert_same_run(whole_run("phase1")[0], output)


@linux_only
@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_disk_that_becomes_read_only_leaves_the_last_checkpoint(operation, make_config, whole_run, monkeypatch):
    config, done = make_config("phase1"), getattr(os, operation)

    def refused(first, *others):
        path = os.readlink(f"/proc/self/fd/{first}") if operation == "fsync" else str(first)
        if "step_00000004.pt" in path:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), *([str(first)] if operation == "replace" else []))
        return done(first, *others)

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, refused)
        with pytest.raises(
            UserError, match=r"/step_00000004\.pt: Read-only file system\. .*step_00000002\.pt, is whole"
        ):
            phase1.train(config)
    phase1.train(config)
    assert_same_run(whole_run("phase1")[0], Path(config.output))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_may_not_be_written_is_refused_at_once(make_config):
    config = make_config("phase1")
    Path(config.output).mkdir(mode=0o555)
    with pytest.raises(UserError, match=r"Permission denied.*no checkpoint was written yet"):
        phase1.train(config)


@pytest.mark.parametrize(("trainer", "how"), [("phase1", "removed"), ("phase2", "moved"), ("stylegan2", "replaced")])
def test_an_output_folder_that_is_taken_away_ends_the_run(trainer, how, make_config, at_step, tmp_path):
    config, moved = make_config(trainer), tmp_path / "moved"
    output = Path(config.output)

    def take_away():
        if how == "removed":
            shutil.rmtree(output)
        else:
            output.rename(moved)
        if how == "replaced":
            output.mkdir()

    at_step(4, take_away)
    told = "was removed" if how == "removed" else f"was moved to {moved} .* go on with output={moved}"
    with pytest.raises(UserError, match=f"the output folder {told}"):
        TRAIN[trainer](config)
    if how == "removed":
        assert not output.exists()
    else:
        assert (list(output.iterdir()) == []) if how == "replaced" else not output.exists()
        assert load_training_state(moved / "checkpoints")["step"] == 2
        assert (moved / "log.txt").is_file() and not (moved / ".lock").exists()
