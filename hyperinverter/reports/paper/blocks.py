"""A part of the report as blocks - text, tables, pictures - which become Markdown and one HTML file alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperinverter.evaluation.tables import table
from hyperinverter.reports.html_page import MEDIA_TYPES, Report


@dataclass(frozen=True)
class Table:
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Picture:
    """A file beside the report, `name`, and what is to be seen."""

    name: str
    caption: str


Block = str | Table | Picture


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
                yield f"{block.caption}:\n\n![{block.caption.partition(':')[0]}]({link}/{name})"
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
