"""Inference: every side on the same images in turn, its stages, its share of the ceilings, and how its images differ.

Letters: N images (the batch).
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperinverter.metrics.timing import synchronise
from hyperinverter.pretrained.load import LoadedModel
from hyperinverter.reports.benchmark.clock import Rounds, speed_up, summarise, take_turns
from hyperinverter.reports.benchmark.counting import count_call, count_inference
from hyperinverter.reports.benchmark.sides import (
    OurSide,
    ReferenceSide,
    SideName,
    copied,
    make_images,
    make_side,
)
from hyperinverter.utils.device import tf32_allowed

SECONDS = 0.4  # of measuring per number
LARGEST = 8192  # side of the matrices; a product is enlarged until it takes a measurable time
COPY_MIB = {"cpu": 256, "cuda": 1024}  # beyond every cache
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Ceiling:
    """What the device can do at most, measured in the same run (a data sheet's peak counts clocks it never reaches).

    `matmul`: precision -> floating-point operations per second (a multiply-accumulate is two); `copy`: bytes/s.
    """

    matmul: dict[str, float]
    copy: float


def measure_ceiling(device: torch.device, precisions: list[str], seconds: float = SECONDS) -> Ceiling:
    """The best rate seen within `seconds` for each number, since noise only ever makes it lower."""
    return Ceiling(
        {name: _matmul_rate(device, name, seconds) for name in dict.fromkeys(precisions)}, _copy_rate(device, seconds)
    )


def _matmul_rate(device: torch.device, precision: str, seconds: float) -> float:
    dtype, side = DTYPES[precision], 256
    with tf32_allowed(precision == "tf32"):
        while True:
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            spent = _best(lambda a=a, b=b: a @ b, device, seconds / 8)
            # in half precision a CPU without the instructions is slow enough at any size
            if spent > seconds / 8 or side >= LARGEST:
                break
            side *= 2
        return 2 * side**3 / min(spent, _best(lambda: a @ b, device, seconds))


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


def difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """How far two batches of images are apart, in [-1, 1] and relative to the range of the first one's values."""
    off = (a.float() - b.float().to(a.device)).abs()
    span = (a.max() - a.min()).clamp(min=1e-12)
    return {"largest": off.max().item(), "mean": off.mean().item(), "largest_of_range": (off.max() / span).item()}


def measure_inference(
    model: LoadedModel, batch_size: int, names: list[str], rounds: Rounds, device: torch.device, ceiling: Ceiling
) -> dict[str, Any]:
    """One batch size of one model.

    Args:
        model: whose sides are compared; stays as it is.
        names: of the sides. The first is the one that the others' images and times are held against.
    Returns:
        Per side: stages with times, rates and shares; the speed-up over the first side and the difference of its
        images from the first side's. "counts" holds the work per stage on tensors without numbers; a side's "gib_moved"
        and shares are of its own call (a compiled side's of the same one uncompiled).
    """
    sides = {name: make_side(name, model, batch_size, device) for name in names}
    images = make_images(model, batch_size).to(device)
    pictures = {name: side(images) for name, side in sides.items()}
    calls = {name: (lambda watch, side=side: side(images, watch)) for name, side in sides.items()}
    readings = take_turns(calls, device, warmed(rounds, device))

    ways = {isinstance(side, ReferenceSide) for side in sides.values()}
    counts = {way: count_inference(model.domain, batch_size, reference=way) for way in ways}
    first, result = names[0], {}
    for name in names:
        counted, precision = _count(name, sides, model, images), SideName.of(name).precision
        result[name] = {"stages": with_shares(summarise(readings[name], batch_size), counted, ceiling, precision)}
        if name != first:
            result[name] |= {
                "compared_with": first,
                "speed_up": speed_up(readings[first], readings[name]),
                "difference": difference(pictures[first], pictures[name]),
            }
    return {
        "batch_size": batch_size,
        "sides": result,
        "counts": {("reference" if way else "ours"): counts[way] for way in sorted(ways)},
    }


def _count(name: str, sides: dict[str, Any], model: LoadedModel, images: Tensor) -> dict[str, dict[str, int]]:
    """The work of one call; counting would break a compiled graph, so that the same side is made without one."""
    parts = SideName.of(name)
    side = sides[name]
    if parts.compiled:
        side = OurSide(copied(model), replace(parts, compiled=False), images.device)
        side(images)
    return count_call(side, images)


def warmed(rounds: Rounds, device: torch.device) -> Rounds:
    """A GPU chooses kernels and grows its memory for a few calls; on a CPU the first call, already made, is enough."""
    return replace(rounds, warm_up=3) if device.type == "cuda" else rounds


def with_shares(
    summary: dict[str, dict[str, float]], counts: dict[str, dict[str, int]], ceiling: Ceiling, precision: str
) -> dict[str, dict[str, float]]:
    """Adds to every stage that was counted its traffic, its rate and its shares of the measured ceilings.

    "share_of_matmul" is 2 multiply-accumulates over time over the rate of matrix products in this precision;
    "share_of_copy" the bytes of an eager run over time over the rate of copies (more than 1: caches served them).
    """
    for stage, counted in counts.items():
        if stage in summary:
            seconds = summary[stage]["median_ms"] / 1000
            rate, traffic = 2 * counted["macs"] / seconds, counted["bytes"] / seconds
            summary[stage] |= {
                "gib_moved": counted["bytes"] / 2**30,
                "gmac_per_s": rate / 2e9,
                "share_of_matmul": rate / ceiling.matmul[precision],
                "share_of_copy": traffic / ceiling.copy,
            }
    return summary


def measure_slider(model: LoadedModel, name: str, rounds: Rounds, device: torch.device) -> dict[str, Any]:
    """An edit of one image whose weights are computed already, against inverting and rendering it.

    Every edit is another one.

    Returns:
        Times of "inversion" (invert and render), "prepare" (the image's weights, once) and "slider" (render an edit),
        and "share": slider over inversion, the median over rounds.
    """
    side = make_side(name, model, 1, device)
    inverter, images = side.inverter, make_images(model, 1).to(device)
    inversion = inverter.invert(images, batch_size=1)
    direction = torch.randn(inversion.ws.shape[-1], generator=torch.Generator().manual_seed(0)).to(inversion.ws)
    direction = direction / direction.norm()
    prepared = inverter.prepare(inversion)
    strengths = iter(range(1, 10**9))

    def slide(watch: Any) -> None:
        inverter.render(prepared.with_ws(prepared.ws + 0.1 * next(strengths) * direction))

    slide(None)
    side(images)
    sides = {"inversion": lambda watch: side(images), "prepare": lambda watch: inverter.prepare(inversion)}
    readings = take_turns({**sides, "slider": slide}, device, warmed(rounds, device))
    share = speed_up(readings["slider"], readings["inversion"])
    return {"side": name, "times": {what: summarise(r)["total"] for what, r in readings.items()}, "share": share}
