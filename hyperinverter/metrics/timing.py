"""Time per image: warmed up, with the device synchronised before and after every call.

`computing` is how much of that time the process was computing, summed over its threads: where one thread has less than
all of it, other programs had the core.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

ONE_THREAD = "cpu, 1 threads"  # device on which `computing` tells of other programs
WARM_UP_CALLS = 3  # allocator, kernel choice and caches settle in the first calls


@dataclass(frozen=True)
class Timing:
    """Milliseconds per image over `repeats` calls of one batch."""

    median_ms: float
    p95_ms: float
    batch_size: int
    repeats: int
    device: str
    computing: float | None = None  # share of the time, median; None: not known


def time_per_image(run: Callable[[], object], *, batch_size: int, repeats: int, device: torch.device) -> Timing:
    """Time `run`, which works on one batch of `batch_size` images.

    Raises ValueError: batch_size or repeats is below 1.
    """
    if batch_size < 1 or repeats < 1:
        raise ValueError(f"batch_size and repeats must be at least 1, got {batch_size} and {repeats}")
    for _ in range(WARM_UP_CALLS):
        run()
    times, shares = [], []
    for _ in range(repeats):
        with Clock(device) as clock:
            run()
        times.append(1000 * clock.seconds / batch_size)
        shares.append(clock.computing)
    return timing_of(times, device, batch_size, shares)


def timing_of(
    times_ms: Sequence[float], device: torch.device, batch_size: int = 1, shares: Sequence[float] = ()
) -> Timing:
    """Of milliseconds per image that were measured already, one of each call, and `computing` of those that know it."""
    median, p95 = np.percentile(times_ms, [50, 95])
    computing = float(np.median(shares)) if shares else None
    return Timing(float(median), float(p95), batch_size, len(times_ms), device_name(device), computing)


def own_time(time: float, computing: float | None, device: str) -> float:
    """What a time on one CPU thread would be about on a core of its own; others, and unknown shares, stay.

    `device`: as `device_name` tells it.
    """
    return time * min(computing, 1.0) if computing and device == ONE_THREAD else time


class Clock:
    """Times a block of code, with the device synchronised before and behind it.

    Attributes:
        seconds: that it took.
        computing: share of them in which this process was computing, more than 1 with several threads.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = self.computing = 0.0

    def __enter__(self) -> "Clock":
        synchronise(self.device)
        self._start, self._used = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        synchronise(self.device)
        self.seconds = time.perf_counter() - self._start
        self.computing = (time.process_time() - self._used) / self.seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return device.type
