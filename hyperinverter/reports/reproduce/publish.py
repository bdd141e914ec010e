"""The published folder: `<domain>/<part>.json` with its pictures, and beside the folder the page made of them all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperinverter.reports.reproduce.page import TITLES, page
from hyperinverter.utils.files import copy_file, write_json, write_text
from hyperinverter.utils.images import for_page, write_picture
from hyperinverter.utils.output_names import file_name


def publish(folder: Path, domain: str, part: str, result: dict[str, Any], pictures: Sequence[Path] = ()) -> None:
    """Write one part of one domain, in the place of an earlier measurement of it."""
    place = folder / file_name(domain)
    write_json(place / f"{part}.json", result)
    for picture in pictures:
        _put(picture, place / picture.name)


def _put(picture: Path, place: Path) -> None:
    """Copy a picture; a sheet of large images becomes a JPEG of a size that a page can show."""
    reduced = place.with_suffix(".jpg")
    small = for_page(picture)
    if small is None:
        copy_file(picture, place)
        other = reduced
    else:
        write_picture(small, reduced, format="JPEG", quality=90)
        other = place
    if picture.suffix == ".png":
        other.unlink(missing_ok=True)  # of an earlier measurement; a page shows one of them


def read_published(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Domain -> part -> what its JSON holds; the domains with most parts first."""
    domains = {}
    for path in sorted(folder.glob("*/")):
        parts = {part: path / f"{part}.json" for part in TITLES}
        domains[path.name] = {part: json.loads(file.read_text()) for part, file in parts.items() if file.is_file()}
    return dict(sorted(((name, result) for name, result in domains.items() if result), key=lambda one: -len(one[1])))


def write_page(folder: Path) -> Path:
    """Make the page `<folder>.md` anew; its path."""
    path = folder.with_suffix(".md")
    write_text(path, page(read_published(folder), folder))
    return path
