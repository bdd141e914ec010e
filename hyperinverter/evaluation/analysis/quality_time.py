"""Quality against time (figure 1), from any result files of scripts/evaluate.py.

A time on one CPU thread that other programs shared counts as it would be on a core of its own.
"""

import json
from glob import glob
from pathlib import Path
from typing import Any

from hyperinverter.evaluation.drawing import new_figure, save_figure, save_table
from hyperinverter.metrics.timing import own_time
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError

TIME = "time_ms_median"
# of a name beside its point, in typographic points, and which of its sides is there; the usual one first
PLACES = ((8, 6, "left"), (-8, 6, "right"), (8, -14, "left"), (-8, -14, "right"))
COLUMNS = ("method", "model", "quality", "low_95", "high_95", "time_ms", "images", "num_images", "device", "file")


def read_points(results: list[str], quality: str) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
    """One point per method and file.

    Returns:
        Points with COLUMNS, what the metric says of itself (unit, better), and notes on files that were measured on
        other images or another device than the first, whose points are not comparable.
    Raises:
        UserError: no file, one that is no result of evaluate, or no point has both quality and time.
    """
    paths = sorted({Path(path) for pattern in results for path in (glob(pattern, recursive=True) or [pattern])})
    points, about, notes = [], {}, []
    for path in paths:
        result = _read(path)
        if quality not in result["metrics"]:
            notes.append(f"{path}: has no {quality}, only {', '.join(result['metrics'])}")
            continue
        about = about or result["metrics"][quality]
        for method, values in result["methods"].items():
            if values.get(quality) is None or values.get(TIME) is None:
                notes.append(f"{path}: {method} has no {quality} or no time")
                continue
            low, high = result["intervals_95"].get(method, {}).get(quality) or (None, None)
            protocol = result["protocol"]
            time = own_time(values[TIME], protocol.get("computing", {}).get(method), protocol["device"])
            points.append(dict(zip(COLUMNS, (method, protocol["models"].get(method, ""), values[quality], low, high,
                                             time, protocol["images"], result["num_images"],
                                             protocol["device"], str(path)), strict=True)))  # fmt: skip
    if not points:
        reasons = "; ".join(notes) or "no file matched"
        raise UserError(f"results: nothing to draw of {', '.join(results)}: {reasons}")
    for key in ("images", "num_images", "device"):
        others = {str(point[key]) for point in points} - {str(points[0][key])}
        if others:
            notes.append(
                f"{key} differ between the files ({points[0][key]}; {', '.join(sorted(others))}): compare with care"
            )
    return points, about, notes


def _place_ticks(axes: Any, seconds: list[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out, and room for the names on the right."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(seconds), max(seconds)
    room = max((high / low) ** 0.15, 1.5)
    axes.set_xlim(low / room, high * room**3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def place_labels(axes: Any, labels: list[tuple[str, str, float, float]]) -> list[Any]:
    """Write names in their points' colours, each at the first of PLACES inside the axes where it covers no other.

    Args:
        axes: whose limits do not change any more.
        labels: name, colour, x and y of each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.figure.draw_without_rendering()  # limits and sizes are settled by this
    inside, texts = axes.get_window_extent(renderer), []
    for name, colour, *point in labels:
        taken = [text.get_window_extent(renderer) for text in texts]
        for x, y, side in PLACES:
            text = axes.annotate(name, point, xytext=(x, y), textcoords="offset points", ha=side, color=colour)
            extent = text.get_window_extent(renderer)
            is_inside = inside.x0 <= extent.x0 and extent.x1 <= inside.x1
            if is_inside and not any(extent.overlaps(box) for box in taken):
                break
            if (x, y, side) != PLACES[-1]:
                text.remove()
        texts.append(text)
    return texts


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"results: cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"results: {path} is not JSON; give metrics.json of {command_of('evaluate')}") from error
    if not isinstance(result, dict) or not {"metrics", "methods", "protocol", "intervals_95"} <= result.keys():
        raise UserError(f"results: {path} is no metrics.json of {command_of('evaluate')}")
    return result


def draw_quality_time(points: list[dict[str, Any]], about: dict[str, str], quality: str, folder: Path) -> list[str]:
    """Write quality_time.csv, .svg and .png; their names."""
    save_table(folder / "quality_time.csv", COLUMNS, points)
    figure, axes = new_figure(7.0, 4.8)
    names = [point["method"] for point in points]
    labels: list[tuple[str, str, float, float]] = []
    for point in points:
        label = point["method"]
        if names.count(label) > 1:  # of several evaluations: the folder distinguishes them
            label += f" ({Path(point['file']).parent.name})"
        seconds = point["time_ms"] / 1000
        ends = None
        if point["low_95"] is not None:
            ends = [[point["quality"] - point["low_95"]], [point["high_95"] - point["quality"]]]
        drawn = axes.errorbar(seconds, point["quality"], yerr=ends, marker="o", capsize=3, linestyle="none")
        labels.append((label, drawn[0].get_color(), seconds, point["quality"]))
    arrow = {"lower": "↓", "higher": "↑"}.get(about.get("better", ""), "")
    unit = f", {about['unit']}" if about.get("unit") else ""
    axes.set(xscale="log", xlabel="seconds per image ↓", ylabel=f"{quality}{unit} {arrow}")
    _place_ticks(axes, [point["time_ms"] / 1000 for point in points])
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    place_labels(axes, labels)
    return ["quality_time.csv", *(path.name for path in save_figure(figure, folder / "quality_time"))]
