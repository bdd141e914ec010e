"""Peak memory of one side, in a fresh process that holds nothing else.

On CUDA it is what PyTorch's allocator gave out at most (`torch.cuda.max_memory_allocated`). On a CPU it is the resident
memory of the process: on Linux its largest value during the calls, set back after the networks are built
(/proc/self/clear_refs); elsewhere the largest value of the whole process.
"""

import ctypes
import gc
import os
import resource
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from hyperinverter.config.cli import is_users
from hyperinverter.config.schema import DomainConfig
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.waiting import another_process_speaks, signs_of_life

MIB = 2**20
T = TypeVar("T")


def measure_memory(what: str, side: str, batch_size: int, *settings: Any) -> dict[str, Any]:
    """Run `memory_of` in a process of its own.

    Returns:
        "before_mib" (networks built, nothing run), "peak_mib", "rise_mib" (their difference) and "how" it was
        measured; or "failed", when the process came to an end before (say, no memory left).
    """
    about = {"what": what, "side": side, "batch_size": batch_size}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            return about | pool.submit(memory_of, what, side, batch_size, *settings).result()
        except (BrokenProcessPool, MemoryError, RuntimeError) as error:  # a GPU's is a RuntimeError that says so
            if not isinstance(error, BrokenProcessPool | MemoryError) and "memory" not in str(error):
                raise
            return about | {"failed": f"{type(error).__name__}: too little memory, the process was ended"}


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module where nothing ran before: what a domain left in the allocator changes times, too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            with another_process_speaks():
                return pool.submit(_with_signs, function, *arguments).result()
        except BrokenProcessPool as error:
            raise UserError(
                "the process that measured was ended by the system, most likely for want of memory; what was measured "
                "before is kept: go on with fewer or smaller `sides`, or on a larger machine"
            ) from error


def _with_signs(function: Callable[..., T], *arguments: Any) -> T:
    with signs_of_life():
        try:
            return function(*arguments)
        except (ValueError, OSError) as error:
            if not is_users(error):
                raise
            raise UserError(str(error)) from error  # where it was raised is lost on the way to the other process


def give_back_memory() -> None:
    """Return what was freed to the system, for the processes that follow.

    glibc keeps it: after a domain at 256 px this process held 15 GB, and nothing in them.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that comes to its end.

    A pool's process would else wait for work for ever, with all that it holds.
    """

    def watch() -> None:
        wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def memory_of(
    what: str, side: str, batch_size: int, domain: DomainConfig, device: torch.device, threads: int | None
) -> dict[str, Any]:
    """Peak memory of a side in this process; `what` is "inference" or a phase of training."""
    from hyperinverter.reports.benchmark.sides import make_images, make_model, make_side
    from hyperinverter.reports.benchmark.training import make_trainer

    if threads:
        torch.set_num_threads(threads)
    model = make_model(domain)
    model.network.to(device)
    images = make_images(model, batch_size)
    if what == "inference":
        call = make_side(side, model, batch_size, device)
    else:
        call = make_trainer(what, side, model, batch_size, device).step
    del model  # what the side needs of it, it holds
    gauge = Gauge(device)
    for _ in range(1 if what == "inference" else 2):  # a trainer's first step makes the optimiser's state
        call(images)
    return gauge.read()


class Gauge:
    """Peak memory from its creation on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before, self.how = torch.cuda.memory_allocated(device), "torch.cuda.max_memory_allocated"
            return
        give_back_memory()
        self.before = _status("VmRSS") or _largest_resident()
        self.how = "resident memory of a fresh process (VmHWM, set back before the calls)"
        if not _set_back_peak():
            self.how = "largest resident memory of a fresh process (ru_maxrss, building its networks included)"

    def read(self) -> dict[str, Any]:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status("VmHWM") or _largest_resident()
        rise = max(peak - self.before, 0)
        mib = {"before_mib": self.before / MIB, "peak_mib": peak / MIB, "rise_mib": rise / MIB}
        return {**mib, "how": self.how}


def _set_back_peak() -> bool:
    """Set Linux' record of the largest resident memory back to the present one; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(key: str) -> int | None:
    """A line of /proc/self/status in bytes, None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _largest_resident() -> int:
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest  # bytes there, KiB elsewhere
