"""The published folder: `<domain>/<part>.json` with its pictures, and beside the folder the page made of them all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperinverter.reports.html_page import to_markdown
from hyperinverter.reports.paper.claims import claims_section
from hyperinverter.reports.reproduce.parts import PARTS
from hyperinverter.utils.files import copy_file, write_json, write_text
from hyperinverter.utils.images import for_page, write_picture
from hyperinverter.utils.output_names import file_name

ABOUT = "about.md"  # in the published folder, written by hand


def page(domains: dict[str, dict[str, dict[str, Any]]], folder: Path) -> str:
    """The page.

    Args:
        domains: domain -> part -> what its JSON holds.
        folder: that holds `<domain>/<part>.json`; pictures beside them are shown, and `about.md` is the page's head,
            behind whose title stands what holds of the paper's claims.
    """
    about = folder / ABOUT
    title, _, rest = (about.read_text() if about.is_file() else "# Results").partition("\n")
    sections = [title, claims_section(domains), rest]
    for domain, results in domains.items():
        sections.append(f"## {domain}")
        sections += [section(part, results[part], folder / domain) for part in PARTS if part in results]
    return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"


def section(part: str, result: dict[str, Any], folder: Path) -> str:
    """One part's section; pictures that lie in a domain's `folder` are shown."""
    about = f"`{result['about']['command']}`"
    if part != "learning_curve":  # of runs, not of the weights that are shipped
        model = ", ".join(f"{part} {digest}" for part, digest in result["about"]["model"].items())
        about += f"\n\nWeights: {model}. PyTorch {result['about']['versions']['torch']}."
    text = to_markdown(PARTS[part].blocks(result), folder, f"{folder.parent.name}/{folder.name}")
    blocks = [f"### {PARTS[part].title}", about, *text]
    return "\n\n".join(block.strip("\n") for block in blocks if block)


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
        parts = {part: path / f"{part}.json" for part in PARTS}
        domains[path.name] = {part: json.loads(file.read_text()) for part, file in parts.items() if file.is_file()}
    return dict(sorted(((name, result) for name, result in domains.items() if result), key=lambda one: -len(one[1])))


def write_page(folder: Path) -> Path:
    """Make the page `<folder>.md` anew; its path."""
    path = folder.with_suffix(".md")
    write_text(path, page(read_published(folder), folder))
    return path
