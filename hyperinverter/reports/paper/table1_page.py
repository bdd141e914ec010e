"""Table 1 as the page says it: the rows beside the paper's, what the seconds are of, and how encoders were trained."""

from collections.abc import Iterator
from typing import Any

from hyperinverter.evaluation.tables import ARROWS, against, bracketed, grouped, listed
from hyperinverter.metrics.timing import ONE_THREAD, own_time
from hyperinverter.reports.html_page import Block, Picture, Table
from hyperinverter.reports.paper.values import METRICS, TABLE_1

OWN_CORE = 0.9  # a process that computes for less of its time shares its core
OF_A_SET = ("fid", "kid_x1e3", "frechet_squeezenet")  # grow as images get fewer: only equal counts compare
HIGHER = ("identity", "psnr", "ms_ssim")  # is better, of the paper's columns that were not asked for
PHASES = {"w_encoder": "Phase I", "hyperinverter": "Phase II", "feature_residual": "Phase III"}  # by part
PAPER_ONLY = {"faces": "Human Faces", "scenes": "Churches"}  # what the paper's columns are of, by kind


def table1_blocks(result: dict[str, Any]) -> Iterator[Block]:
    rows, kind = result["rows"], result["kind"]
    most = max((row["n"] for row in rows.values() if "n" in row), default=0)
    columns = sorted(dict.fromkeys((*result["metrics"], *METRICS)), key=lambda name: name == "seconds")  # these last
    columns = [c for c in columns if any(_has(row["cells"].get(c)) for row in rows.values())]
    note = f" The paper's numbers in italics are those of its {PAPER_ONLY[kind]} column" if kind in TABLE_1 else ""
    yield (
        "Table 1 of the paper: reconstruction of held-out photos. Brackets: 95 % bootstrap intervals over n photos. "
        "Seconds are the median of an image, inverted and drawn alone. FID and its like are left out where n is "
        f"smaller than elsewhere, as they grow then.{note}{', at another size on another machine.' if note else ''}"
    )
    units = {name: f", {about['unit']}" if about["unit"] else "" for name, about in result["metrics"].items()}
    arrows = {name: " " + ARROWS[about["better"]] for name, about in result["metrics"].items()}
    heads = [
        "method",
        "n",
        *(f"{name}{units.get(name, '')}{arrows.get(name, ' ↑' if name in HIGHER else ' ↓')}" for name in columns),
    ]
    yield Table(heads, [_line(row, columns, most) for row in rows.values()])
    devices = {row["device"] for row in rows.values() if "device" in row}
    widest: dict[str, Any] = next((row for row in rows.values() if row.get("n") == most), {})
    notes = [f"The {most} photos: {'; '.join(widest['notes'])}."] if widest.get("notes") else []
    yield " ".join([*notes, f"Seconds on {', '.join(sorted(devices))}.", *_shared_cores(rows)])
    yield from filter(None, [_settings(rows), *_trained(rows)])
    if missing := {row["title"]: row["missing"] for row in rows.values() if "missing" in row}:
        yield listed("Rows that could not be measured", missing)
    if result["not_measured"]:
        yield listed("Columns that could not be measured", result["not_measured"])
    if paired := result["paired"]:
        yield from _paired_blocks(result, paired)
    yield Picture("table1.png", "Reconstructions by every method, of held-out photos chosen by rule")


def _paired_blocks(result: dict[str, Any], paired: dict[str, Any]) -> Iterator[Block]:
    ours = result["rows"][next(iter(paired.values()))["of"]]["title"]
    yield f"{ours[0].upper()}{ours[1:]} against each other method, on the photos of that one (ratios below 1: less):"
    shown = [m for m in ("l2", "lpips", "squeezenet_features", "psnr", "mobilefacenet", "identity", "fr_feature")
             if any(m in one["metrics"] for one in paired.values())]  # fmt: skip
    lines = [
        [
            result["rows"][name]["title"],
            one["n"],
            *(against(one["metrics"][metric]) if metric in one["metrics"] else "—" for metric in shown),
        ]
        for name, one in paired.items()
    ]
    yield Table(["against", "n", *shown], lines)


