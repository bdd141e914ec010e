"""Time per image: warmed up, with the device synchronised before and after every call."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

WARM_UP_CALLS = 3  # allocator, kernel choice and caches settle in the first calls


@dataclass(frozen=True)
class Timing:
    """Milliseconds per image over `repeats` calls of one batch."""

    median_ms: float
    p95_ms: float
    batch_size: int
    repeats: int
    device: str


def time_per_image(run: Callable[[], object], *, batch_size: int, repeats: int, device: torch.device) -> Timing:
    """Time `run`, which works on one batch of `batch_size` images.

    Raises:
        ValueError: batch_size or repeats is below 1.
    """
    if batch_size < 1 or repeats < 1:
        raise ValueError(f"batch_size and repeats must be at least 1, got {batch_size} and {repeats}")
    for _ in range(WARM_UP_CALLS):
        run()
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        times.append(1000 * (time.perf_counter() - start) / batch_size)
    return timing_of(times, device, batch_size)


def timing_of(times_ms: Sequence[float], device: torch.device, batch_size: int = 1) -> Timing:
    """Of milliseconds per image that were measured already, one of each call."""
    median, p95 = np.percentile(times_ms, [50, 95])
    return Timing(float(median), float(p95), batch_size, len(times_ms), device_name(device))


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
