"""What can be looked at while a run goes on: rows of stats.jsonl and TensorBoard's curves, none doubled, none missing.

Every row reaches the file when it is written (TensorBoard's own writer keeps up to two minutes of them in memory, which
a killed run loses). What a killed run wrote after its last checkpoint is taken out before its continuation writes it
again. The format of the events is TensorBoard's: records of `Event` messages.
"""

import io
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from hyperinverter.utils.files import AppendedFile, write_atomically

EVENTS = "events.out.tfevents."
HEAD, TAIL = 12, 4  # bytes around a record: its length and a checksum before it, a checksum after it


class Curves:
    """A new TensorBoard file in a run folder.

    Args:
        folder: TensorBoard reads all event files in it, in the order of their names.
        first_step: where this part of the run begins; a TensorBoard that is open drops what it has shown from there on.
        tell: gets the error when the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int, tell: Callable[[OSError], None]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        # the number in the name is its time; never before an earlier file's, whatever the clock says
        numbers = [int(n[1]) for p in folder.glob(f"{EVENTS}*") if (n := re.match(r"(\d+)", p.name[len(EVENTS) :]))]
        number = max([int(time.time()), *(n + 1 for n in numbers)])
        self._file = AppendedFile(folder / f"{EVENTS}{number:010d}.{socket.gethostname()}.{os.getpid()}", tell)
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
    """Take out rows and events after `step`, and what a kill cut in two; the continuation writes them again."""
    folder = Path(output)
    _forget_rows(folder / "stats.jsonl", step)
    for path in sorted(folder.glob(f"{EVENTS}*"), reverse=True):
        if not _forget_events(path, step):
            break


def _forget_rows(path: Path, step: int) -> None:
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


def _forget_events(path: Path, step: int) -> bool:
    """Whether files before this one may hold later events too: this one had some, or none at all."""
    data = path.read_bytes()
    kept, points = bytearray(), 0
    for record, at, is_point in _records(data):
        if at <= step:
            kept += record
            points += is_point
    if len(kept) == len(data):
        return points == 0
    with write_atomically(path) as temporary:
        temporary.write_bytes(kept)
    return True


def _records(data: bytes) -> Iterator[tuple[bytes, int, bool]]:
    """Whole records of an event file: their bytes, their step, whether they hold a point or a picture."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    start = 0
    while start + HEAD <= len(data):
        end = start + HEAD + struct.unpack_from("<Q", data, start)[0] + TAIL
        if end > len(data):
            return
        try:
            event = Event.FromString(data[start + HEAD : end - TAIL])
        except DecodeError:
            return
        yield data[start:end], event.step, event.HasField("summary")
        start = end
