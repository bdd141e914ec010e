"""One reading at a time in a process of its own: what it took of memory and time, and how it ended."""

import multiprocessing
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SPARE_BYTES, TIMES_FILE = 200_000_000, 3  # what a reading may take of memory beside the file, and times the file
MOST_SECONDS = 20  # of the processor
SAFETY_BYTES = 1_500_000_000  # beyond which nothing is given, so that a failing test does not hurt the machine
# what readings.py imports: Python 3.11 looks for the modules named here on the usual path only
PRELOADED = [
    "hyperinverter.config", "hyperinverter.directions.files", "hyperinverter.editing.learn",
    "hyperinverter.extractors.face_judges", "hyperinverter.inverters", "hyperinverter.pretrained.load",
    "hyperinverter.published.released", "h5py", "torchvision.io",
]  # fmt: skip


@dataclass
class Outcome:
    """How a reading ended.

    Attributes:
        error: class and text of what was raised, "" for nothing.
        is_refusal: whether it was one of the package's own refusals.
        bytes: of memory beside what was taken before, at the highest.
        seconds: of the processor.
    """

    error: str
    is_refusal: bool
    bytes: int
    seconds: float

    def check(self, file_bytes: int) -> None:
        assert not self.error or self.is_refusal, self.error
        assert self.bytes <= TIMES_FILE * file_bytes + SPARE_BYTES, f"{self.bytes / 1e6:.0f} MB, {self.error[:200]}"
        assert self.seconds <= MOST_SECONDS, f"{self.seconds:.0f} s"


def outcome_of(reading: Callable[..., Any], path: Path) -> Outcome:
    """Call `reading(path)` in a new process; a process that dies without a word is an error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(reading, path, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        return Outcome(f"the process died ({process.exitcode})", False, 0, 0.0)
    finally:
        process.join()


def _run(reading: Callable[..., Any], path: Path, result: Connection) -> None:
    from readings import get_ready

    from hyperinverter.utils.errors import UserError

    get_ready()

    resource.setrlimit(resource.RLIMIT_CPU, (2 * MOST_SECONDS, 2 * MOST_SECONDS))
    taken = status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (taken + SAFETY_BYTES, taken + SAFETY_BYTES))
    Path("/proc/self/clear_refs").write_text("5")  # the highest use begins here
    before, seconds, error, is_refusal = status("VmRSS"), sum(os.times()[:2]), "", False
    try:
        reading(path)
    except Exception as raised:
        error, is_refusal = f"{type(raised).__name__}: {raised}", isinstance(raised, UserError | FileNotFoundError)
    result.send(Outcome(error, is_refusal, status("VmHWM") - before, sum(os.times()[:2]) - seconds))
    result.close()
    os._exit(0)


def status(key: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
