"""Runs in processes of their own that are killed, and how two runs are held against each other."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from processes import run_processes, start_processes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hyperinverter import checkpoint
from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.utils import files
from hyperinverter.utils.files import LEFTOVER

from .conftest import TRAIN, Config, stats


class Forks:
    """Starts a config's run and ends it in some way.

    Args:
        logs: folder for what the runs say.
        processes: that share each run.
    """

    def __init__(self, logs: Path, processes: int = 1) -> None:
        self.logs, self.processes = logs, processes

    def finish(self, trainer: str, config: Config) -> None:
        codes = run_processes(self.processes, TRAIN[trainer], config, log=self.logs)
        assert codes == [0] * self.processes, (self.logs / "0.txt").read_text()[-3000:]

    def kill(self, trainer: str, config: Config, after_s: float, slow_disk_s: float = 0.0) -> bool:
        """SIGKILL all processes after a while; whether the run was still going. Every flush takes `slow_disk_s`."""
        arguments = (trainer, config, slow_disk_s)
        started = start_processes(self.processes, train_on_slow_disk, *arguments, log=self.logs)
        time.sleep(after_s)
        for process in started:
            process.kill()
        for process in started:
            process.join()
        codes = [process.exitcode for process in started]
        # a process may lose the other one before it is killed itself; alone, it ends whole or by the signal
        lost = {1} if -signal.SIGKILL in codes and self.processes > 1 else set()
        assert set(codes) <= {0, -signal.SIGKILL} | lost, (self.logs / "0.txt").read_text()[-3000:]
        return any(codes)

    def die(self, trainer: str, config: Config, operation: int) -> bool:
        """The run kills itself at its n-th file operation; False when it ended before."""
        (code,) = run_processes(1, train_until_operation, trainer, config, operation, log=self.logs)
        assert code in (0, -signal.SIGKILL), (self.logs / "0.txt").read_text()[-3000:]
        return code != 0


def train_on_slow_disk(trainer: str, config: Config, slow_disk_s: float) -> None:
    fsync = os.fsync
    os.fsync = lambda handle: (time.sleep(slow_disk_s), fsync(handle))[1]
    TRAIN[trainer](config)


def train_until_operation(trainer: str, config: Config, number: int) -> None:
    """SIGKILL at the n-th file operation: in the middle of a write, or before any other one."""
    done = written = 0

    def dying(operation: Callable, half: Callable[..., object] | None = None) -> Callable:
        def wrapped(*arguments, **named):
            nonlocal done
            done += 1
            if done == number:
                if half is not None:
                    half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **named)

        return wrapped

    def half_a_checkpoint(sink, data):
        sink._file.write(data[: len(data) // 2])
        sink._file.flush()

    def write_checkpoint(sink, data):  # hundreds of writes: one in fifty counts
        nonlocal written
        written += 1
        return (dying_write if written % 50 == 0 else plain_write)(sink, data)

    plain_write, write = checkpoint._Sink.write, os.write
    dying_write, checkpoint._Sink.write = dying(plain_write, half_a_checkpoint), write_checkpoint
    ours = {name: dying(getattr(os, name)) for name in ("fsync", "replace", "ftruncate")}
    ours["write"] = dying(write, lambda handle, data: write(handle, data[: len(data) // 2]))
    files.os = SimpleNamespace(**{**vars(os), **ours})
    os.unlink, os.mkdir = dying(os.unlink), dying(os.mkdir)
    TRAIN[trainer](config)


# ------------------------------------------------------------------------------------------------ what is the same


def assert_same(left: object, right: object, where: str = "state") -> None:
    """Equal to the last bit, whatever is nested; times aside."""
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


def assert_same_run(one: Path, other: Path, saved_at_the_same_steps: bool = True) -> None:
    """States, rows, points, pictures and models, to the last bit; and no rubbish in `other`."""
    a, b = (load_training_state(folder / "checkpoints") for folder in (one, other))
    a["config"].pop("output"), b["config"].pop("output")
    assert_same(a, b)
    assert stats(one) == stats(other)
    assert points(one) == points(other)
    pictures, models = (sorted(one.glob(pattern)) for pattern in ("samples/*.png", "model*/*.safetensors"))
    for file in pictures:
        assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file.name
    for file in models:
        assert read_model(file).hash == read_model(other / file.relative_to(one)).hash, file.name
    for pattern, found in (("samples/*.png", pictures), ("model*/*.safetensors", models)):
        assert len(found) == len(list(other.glob(pattern)))
    assert [path.name for path in other.rglob("*") if LEFTOVER.fullmatch(path.name)] == []
    saved = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (one, other)]
    assert saved[0] == saved[1] or not saved_at_the_same_steps


def points(output: Path) -> Counter:
    """How often TensorBoard shows each (name, step); times are not measured right after a start."""
    shown = EventAccumulator(str(output), size_guidance={"scalars": 0, "images": 0}).Reload()
    found = Counter()
    for kind, read in (("scalars", shown.Scalars), ("images", shown.Images)):
        for name in shown.Tags()[kind]:
            found.update((name, event.step) for event in read(name) if not name.startswith("time/"))
    return found
