"""What trainers share: the run folder (config, log, scalars, pictures, TensorBoard), seeds and device.

A run folder holds `config.yaml environment.txt log.txt stats.jsonl samples/ checkpoints/` and TensorBoard events. Only
the first of several processes writes into it.
"""

import io
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from hyperinverter.checkpoint import remove_older_states
from hyperinverter.config.load import to_yaml
from hyperinverter.config.schema import CommandConfig, RunConfig
from hyperinverter.training.guard import STOP_SIGNALS, Stopped
from hyperinverter.utils.device import seed_everything, warn_if_slower
from hyperinverter.utils.distributed import is_main, own_device
from hyperinverter.utils.files import AppendedFile, write_atomically, write_text
from hyperinverter.utils.images import save_image

EVENTS = "events.out.tfevents."


def set_up(config: CommandConfig) -> torch.device:
    """Seed every generator (the same in every process), set CPU threads, resolve the device.

    Says once where the config's precision is one that the processor is slow in.
    """
    seed_everything(config.seed, config.threads)
    device = own_device(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if is_main():
        warn_if_slower(device.type, getattr(config, "precision", "fp32"))
    return device


class Run:
    """A run folder that is open for writing; on resume everything is appended to.

    While it is open, a signal to stop waits for the end of the step (see `guard`).

    `step`: where the run goes on; rows and curves after it, which a killed run wrote, are taken out.
    """

    def __init__(self, output: str | Path, config: RunConfig, step: int = 0) -> None:
        self.folder = Path(output)
        self.samples = self.folder / "samples"
        self.checkpoints = self.folder / "checkpoints"
        self._again = "" if getattr(config, "resume", "auto") == "auto" else " with resume=auto"
        self._open = ExitStack()
        self._writes = is_main()
        if not self._writes:
            return
        for folder in (self.samples, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", to_yaml(config))
        write_text(self.folder / "environment.txt", _environment())
        forget_later(self.folder, step)
        if schedule := getattr(config, "schedule", None):  # a run killed before it removed one
            remove_older_states(self.checkpoints, step, schedule.keep_checkpoints)
        self._curves = Curves(self.folder, step + 1, self._cannot_write)
        self._log = AppendedFile(self.folder / "log.txt", self._cannot_write)
        self._stats = AppendedFile(self.folder / "stats.jsonl", self._cannot_write)
        for file in (self._curves, self._log, self._stats):
            self._open.callback(file.close)

    def log(self, *messages: str) -> None:
        """Print above a progress bar and keep in log.txt, one line each."""
        for message in messages if self._writes else ():
            _print(message)
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n".encode())

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of stats.jsonl and one TensorBoard point each; NaN and inf become null in the JSON."""
        if not self._writes:
            return
        clean = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        self._stats.write((json.dumps({"step": step, **clean}) + "\n").encode())
        for name, value in values.items():
            self._curves.scalar(name, value, step)

    def images(self, step: int, name: str, images: Tensor, columns: int = 8) -> Path:
        """Images [N,3,R,R] in [-1,1] as one grid: TensorBoard and samples/<name>_<step>.png.

        One that cannot be written is reported and left out.
        """
        path = self.samples / f"{name}_{step:08d}.png"
        if not self._writes:
            return path
        from torchvision.utils import make_grid

        grid = make_grid(images.detach().float().cpu(), columns, padding=0, pad_value=1.0)
        try:
            save_image(grid, path)
        except OSError as error:
            self.log(f"{path}: {error.strerror or error}; training goes on without this picture")
        self._curves.image(name, (grid * 0.5 + 0.5).clamp(0, 1), step)
        return path

    def sync(self) -> None:
        """Everything written so far is on the disk when this returns; a checkpoint counts on the rows before it.

        Raises OSError: rows of stats.jsonl cannot be written.
        """
        if not self._writes:
            return
        self._stats.sync()
        for file in (self._curves, self._log):
            with suppress(OSError):  # was reported when it happened
                file.sync()

    def stop(self, step: int) -> NoReturn:
        """End a run that a signal stopped after `step`, which is saved."""
        name = STOP_SIGNALS.received or "a signal to another process"
        message = (
            f"stopped after step {step} by {name}; everything is saved, the same command{self._again} goes on from here"
        )
        self.log(message)
        raise Stopped(0)

    def __enter__(self) -> "Run":
        self._open.enter_context(STOP_SIGNALS.after_step())
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _cannot_write(self, error: OSError) -> None:
        _print(f"{error.filename}: {error.strerror}; training goes on, and this is tried again")


def _print(message: str) -> None:
    from tqdm import tqdm

    with suppress(OSError):  # nobody reads it any more: a closed terminal or pipe ends no training
        tqdm.write(message, file=sys.stderr)


def _environment() -> str:
    """Versions, machine and commit, so that the run can be repeated."""
    describe = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    commit = subprocess.run(describe, capture_output=True, text=True, cwd=here, check=False).stdout.strip()
    lines = [
        f"command {' '.join(sys.argv)}",
        f"commit {commit or 'unknown (not a git checkout)'}",
        f"python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}",
        f"cpu cores {os.cpu_count()}, torch threads {torch.get_num_threads()}",
    ]
    if torch.cuda.is_available():
        lines.append(f"cuda {torch.version.cuda}, {torch.cuda.get_device_name()}")
    return "\n".join(lines) + "\n"


class Curves(AppendedFile):
    """A new TensorBoard file in a run folder.

    Every row reaches the file when it is written: TensorBoard's own writer keeps up to two minutes of them in memory,
    which a killed run loses, and prints a traceback when the disk is full.

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
        super().__init__(folder / f"{EVENTS}{number:010d}.{socket.gethostname()}.{os.getpid()}", on_error)
        self._add(file_version="brain.Event:2")
        self._add(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._add(step=step, summary=scalar(name, value))

    def image(self, name: str, image: Tensor, step: int) -> None:
        """`image`: [3, H, W] in [0, 1]."""
        from torch.utils.tensorboard.summary import image as picture

        self._add(step=step, summary=picture(name, image, dataformats="CHW"))

    def _add(self, **event: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        self.write(record.getvalue())


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
