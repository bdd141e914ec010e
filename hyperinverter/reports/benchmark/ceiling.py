"""What the device can do at most, measured in the same run: matrix products and copies.

A share of these says how much of the machine is used; a data sheet's peak counts clocks that it never reaches.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from hyperinverter.metrics.timing import synchronise
from hyperinverter.reports.benchmark.sides import tf32_allowed

SECONDS = 0.4  # of measuring per number
LARGEST = 8192  # side of the matrices; a product is enlarged until it takes a measurable time
COPY_MIB = {"cpu": 256, "cuda": 1024}  # beyond every cache
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Ceiling:
    """`matmul`: precision -> floating-point operations per second (a multiply-accumulate is two); `copy`: bytes/s."""

    matmul: dict[str, float]
    copy: float


def measure_ceiling(device: torch.device, precisions: list[str], seconds: float = SECONDS) -> Ceiling:
    """The best rate seen within `seconds` for each number, since noise only ever makes it lower."""
    return Ceiling(
        {name: _matmul_rate(device, name, seconds) for name in dict.fromkeys(precisions)}, _copy_rate(device, seconds)
    )


def _matmul_rate(device: torch.device, precision: str, seconds: float) -> float:
    dtype, side = DTYPES[precision], 256
    with _products(precision):
        while True:
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            spent = _best(lambda a=a, b=b: a @ b, device, seconds / 8)
            # in half precision a CPU without the instructions is slow enough at any size
            if spent > seconds / 8 or side >= LARGEST:
                break
            side *= 2
        return 2 * side**3 / min(spent, _best(lambda: a @ b, device, seconds))


def _products(precision: str) -> AbstractContextManager[None]:
    return tf32_allowed(precision == "tf32")


def _copy_rate(device: torch.device, seconds: float) -> float:
    source = torch.ones(COPY_MIB.get(device.type, 256) << 18, device=device)  # float32
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, seconds)  # read once, written once


def _best(work: object, device: torch.device, seconds: float) -> float:
    work()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds or best == float("inf"):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best
