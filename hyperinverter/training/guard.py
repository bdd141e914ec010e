"""Around every trainer: one run per folder, signals that end it after its step, one message when a disk is full.

SIGTERM (machines that are taken back send it) and the first Ctrl-C let the current step finish; the trainer saves, says
how to go on and exits with 0. A second Ctrl-C stops at once. What cannot be written:

- pictures, log.txt and TensorBoard's file: a message; training goes on, text and curves are written once they can be;
- rows of stats.jsonl wait; they must be written before the next checkpoint is;
- checkpoints and models: the run ends with one message. Earlier checkpoints are whole, the same command goes on.

A folder that is removed, moved or replaced under a run ends it too: nothing is written into what has its name now.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from hyperinverter.checkpoint import training_states
from hyperinverter.utils.distributed import from_main, is_main
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import remove_leftovers
from hyperinverter.utils.held_folders import lock_folder

T = TypeVar("T")
FOLDERS = ("", "checkpoints", "samples", "model", "model/directions", "model_last", "model_last/directions")


class Stopped(SystemExit):
    """A run ended early because a signal asked it to; everything is saved, and the exit code is 0."""


class StopSignals:
    """SIGTERM and SIGINT of this process while a trainer runs."""

    def __init__(self) -> None:
        self.received: str | None = None  # name of the first one
        self._interrupts = 0
        self._after_step = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take the signals over; at the end they are given back, and one that came too late to be heeded is heeded."""
        self.received, self._interrupts = None, 0
        earlier = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job ignores Ctrl-C
                    earlier[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
        if self.received:
            raise Stopped(0)

    @contextlib.contextmanager
    def after_step(self) -> Iterator[None]:
        """Inside, a signal only sets `received`; outside (networks and data are being read) it ends the run at once."""
        self._after_step = True
        try:
            yield
        finally:
            self._after_step = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if not self._after_step:
            _say(f"stopped by {self.received} before the first step: nothing to save")
            raise Stopped(0)
        again = "; Ctrl-C again stops at once, without saving" if number == signal.SIGINT else ""
        _say(f"{signal.Signals(number).name}: stopping after this step{again}")


STOP_SIGNALS = StopSignals()  # a process has one set of signals


def _say(text: str) -> None:
    if is_main():
        os.write(2, f"\n{text}\n".encode())  # a signal may come in the middle of a print


def guarded(train: Callable[[Any], T]) -> Callable[[Any], T]:
    """Decorate `train(config)` with what this file is about.

    Raises:
        UserError: another run writes into `config.output`, something there could not be written, or the folder was
            removed, moved or replaced.
        Stopped: a signal came.
    """

    @functools.wraps(train)
    def wrapped(config: Any) -> T:
        output = Path(config.output)
        with STOP_SIGNALS.watched():
            try:
                with _locked(output):
                    if is_main():
                        remove_leftovers([output / folder for folder in FOLDERS])
                    return train(config)
            except OSError as error:
                if error.filename is None or not Path(str(error.filename)).is_relative_to(output):
                    raise
                raise UserError(_what_now(error, output)) from error

    return wrapped


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """The first process holds the folder; the others hear of a refusal."""
    with contextlib.ExitStack() as stack:
        refusal = None
        try:
            if is_main():
                stack.enter_context(lock_folder(output))
        except UserError as error:
            refusal = str(error)
        if refusal := from_main(refusal):
            raise UserError(refusal)
        yield


def _what_now(error: OSError, output: Path) -> str:
    saved = training_states(output / "checkpoints")
    kept = f"the last checkpoint, {saved[0]}, is whole" if saved else "no checkpoint was written yet"
    then = "it goes on from the last checkpoint" if saved else "or give another output=FOLDER"
    return (
        f"{error.filename}: {error.strerror}. The run has ended; {kept}. Make room or make the folder writable, and "
        f"start the same command again: {then}"
    )
