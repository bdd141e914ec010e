"""Quality against seconds against edits kept, over the steps of a refinement, beside PTI's published row.

Beyond the paper. Every point is a row as Table 1's and edits as Table 2's, of the same photos, and kept as these are:
the same command goes on where it ended. Letters: N photos.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperinverter.config.schema import RefineConfig
from hyperinverter.evaluation.drawing import new_figure, save_figure
from hyperinverter.evaluation.editability import choose_photos, spans_of
from hyperinverter.evaluation.tables import ARROWS, bracketed, columns, listed
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics.base import bootstrap_ratio
from hyperinverter.metrics.timing import ONE_THREAD, own_time
from hyperinverter.reports.html_page import Block, Picture, Table
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.grids import lacks_both
from hyperinverter.reports.paper.methods import OURS, PHASE_1
from hyperinverter.reports.paper.table1 import measurable_of, row_of
from hyperinverter.reports.paper.table2 import changes_of, edits_of
from hyperinverter.reports.reproduce.edits import Judges, find_judges
from hyperinverter.utils.checkout import REPOSITORY
from hyperinverter.utils.files import read_json
from hyperinverter.utils.waiting import log_message

METRICS = ("l2", "lpips", "squeezenet_features", "mobilefacenet", "dlib_identity")
OTHER = "pti"


def refine_curve(bench: Bench) -> dict[str, Any]:
    """Measure every N of `refine_steps` on `curve_photos` photos, and draw refine_curve.svg.

    Returns:
        `rows`: of Phase I and each refinement `title`, `steps`, `edit_consistency`, `seconds`, `computing` (the share
        of them in which this process had the processor), `cells` (metric -> value and interval), `kept` (direction ->
        judge -> share of Phase I's effect, and interval); `pti`: what the published table 1 says of it, and its
        `ratios` to both phases on its photos.
    Raises:
        NotMeasured: Phase I or both phases are not among the methods, or not here.
    """
    if lacking := lacks_both(bench):
        raise NotMeasured(lacking[0])
    first, ours = (bench.methods[name] for name in (PHASE_1, OURS))
    indices = choose_photos(bench.people, bench.config.curve_photos)
    measurable, not_measured = measurable_of(bench, list(METRICS))
    judges: Judges | None = None
    try:
        judges = find_judges(bench, bench.load(ours))
        not_measured |= judges.missing
    except NotMeasured as reason:
        not_measured["edits"] = str(reason)
    rows, plain = [], None
    methods = [replace(first, refine=RefineConfig()), *bench.refined(ours)]
    for number, method in enumerate(methods, 1):
        log_message(f"refine_curve, {number} of {len(methods)}, {method.title}: {len(indices)} photos")
        found = row_of(bench, method, indices, list(METRICS), measurable)
        edits = edits_of(bench, method, indices, judges, []) if judges else []
        plain = edits if plain is None else plain  # Phase I's
        assert method.refine is not None
        rows.append({
            "label": method.label,
            "title": method.title,
            "steps": method.refine.steps if method.name == OURS else None,
            "edit_consistency": method.refine.edit_consistency,
            "seconds": found["cells"]["seconds"]["value"],
            "computing": found["cells"]["seconds"].get("computing") if bench.device.type == "cpu" else None,
            "cells": {name: found["cells"][name] for name in METRICS if name in measurable},
            "kept": _kept(judges, plain, edits) if judges and method.name == OURS else {},
            "device": found["device"],
        })  # fmt: skip
        about = found["metrics"]
    result = {
        "domain": bench.domain_name,
        "n": len(indices),
        "metrics": {name: about[name] for name in METRICS if name in measurable},
        "rows": rows,
        "pti": _published(bench),
        "not_measured": not_measured,
    }
    _draw(result, bench.output)
    return result


def _kept(judges: Judges, plain: list[Any], edits: list[Any]) -> dict[str, Any]:
    """Direction -> judge -> effect of these edits over Phase I's, where that is one."""
    result: dict[str, dict[str, Any]] = {}
    for case in judges.cases:
        for judge in case.classifiers:
            one, two = (
                spans_of(changes_of(lines, case.direction.name, judge)).mean(axis=1) for lines in (plain, edits)
            )
            if one.mean() > 0:
                share = {"value": float(two.mean() / one.mean()), "interval_95": list(bootstrap_ratio(one, two))}
                result.setdefault(case.direction.name, {})[judge] = share
    return result


def _published(bench: Bench) -> dict[str, Any] | None:
    """PTI's row of the published table 1, measured on fewer photos."""
    folder = Path(bench.config.publish) if bench.config.publish else REPOSITORY / "docs" / "results"
    table = read_json(folder / bench.domain_name / "table1.json") or {}
    try:
        row = table["rows"][OTHER]
        paired = table["paired"][OTHER]["metrics"]  # both phases against PTI
    except KeyError:
        return None
    cells = {name: row["cells"][name] for name in METRICS if (row["cells"].get(name) or {}).get("value") is not None}
    ratios = {name: 1 / one["ratio"] for name, one in paired.items() if name in METRICS and "ratio" in one}
    seconds = row["cells"]["seconds"]
    time = {"seconds": seconds["value"], "computing": seconds.get("computing"), "device": row["device"]}
    return {"n": row["n"], **time, "cells": cells, "ratios": ratios}


def _draw(result: dict[str, Any], folder: Path) -> None:
    """refine_curve.svg and .png: quality, identity and edits kept against seconds, a line per weight of consistency."""
    figure, axes = new_figure(13.0, 5.4, ncols=3)
    rows = [row for row in result["rows"] if row["steps"] is not None]
    start = next((row for row in rows if row["steps"] == 0), rows[0])
    for number, weight in enumerate(sorted({row["edit_consistency"] for row in rows})):
        line = [row for row in rows if row["edit_consistency"] == weight or row["steps"] == 0]
        style = {"marker": "o", "linestyle": ("-", "--", ":")[number % 3], "markersize": 4}
        suffix = f", edits {weight:g}" if weight else ""
        for panel, series in enumerate(_series(result["metrics"], line, start)):
            for place, (name, values) in enumerate(series.items()):
                label = f"{name}{suffix}"
                axes[panel].plot([_own(row) for row in line], values, label=label, color=f"C{place}", **style)
            if series and not number:
                for row, value in zip(line, next(iter(series.values())), strict=True):
                    beside = {"xytext": (0, 6), "textcoords": "offset points", "fontsize": 9}
                    axes[panel].annotate(str(row["steps"]), (_own(row), value), **beside)
    if other := result["pti"]:
        for place, name in enumerate(name for name in _lower(result["metrics"]) if name in other["ratios"]):
            at, title = (_own(other), other["ratios"][name]), f"PTI, {name}"
            axes[0].plot(*at, label=title, color=f"C{place}", marker="*", markersize=11, linestyle="none")
    titles = (f"distance over that of N = {start['steps']} ↓", "identity, cosine ↑", "edits kept, share of Phase I's ↑")
    for one, title in zip(axes, titles, strict=True):
        one.set(xscale="log", xlabel="seconds per image on a core of its own ↓", title=title)
        one.grid(alpha=0.3)
        if one.lines:
            one.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # below: lines fill it
    save_figure(figure, folder / "refine_curve")


def _own(row: dict[str, Any]) -> float:
    """Seconds of an image on a core of its own, of Table 1's row of PTI too; earlier versions noted less of that."""
    return own_time(row["seconds"], row.get("computing"), row.get("device", ""))


def _lower(metrics: dict[str, Any]) -> list[str]:
    return [name for name, about in metrics.items() if about["better"] == "lower"]


def _series(metrics: dict[str, Any], rows: list[dict[str, Any]], start: dict[str, Any]) -> list[dict[str, list[float]]]:
    """Of each panel name -> one value per row."""
    values = {name: [row["cells"][name]["value"] for row in rows] for name in metrics}
    lower = {name: [value / start["cells"][name]["value"] for value in values[name]] for name in _lower(metrics)}
    edits = {
        f"{direction}, {judge}": [row["kept"][direction][judge]["value"] for row in rows]
        for direction, judges in start["kept"].items()
        for judge in judges
    }
    return [lower, {name: values[name] for name in values if name not in lower}, edits]


def refine_curve_blocks(result: dict[str, Any]) -> Iterator[Block]:
    metrics = result["metrics"]
    devices = ", ".join(sorted({row["device"] for row in result["rows"]}))
    yield (
        "Beyond the paper: N steps on the tokens after the prediction (`refine.steps`), of the same "
        f"{result['n']} held-out photos, of different people where the labels tell them. Brackets: 95 % bootstrap "
        "intervals over photos."
    )
    yield (
        f"Seconds are the median of an image, inverted and drawn alone, on {devices}; behind them, of one thread, "
        "those on a core of its own. Kept: how far edits move a judge's score, as a share of how far Phase I's do, at "
        "equal strengths. `edits`: weight of edit consistency inside the steps (`refine.edit_consistency`)."
    )
    yield (
        "The steps minimise l2, lpips (squeezenet_features where its network is absent) and mobilefacenet. "
        "dlib_identity and the judges are in no loss."
    )
    shown = [(row["title"], row) for row in result["rows"]]
    if other := result["pti"]:
        shown.append((f"PTI, of Table 1, n = {other['n']}", other))
    rows = []
    for title, row in shown:
        is_known = row.get("computing") and row.get("device") == ONE_THREAD
        times = {"seconds ↓": f"{row['seconds']:.3g}", "on a core of its own ↓": f"{_own(row):.3g}" if is_known else ""}
        cells = {f"{name} {ARROWS[one['better']]}": _cell(row["cells"].get(name)) for name, one in metrics.items()}
        shares = {
            f"kept: {direction} ({judge}) ↑": bracketed(share["value"], share["interval_95"], ".0%")
            for direction, judges in row.get("kept", {}).items()
            for judge, share in judges.items()
        }
        rows.append({"method": title} | times | cells | shares)
    yield Table(*columns(rows))
    stars = "PTI's stars stand where its ratio to both phases on its own photos puts them"
    yield Picture("refine_curve.svg", f"Quality and edits against seconds, N at the points; {stars}")
    if absent := result["not_measured"]:
        yield listed("Not measured", absent)


def _cell(one: dict[str, Any] | None) -> str:
    if one is None or one["value"] is None:
        return ""
    return bracketed(one["value"], one.get("interval_95"), ".4g", ".3g")
