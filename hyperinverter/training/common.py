"""What the three trainers share: the run folder (config, log, scalars, pictures, TensorBoard), seeds and device.

A run folder holds `config.yaml environment.txt log.txt stats.jsonl samples/ checkpoints/` and TensorBoard events.
"""

import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.checkpoint import write_atomically
from hyperinverter.config import to_yaml
from hyperinverter.config.schema import CommandConfig, RunConfig
from hyperinverter.utils.distributed import is_main, own_device
from hyperinverter.utils.images import image_grid, save_image
from hyperinverter.utils.seeding import seed_everything


def set_up(config: CommandConfig) -> torch.device:
    """Seed every generator (the same in every process), set CPU threads, resolve the device."""
    seed_everything(config.seed, config.threads)
    device = own_device(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return device


class Run:
    """A run folder that is open for writing; on resume everything is appended to.

    With several processes the first writes; in the others every method does nothing.

    Args:
        output: the folder.
        config: written into it.
        step: where the run goes on; what TensorBoard holds after it (a killed run wrote it) is no longer shown.
    """

    def __init__(self, output: str | Path, config: RunConfig, step: int = 0) -> None:
        self.folder = Path(output)
        self.samples = self.folder / "samples"
        self.checkpoints = self.folder / "checkpoints"
        self._writes = is_main()
        if not self._writes:
            return
        from torch.utils.tensorboard import SummaryWriter

        for folder in (self.samples, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.folder / "config.yaml") as path:
            path.write_text(to_yaml(config))
        with write_atomically(self.folder / "environment.txt") as path:
            path.write_text(_environment())
        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1)
        self._log = open(self.folder / "log.txt", "a", buffering=1)  # noqa: SIM115 (closed in close)
        self._stats = open(self.folder / "stats.jsonl", "a", buffering=1)  # noqa: SIM115

    def log(self, *messages: str) -> None:
        """Print above a progress bar and keep in log.txt, one line each."""
        from tqdm import tqdm

        for message in messages if self._writes else ():
            tqdm.write(message, file=sys.stderr)
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of stats.jsonl and one TensorBoard point each; NaN and inf become null in the JSON."""
        if not self._writes:
            return
        clean = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        self._stats.write(json.dumps({"step": step, **clean}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, images: Tensor, columns: int = 8) -> Path:
        """Images [N,3,R,R] in [-1,1] as one grid: TensorBoard and samples/<name>_<step>.png."""
        path = self.samples / f"{name}_{step:08d}.png"
        if not self._writes:
            return path
        grid = image_grid(images.detach().float().cpu(), columns)
        save_image(grid, path)
        self._writer.add_image(name, (grid * 0.5 + 0.5).clamp(0, 1), step)
        return path

    def close(self) -> None:
        if not self._writes:
            return
        self._writer.close()
        self._log.close()
        self._stats.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _environment() -> str:
    """Versions, machine and commit, so that the run can be told again."""
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
