"""Results as Markdown tables: metrics.json, and any rows."""

from collections.abc import Iterable, Mapping, Sequence
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
    for steps, methods in refined(protocol["settings"]).items():
        text += f"\nThe results of {' and '.join(methods)} are refined: {counted(steps, 'step')} on each image.\n"
    if result["not_measured"]:
        text += f"\n{listed('Not measured', result['not_measured'])}\n"
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
        cells += [
            "not measured" if value is None else bracketed(value, interval, ".4g")
            for value, interval in zip(values, intervals, strict=True)
        ]
        results = dict(zip(methods, values, strict=True))
        for other in others:
            paired = result.get("comparison", {}).get(other, {}).get(name, {}).get("interval_95")
            cells.append(_comparison(results[other], results[ours], about["better"], paired))
        rows.append(cells)
    return table(heading, rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Heads and cells of rows that name their cells, in the order of the longest row; what a row lacks stays empty."""
    heads = list(dict.fromkeys(head for row in sorted(rows, key=len, reverse=True) for head in row))
    return heads, [[row.get(head, "") for head in heads] for row in rows]


def bracketed(value: float, interval: Sequence[float] | None, form: str = ".3g", of_interval: str = "") -> str:
    """A number, and behind it its interval where it has one; `of_interval`: the form of that, if it is another."""
    bounds = ", ".join(format(bound, of_interval or form) for bound in interval or ())
    return format(value, form) + (f" [{bounds}]" if bounds else "")


def mean(result: dict[str, Any], form: str = ".3g") -> str:
    """A `mean` and its `interval_95`, where it has one."""
    return bracketed(result["mean"], result.get("interval_95"), form)


def against(one: dict[str, Any], form: str = ".3g") -> str:
    """What `comparison.compare` says of one metric: a ratio in this form, or a difference."""
    if "ratio" in one:
        return f"× {bracketed(one['ratio'], one['interval_95'], form)}"
    return bracketed(one["difference"], one["interval_95"], "+.3g")


def listed(title: str, reasons: Mapping[str, str] | Iterable[str]) -> str:
    """A title and below it a list; of reasons by name each in one line, behind all names that it is of."""
    lines = reasons
    if isinstance(reasons, Mapping):
        lines = (f"{', '.join(names)}: {why}" for why, names in grouped(reasons).items())
    return f"{title}:\n\n" + "\n".join(f"- {' '.join(line.split())}" for line in lines)


def grouped(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Value -> the names that have it, in the order of the first."""
    names: dict[Any, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return names


def refined(settings: Mapping[str, Mapping[str, Any]]) -> dict[int, list[str]]:
    """Steps of refinement -> the methods whose settings have them."""
    return grouped({name: steps for name, of in settings.items() if (steps := of.get("refine_steps", 0))})


def _comparison(first: float | None, last: float | None, better: str, interval: list[float] | None) -> str:
    """A ratio where lower is better and 0 is perfect, else a difference."""
    if first is None or last is None:
        return ""
    is_ratio = better == "lower" and first > 0
    one = {"ratio": last / first} if is_ratio else {"difference": last - first}
    return against({**one, "interval_95": interval})