def _has(cell: dict[str, Any] | None) -> bool:
    return cell is not None and (cell["value"] is not None or cell.get("paper") is not None)


def _line(row: dict[str, Any], columns: list[str], most: int) -> list[Any]:
    cells = [row["title"], row.get("n", "")]
    for name in columns:
        cell = row["cells"].get(name, {"value": None})
        is_few = name in OF_A_SET and row.get("n", most) < most
        is_known = not is_few and cell["value"] is not None
        text = bracketed(cell["value"], cell.get("interval_95"), ".4g") if is_known else ""
        if cell.get("paper") is not None:
            text += f"{' ' if text else ''}*{cell['paper']:g}*"
        cells.append(text or "—")
    return cells


def _settings(rows: dict[str, Any]) -> str:
    """Steps and networks of methods that optimise."""
    told = {row["title"]: row["settings"] for row in rows.values() if row.get("settings")}
    lines = [
        f"{title}: {', '.join(f'{k} {v}' for k, v in one.items() if v is not None)}" for title, one in told.items()
    ]
    if not lines:
        return ""
    minimised = grouped({title: str(one.get("perceptual")) for title, one in told.items()})
    columns = next(row["cells"] for row in rows.values() if row.get("settings"))
    own = [
        f"{', '.join(titles)} look for codes that minimise {name} itself."
        for name, titles in minimised.items()
        if name in columns
    ]
    return " ".join(["Settings: " + "; ".join(lines) + ".", *own])


def _shared_cores(rows: dict[str, Any]) -> Iterator[str]:
    """Of one thread on a CPU: whose seconds are more than they would be on a core of its own."""
    shared, unknown = [], []
    for row in rows.values():
        seconds = row["cells"].get("seconds", {})
        if row.get("device") != ONE_THREAD or seconds.get("value") is None:
            continue
        share = seconds.get("computing")
        if share is None:
            unknown.append(row["title"])
        elif share < OWN_CORE:
            own = own_time(seconds["value"], share, ONE_THREAD)
            shared.append(f"{row['title']} {own:.3g} s ({share:.0%})")
    if shared:
        yield f"Other programs had the core too. Of the seconds these were the method's own: {'; '.join(shared)}."
    if unknown:
        yield f"Whether other programs had the core while {', '.join(unknown)} were measured was not noted."


def _trained(rows: dict[str, Any]) -> Iterator[str]:
    """How encoders were trained, as their files say; a trunk is told where it is not E1's."""
    parts: dict[str, tuple[str, dict[str, Any]]] = {}  # each once, with the first row that has it alone
    for row in sorted(rows.values(), key=lambda row: len(row.get("trained", {}))):
        for part, training in row.get("trained", {}).items():
            if training:
                title = row["title"] if len(row["trained"]) == 1 else PHASES.get(part, row["title"])
                parts.setdefault(part, (title, training))
    own = parts.get("w_encoder", ("", {}))[1].get("trunk")
    lines = []
    for part, (title, training) in parts.items():
        words = [f"{training['steps']:,} steps", f"{training['images']:,} images", training.get("precision")]
        if own is not None and part not in PHASES:
            words.append(_trunk(training["trunk"], own))
        lines.append(f"{title} {', '.join(filter(None, words))}")
    if lines:
        yield f"The last training run of each part, as its file says (cards have earlier ones): {'; '.join(lines)}."


def _trunk(trunk: dict[str, Any], own: dict[str, Any]) -> str:
    """An encoder's trunk beside Phase I's, which may see another size of image."""
    if {**trunk, "input_size": None} != {**own, "input_size": None}:
        return "another trunk than Phase I's"
    at = "" if trunk["input_size"] == own["input_size"] else f" at {trunk['input_size']} px"
    return f"Phase I's trunk{at}"
