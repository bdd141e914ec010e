"""Drawings by matplotlib: letters that can be read, the same bytes for the same numbers; and these as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperinverter.utils.files import write_atomically, write_text

LETTERS = {"font.size": 12, "axes.titlesize": 13, "svg.fonttype": "none"}  # points; text stays text in an SVG
PNG_DPI = 150


def new_figure(width: float, height: float, **subplots: Any) -> tuple[Any, Any]:
    """A figure and its axes, without pyplot: no window, no global state. `width`, `height`: inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LETTERS):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(**subplots)


def svg_of(figure: Any, salt: str) -> str:
    """One <svg> element; `salt` makes its inner names, which must not depend on chance."""
    import matplotlib

    with matplotlib.rc_context({**LETTERS, "svg.hashsalt": salt}), io.StringIO() as buffer:
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def save_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV of these columns."""
    with write_atomically(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write `<stem>.svg` and `<stem>.png`; both paths."""
    import matplotlib

    paths = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png")]
    write_text(paths[0], svg_of(figure, stem.name) + "\n")
    encoded = io.BytesIO()
    with matplotlib.rc_context(LETTERS):
        figure.savefig(encoded, format="png", dpi=PNG_DPI, metadata={"Software": None})
    with write_atomically(paths[1]) as temporary:
        temporary.write_bytes(encoded.getbuffer())
    return paths
