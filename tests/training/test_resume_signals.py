"""SIGTERM and Ctrl-C end a run after its step with everything saved; a folder belongs to one run at a time."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hyperinverter.checkpoint import load_training_state
from hyperinverter.data.loader import Batches
from hyperinverter.training import phase1, phase2
from hyperinverter.training.guard import STOP_SIGNALS, Stopped
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.held_folders import lock_folder

from .conftest import TRAIN, stats
from .forks import assert_same_run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def interrupts():
    """As in a terminal, also where a shell has put the tests into the background, which ignores SIGINT there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def send(monkeypatch):
    """send(position, *signals): the process gets them while the batch at this position is read."""

    def at(position: int, *numbers: int) -> None:
        get = Batches.get

        def getting(self, at, batch_size):
            if at == position:
                monkeypatch.undo()
                for number in numbers:
                    os.kill(os.getpid(), number)
            return get(self, at, batch_size)

        monkeypatch.setattr(Batches, "get", getting)

    return at


# the images before a step that is not otherwise saved: the first, one of Phase I, one of the adversarial part
@pytest.mark.parametrize(
    ("trainer", "position", "number"),
    [("phase1", 0, signal.SIGINT), ("phase1", 8, signal.SIGTERM), ("phase2", 14, signal.SIGTERM), ("stylegan2", 8, 15)],
)
def test_a_signal_ends_the_run_after_its_step_and_the_same_command_goes_on(
    trainer, position, number, make_config, whole_run, send, capfd
):
    config = make_config(trainer)
    send(position, number)
    with pytest.raises(Stopped) as end:
        TRAIN[trainer](config)
    assert end.value.code == 0
    step = {0: 1, 8: 3, 14: 5}[position]
    folder = Path(config.output)
    assert load_training_state(folder / "checkpoints")["step"] == step
    told = f"stopped after step {step} by {signal.Signals(number).name}; everything is saved, the same command goes on"
    assert told in (folder / "log.txt").read_text() and told in capfd.readouterr().err
    TRAIN[trainer](config)
    assert_same_run(whole_run(trainer)[0], folder, saved_at_the_same_steps=False)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_in_the_last_step_lets_the_run_end_and_is_heeded_then(make_config, whole_run, send):
    config = make_config("phase1")
    send(20, signal.SIGTERM)
    with pytest.raises(Stopped):
        phase1.train(config)
    assert_same_run(whole_run("phase1")[0], Path(config.output))


def test_a_second_interrupt_stops_at_once(make_config, send):
    config = make_config("phase1")
    send(8, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        phase1.train(config)
    assert load_training_state(Path(config.output) / "checkpoints")["step"] == 2


def test_two_sigterms_are_one(make_config, send):
    """A scheduler and torchrun may both pass it on."""
    config = make_config("phase1")
    send(8, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Stopped):
        phase1.train(config)
    assert load_training_state(Path(config.output) / "checkpoints")["step"] == 3


def test_before_the_first_step_there_is_nothing_to_wait_for(make_config, monkeypatch, capfd):
    monkeypatch.setattr(phase1, "open_training_data", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    config = make_config("phase1")
    with pytest.raises(Stopped) as end:
        phase1.train(config)
    assert end.value.code == 0 and "before the first step: nothing to save" in capfd.readouterr().err
    assert not Path(config.output).exists()


def test_a_thread_leaves_signals_alone(make_config):
    config = make_config("phase1", schedule={"max_steps": 1})
    thread = threading.Thread(target=phase1.train, args=[config])
    thread.start()
    thread.join()
    assert stats(Path(config.output))[-1]["step"] == 1 and STOP_SIGNALS.received is None


def test_the_message_says_resume_auto_where_the_same_command_would_be_refused(make_config, send):
    phase1.train(make_config("phase1", "first", schedule={"max_steps": 2}))
    first = Path(make_config("phase1", "first").output) / "checkpoints" / "step_00000002.pt"
    config = make_config("phase1", resume=str(first))
    send(8, signal.SIGTERM)
    with pytest.raises(Stopped):
        phase1.train(config)
    assert "the same command with resume=auto goes on from here" in (Path(config.output) / "log.txt").read_text()


def test_two_runs_in_one_folder_are_refused(make_config):
    config = make_config("phase2")
    Path(config.output).mkdir()
    with lock_folder(config.output):
        before = sorted(Path(config.output).iterdir())
        with pytest.raises(
            UserError, match=rf"process {os.getpid()} on .* is writing into this folder.*another output"
        ):
            phase2.train(config)
        assert sorted(Path(config.output).iterdir()) == before
    phase2.train(config)


def test_a_lock_does_not_outlive_its_process(tmp_path):
    """Not even after kill -9, when nobody can remove the file."""
    program = (
        "import sys, time; from hyperinverter.utils.held_folders import lock_folder\n"
        "with lock_folder(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"), lock_folder(folder):
            pass
        holder.kill()
    assert (folder / ".lock").is_file()
    with lock_folder(folder):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_sigterm_to_the_script_exits_with_0(tiny_model, photos, tmp_path):
    """The real command, as a scheduler meets it."""
    settings = [f"data.root={photos}", f"output={tmp_path / 'run'}", "device=cpu", "threads=1"]
    settings += ["domain=faces64", "schedule.batch_size=2", "schedule.save_every=100000", "loss_weights={l2: 1.0}"]
    command = [sys.executable, str(REPOSITORY / "scripts" / "train_phase1.py"), *settings]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as script:
        while script.poll() is None and "starts from" not in log_of(tmp_path / "run"):
            time.sleep(0.2)
        script.terminate()
        told = script.communicate(timeout=200)[1]
    assert script.returncode == 0, told[-2000:]
    assert "by SIGTERM; everything is saved, the same command goes on from here" in told
    assert load_training_state(tmp_path / "run" / "checkpoints")["step"] >= 1


def log_of(output: Path) -> str:
    return (output / "log.txt").read_text() if (output / "log.txt").is_file() else ""
