"""Time of the sides of a comparison: synchronised, warm, and in turn (A B A B ...), so that noise hits all alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hyperinverter.metrics.timing import synchronise

REST = "rest"  # what lies between the named stages: resizes, checks, bookkeeping


class Laps:
    """What hears that a stage has ended: a stopwatch or a counter; this one heeds nothing."""

    def lap(self, stage: str) -> None:
        """What was done since the last lap belongs to `stage`; laps of one name add up."""


UNHEARD = Laps()


class Stopwatch(Laps):
    """Laps of one call. On CUDA they are events in the stream, so that measuring stages stops nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._laps: list[tuple[str, float | torch.cuda.Event]] = []
        synchronise(device)
        self._begin = time.perf_counter()
        self._last = self._mark()

    def lap(self, stage: str) -> None:
        self._laps.append((stage, self._mark()))

    def read(self) -> dict[str, float]:
        """Milliseconds by stage, and "total": from the start until the device has done everything."""
        synchronise(self.device)
        total = 1000 * (time.perf_counter() - self._begin)
        stages: dict[str, float] = {}
        last = self._last
        for stage, mark in self._laps:
            spent = last.elapsed_time(mark) if isinstance(mark, torch.cuda.Event) else 1000 * (mark - last)
            stages[stage] = stages.get(stage, 0.0) + spent
            last = mark
        return {**stages, "total": total}

    def _mark(self) -> "float | torch.cuda.Event":
        if self.device.type != "cuda":
            synchronise(self.device)
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


Side = Callable[[Stopwatch], object]


@dataclass(frozen=True)
class Rounds:
    """How often a comparison runs: up to `most` rounds within `seconds`, `least` whatever they take."""

    most: int = 15
    least: int = 3
    seconds: float = 40.0
    warm_up: int = 0  # beside the first call that every measurement makes before its rounds

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most or self.warm_up < 0:
            raise ValueError(f"rounds must be 1 <= least <= most with warm_up >= 0, got {self}")


def take_turns(sides: Mapping[str, Side], device: torch.device, rounds: Rounds) -> dict[str, list[dict[str, float]]]:
    """Call every side once per round, in order; the first `rounds.warm_up` rounds are thrown away.

    Returns:
        Side -> one reading of its `Stopwatch` per round, all sides equally many.
    """
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    begin = time.perf_counter()
    for number in range(rounds.warm_up + rounds.most):
        done = number - rounds.warm_up
        if done == 0:
            begin = time.perf_counter()
        # one more round is begun only where it is expected to fit
        spent = time.perf_counter() - begin
        if done >= rounds.least and spent * (done + 1) / done > rounds.seconds:
            break
        for name, side in sides.items():
            watch = Stopwatch(device)
            side(watch)
            reading = watch.read()
            if done >= 0:
                readings[name].append(reading)
    return readings


def summarise(readings: list[dict[str, float]], batch_size: int = 1) -> dict[str, dict[str, float]]:
    """Stage -> median and 95th percentile in milliseconds per call and, of the total, the median per image."""
    stages = dict.fromkeys(stage for reading in readings for stage in reading)
    summary = {}
    for stage in stages:
        values = [reading.get(stage, 0.0) for reading in readings]
        median, p95 = np.percentile(values, [50, 95])
        summary[stage] = {"median_ms": float(median), "p95_ms": float(p95)}
    summary["total"] |= {"ms_per_image": summary["total"]["median_ms"] / batch_size, "rounds": len(readings)}
    return summary


def speed_up(slow: list[dict[str, float]], fast: list[dict[str, float]]) -> dict[str, float]:
    """How many times faster `fast` is: the median over rounds of the ratio within a round, with the extremes."""
    ratios = [a["total"] / b["total"] for a, b in zip(slow, fast, strict=True)]
    return {"median": float(np.median(ratios)), "least": min(ratios), "most": max(ratios)}
