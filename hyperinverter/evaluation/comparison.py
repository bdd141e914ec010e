"""A method held against others on the same images, with the interval that pairing them gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperinverter.metrics.base import bootstrap_interval, bootstrap_ratio

OURS = "hyperinverter"


def compared(methods: Sequence[str]) -> tuple[str, list[str]]:
    """The method that is compared (HyperInverter, where it is absent the last), and those it is held against."""
    ours = OURS if OURS in methods else methods[-1]
    return ours, [method for method in methods if method != ours]


def compare_with_each(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Other method -> what `compare` says of the compared one against it."""
    ours, others = compared(methods)
    return {other: compare(records, [other, ours], metrics) for other in others}


def statement(text: str, ratio: float, interval: Sequence[float]) -> dict[str, Any]:
    """What holds where a ratio is above 1 in 95 % of the resamples."""
    low, high = interval
    verdict = "holds" if low > 1 else "does not hold" if high < 1 else "open: the interval holds 1"
    return {"statement": text, "ratio": float(ratio), "interval_95": [low, high], "verdict": verdict}


def compare(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """Metric -> `ratio` where lower is better and 0 is perfect, else `difference`, and `interval_95` over images.

    Args:
        records: one per image: method -> metric -> value.
        methods: the last of these is held against the first; with one there is nothing to compare.
        metrics: name -> what it says of itself, `better` among it; those without a value per image are left out.
    """
    if len(methods) < 2 or len(records) < 2:
        return {}
    result = {}
    for name, about in metrics.items():
        pairs = [[record[method].get(name) for method in (methods[0], methods[-1])] for record in records]
        if any(value is None for pair in pairs for value in pair):
            continue
        first, last = np.array(pairs, dtype=np.float64).T
        if about["better"] == "lower" and first.mean() > 0:
            value, interval = {"ratio": float(last.mean() / first.mean())}, bootstrap_ratio(first, last)
        else:
            value, interval = {"difference": float((last - first).mean())}, bootstrap_interval(last - first)
        result[name] = value | {"interval_95": list(interval)}
    return result
