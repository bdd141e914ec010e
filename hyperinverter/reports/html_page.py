"""A report as one HTML file: text, tables, curves and pictures inside it, nothing fetched, readable on a phone."""

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hyperinverter.evaluation.drawing import new_figure, svg_of
from hyperinverter.evaluation.tables import table
from hyperinverter.utils.files import write_text
from hyperinverter.utils.images import file_bytes, for_page

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}

PAGE = Path(__file__).with_suffix(".html")  # lets the browser itself refuse any request: all is in the page


def filled(page: Path, **texts: str) -> str:
    """The HTML of a file with each text, which is taken as it is, in the place of its @NAME@."""
    return re.sub(f"@({'|'.join(texts)})@", lambda found: texts[found[1]], page.read_text(encoding="utf-8"))


def address_of(content: bytes, kind: str) -> str:
    """An address that holds a file itself; `kind`: its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Report:
    """Collects blocks from top to bottom; `write` makes the file. Text given to it is text: it is escaped here."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._blocks: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def section(self, heading: str) -> None:
        self._blocks.append(f"<h2>{html.escape(heading)}</h2>")

    def text(self, paragraph: str) -> None:
        self._blocks.append(f"<p>{html.escape(paragraph)}</p>")

    def note(self, lines: Sequence[str]) -> None:
        """Smaller lines, such as what was not measured and why; no lines, no block."""
        if lines:
            self._blocks.append('<p class="note">' + "<br>".join(html.escape(line) for line in lines) + "</p>")

    def command(self, line: str) -> None:
        """The command that makes what the section shows."""
        self._blocks.append(f"<pre>{html.escape(line)}</pre>")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Cells are text, numbers (to the right) or (number, is_best) pairs."""
        head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
        self._blocks.append(f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>')

    def picture(self, path: str | Path, caption: str) -> None:
        """Put a PNG, JPEG, GIF or WebP file into the page, a large PNG as a JPEG of a size that a page can show.

        Raises ValueError: another kind of file. FileNotFoundError: no such file.
        """
        path = Path(path)
        kind = MEDIA_TYPES.get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"{path}: a page shows {', '.join(MEDIA_TYPES)} files only")
        content = path.read_bytes()
        if (small := for_page(path)) is not None:
            kind, content = MEDIA_TYPES[".jpg"], file_bytes(small, format="JPEG", quality=90)
        alt = html.escape(caption, quote=True)
        self._figure(f'<img alt="{alt}" src="{address_of(content, kind)}">', caption)

    def drawing(self, svg: str, caption: str) -> None:
        """An <svg> element as `curves` makes it."""
        self._figure(svg, caption)

    def _figure(self, content: str, caption: str) -> None:
        self._blocks.append(f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def write(self, path: str | Path) -> Path:
        path = Path(path)
        write_text(path, filled(PAGE, TITLE=html.escape(self.title), BODY="\n".join(self._blocks)))
        return path


def _cell(value: Any) -> str:
    value, best = value if isinstance(value, tuple) else (value, False)
    if isinstance(value, int | float):
        return f'<td class="number{" best" if best else ""}">{value:.4g}</td>'
    return f"<td>{html.escape('not measured' if value is None else str(value))}</td>"


def metrics_rows(metrics: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows of a metrics.json: one row per metric, one column per method.

    `metrics`: as `evaluation.reconstruction.evaluate` returns it.
    """
    methods = metrics["methods"]
    rows = []
    for name, about in metrics["metrics"].items():
        values = [result.get(name) for result in methods.values()]
        measured = [value for value in values if value is not None]
        best = (min if about["better"] == "lower" else max)(measured, default=None)
        cells = [(value, len(measured) > 1 and value == best) for value in values]
        label = f"{name} ({about['unit']})" if about["unit"] else name
        rows.append([label, about["better"], *cells])
    return ["metric", "better", *methods], rows


def read_stats(path: str | Path) -> list[dict[str, float]]:
    """The lines of a run's stats.jsonl."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def curves(
    stats: Sequence[dict[str, float]], names: dict[str, str], ylabel: str, xlabel: str = "optimiser step"
) -> str:
    """Scalars over optimiser steps as one <svg> element.

    Args:
        stats: as `read_stats` gives them.
        names: key in the statistics -> label; keys that never occur are left out. Validation keys get markers.
        ylabel: what the vertical axis (logarithmic) is, with its unit.
    """
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    figure, axes = new_figure(5.4, 3.8)  # small, so that a phone can read the letters
    for key, label in names.items():
        points = [(line["step"], line[key]) for line in stats if line.get(key) is not None]
        if points:
            marker = {"marker": "o", "linestyle": "--"} if key.startswith("validation/") else {}
            axes.plot(*zip(*points, strict=True), label=label, **marker)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
    axes.yaxis.set_minor_formatter(FormatStrFormatter("%.2g") if _spans_less_than_a_decade(axes) else NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    return svg_of(figure, ylabel)


def _spans_less_than_a_decade(axes: Any) -> bool:
    low, high = axes.get_ylim()
    return high < 10 * low


@dataclass(frozen=True)
class Table:
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Picture:
    """A file beside the report, `name`, and what is to be seen; Markdown says it above, too, where it `is_told`."""

    name: str
    caption: str
    is_told: bool = True


Block = str | Table | Picture  # parts of a report that become Markdown and HTML alike


def picture_in(folder: Path, name: str) -> str | None:
    """Under which name a picture lies in a published folder, where large sheets are JPEG; None: it is not there."""
    names = (name, Path(name).with_suffix(".jpg").name)
    return next((one for one in names if (folder / one).is_file()), None)


def to_markdown(blocks: Iterable[Block], folder: Path, link: str) -> Iterable[str]:
    """Paragraphs; pictures that do not lie in `folder` are left out, the others are linked as `link`/name."""
    for block in blocks:
        if isinstance(block, Table):
            yield table(block.heads, block.rows)
        elif isinstance(block, Picture):
            if name := picture_in(folder, block.name):
                shown = f"![{block.caption.partition(':')[0]}]({PurePosixPath(link, name)})"
                yield f"{block.caption}:\n\n{shown}" if block.is_told else shown
        else:
            yield block


def add_to(report: Report, blocks: Iterable[Block], folder: Path) -> None:
    """The same into an HTML page, where pictures are in the page."""
    for block in blocks:
        if isinstance(block, Table):
            report.table(block.heads, block.rows)
        elif isinstance(block, Picture):
            path = folder / block.name
            if path.is_file() and path.suffix == ".svg":
                report.drawing(path.read_text(encoding="utf-8"), block.caption)
            elif path.is_file() and path.suffix in MEDIA_TYPES:
                report.picture(path, block.caption)
        else:
            report.text(block)
