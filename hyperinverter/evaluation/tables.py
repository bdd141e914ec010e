"""Results as Markdown tables: metrics.json, and any rows."""

from collections.abc import Iterable, Sequence
from typing import Any

from hyperinverter.evaluation.comparison import compared
from hyperinverter.utils.text import counted

TIMES = ("time_ms_median", "time_ms_p95")
ARROWS = {"lower": "↓", "higher": "↑"}


def to_markdown(result: dict[str, Any]) -> str:
    """What was measured on what, the table, and why something was not measured.

    Args:
        result: as `evaluation.reconstruction.evaluate` returns it.
    """
    protocol = result["protocol"]
    count = counted(result["num_images"], "image")
    brackets = " Brackets: 95 % interval over images." if any(result["intervals_95"].values()) else ""
    text = (
        f"{count} of domain {result['domain']} at {protocol['resolution']} px; time on {protocol['device']}, batch of "
        f"{protocol['time_batch_size']}.{brackets}\n\n"
    )
    text += metrics_table(result) + "\n"
    if result["not_measured"]:
        reasons = [f"- {name}: {reason}" for name, reason in result["not_measured"].items()]
        text += "\nNot measured:\n\n" + "\n".join(reasons) + "\n"
    return text


def metrics_table(result: dict[str, Any]) -> str:
    """One row per metric, one column per method, 95 % intervals in brackets, and HyperInverter against each of them."""
    methods = list(result["methods"])
    ours, others = compared(methods)
    heading = ["metric", *methods, *(f"{ours} against {other}" for other in others)]
    rows = []
    for name, about in result["metrics"].items():
        values = [result["methods"][method].get(name) for method in methods]
        intervals = [result["intervals_95"].get(method, {}).get(name) for method in methods]
        unit = f", {about['unit']}" if about["unit"] else ""
        cells = [f"{name}{unit} {ARROWS[about['better']]}"]
        cells += [_value(value, interval) for value, interval in zip(values, intervals, strict=True)]
        results = dict(zip(methods, values, strict=True))
        for other in others:
            paired = result.get("comparison", {}).get(other, {}).get(name, {}).get("interval_95")
            cells.append(_comparison(results[other], results[ours], about["better"], paired))
        rows.append(cells)
    return table(heading, rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mean(result: dict[str, Any]) -> str:
    """A `mean` and its `interval_95`, where it has one."""
    low_high = result.get("interval_95")
    return f"{result['mean']:.3g}" + (f" [{low_high[0]:.3g}, {low_high[1]:.3g}]" if low_high else "")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _value(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "not measured"
    return _number(value) + (f" [{_number(interval[0])}, {_number(interval[1])}]" if interval else "")


def _comparison(first: float | None, last: float | None, better: str, interval: list[float] | None) -> str:
    """A ratio where lower is better and 0 is perfect, else a difference."""
    if first is None or last is None:
        return ""
    is_ratio = better == "lower" and first > 0
    text = f"× {last / first:.3g}" if is_ratio else f"{last - first:+.3g}"
    if interval is None:
        return text
    return text + (" [{:.3g}, {:.3g}]" if is_ratio else " [{:+.3g}, {:+.3g}]").format(*interval)
