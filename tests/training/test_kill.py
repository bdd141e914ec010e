"""Killed with SIGKILL again and again, anywhere, a run ends as one that was never stopped."""

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from processes import start_processes

from hyperinverter.checkpoint import training_states

from .conftest import TRAIN
from .forks import Forks, assert_same_run

TRAINERS = sorted(TRAIN)
# validated, shown, logged and saved at different steps; Phase II turns adversarial at 3, best-tracking again at 5
LONG = {"max_steps": 14, "log_every": 3, "validate_every": 4, "images_every": 5, "save_every": 2}


@pytest.fixture
def forks(tmp_path):
    return Forks(tmp_path / "logs")


def test_kill_9_at_random_moments(make_config, whole_run, forks):
    config, rng = make_config("phase2"), random.Random(0)
    for _ in range(3):
        forks.kill("phase2", config, after_s=rng.uniform(0.2, 2))
    forks.finish("phase2", config)
    assert_same_run(whole_run("phase2")[0], Path(config.output))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("trainer", "processes"), [(trainer, n) for n in (1, 2) for trainer in TRAINERS])
def test_20_kills_at_random_moments(trainer, processes, make_config, tmp_path):
    """Each run is killed until it gets through; new runs until there were enough kills. The disk is slow, so that about
    every other kill meets a file half written."""
    forks, rng = Forks(tmp_path / "logs", processes), random.Random(trainer)
    whole = make_config(trainer, "whole", schedule=LONG)
    forks.finish(trainer, whole)  # the first also imports
    again = make_config(trainer, "timed", schedule=LONG)
    start = time.monotonic()
    forks.finish(trainer, again)
    took = time.monotonic() - start
    assert_same_run(Path(whole.output), Path(again.output))
    kills, wanted = 0, 20 if processes == 1 else 8 if trainer == "phase2" else 4
    for run in itertools.count():
        config = make_config(trainer, f"killed_{run}", schedule=LONG)
        while kills < wanted and forks.kill(trainer, config, rng.uniform(0, 0.7 * took), slow_disk_s=0.01):
            kills += 1
        forks.finish(trainer, config)
        assert_same_run(Path(whole.output), Path(config.output))
        if kills >= wanted:
            break


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_kill_9_at_file_operations_one_after_the_other(trainer, make_config, whole_run, forks):
    """In the middle of a write, before a flush, a renaming, a removal: every seventh operation of a run, in turn."""
    config = make_config(trainer)
    for operation in itertools.count(1, 7):
        if not forks.die(trainer, config, operation):
            break
    assert operation > 60, "it went through too early to have met everything"
    assert_same_run(whole_run(trainer)[0], Path(config.output))


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_ends_both_saved(make_config, tmp_path):
    forks = Forks(tmp_path / "logs", processes=2)
    whole, config = (make_config("phase2", name, schedule=LONG) for name in ("whole", "run"))
    forks.finish("phase2", whole)
    output = Path(config.output)
    started = start_processes(2, TRAIN["phase2"], config, log=tmp_path / "logs")
    while not training_states(output / "checkpoints"):
        time.sleep(0.01)
    os.kill(started[1].pid, signal.SIGTERM)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    assert "by a signal to another process; everything is saved" in (output / "log.txt").read_text()
    assert int(training_states(output / "checkpoints")[0].stem[5:]) < LONG["max_steps"]
    forks.finish("phase2", config)
    assert_same_run(Path(whole.output), output, saved_at_the_same_steps=False)
