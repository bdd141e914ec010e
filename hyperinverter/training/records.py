"""What can be looked at while a run goes on: rows of stats.jsonl and TensorBoard's curves, none doubled, none missing.

Every row reaches the file when it is written (TensorBoard's own writer keeps up to two minutes of them in memory, which
a killed run loses, and prints a traceback when the disk is full). What a killed run wrote after its last checkpoint is
taken out of stats.jsonl, and dropped by TensorBoard (as with SummaryWriter's `purge_step`), before its continuation
writes it again.
"""

import io
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from hyperinverter.utils.files import AppendedFile, write_atomically

EVENTS = "events.out.tfevents."


class Curves:
    """A new TensorBoard file in a run folder.

    Args:
        folder: TensorBoard reads all event files in it, in the order of their names.
        first_step: where this part of the run begins; TensorBoard drops what earlier files hold from there on.
        on_error: gets the error when the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int, on_error: Callable[[OSError], None]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        # the number in the name is its time; never before an earlier file's, whatever the clock says
        numbers = [int(n[1]) for p in folder.glob(f"{EVENTS}*") if (n := re.match(r"(\d+)", p.name[len(EVENTS) :]))]
        number = max([int(time.time()), *(n + 1 for n in numbers)])
        self._file = AppendedFile(folder / f"{EVENTS}{number:010d}.{socket.gethostname()}.{os.getpid()}", on_error)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write(step=step, summary=scalar(name, value))

    def image(self, name: str, image: Tensor, step: int) -> None:
        """`image`: [3, H, W] in [0, 1]."""
        from torch.utils.tensorboard.summary import image as picture

        self._write(step=step, summary=picture(name, image, dataformats="CHW"))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _write(self, **event: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        self._file.write(record.getvalue())


def forget_later(output: str | Path, step: int) -> None:
    """Take rows after `step`, and what a kill cut in two, out of stats.jsonl; the continuation writes them again."""
    path = Path(output) / "stats.jsonl"
    if not path.is_file():
        return
    kept = []
    before = path.read_bytes()
    for line in before.splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # cut in two
    if len(after := b"".join(kept)) < len(before):
        with write_atomically(path) as temporary:
            temporary.write_bytes(after)
