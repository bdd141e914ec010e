"""The published folder: `<domain>/<part>.json` with pictures, a page of each domain, and beside it the overview."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperinverter.reports.html_page import to_markdown
from hyperinverter.reports.paper.claims import claims_section
from hyperinverter.reports.reproduce.page import overview_blocks
from hyperinverter.reports.reproduce.parts import PARTS
from hyperinverter.utils.files import copy_file, write_json, write_text
from hyperinverter.utils.images import for_page, write_picture
from hyperinverter.utils.output_names import file_name

ABOUT = "about.md"  # in the published folder, written by hand
INTERVALS = (
    "Above each table stands the command that measured it. Phase I is `w_encoder`, both phases together are "
    "`hyperinverter`. Brackets are 95 % intervals over images; of ratios and differences, from the same images drawn "
    "together."
)


def pages(domains: dict[str, dict[str, dict[str, Any]]], folder: Path) -> dict[Path, str]:
    """Path -> text of the overview `<folder>.md` and of a page `<folder>/<domain>.md` with every table of a domain.

    Args:
        domains: domain -> part -> what its JSON holds.
        folder: that holds `<domain>/<part>.json` and the pictures; its `about.md` is on the overview, of
            which what stands before the first `##` is the head and the rest the end.
    """
    about = folder / ABOUT
    lead, *further = re.split("\n(?=## )", about.read_text() if about.is_file() else "# Results")
    sections, result = [lead, claims_section(domains)], {}
    for domain, results in domains.items():
        parts = [part for part in PARTS if part in results]
        measured = [section(part, results[part], folder / domain, domain) for part in parts]
        head = f"# Results of {domain}\n\n{INTERVALS}"
        result[folder / f"{domain}.md"] = "\n\n".join([head, *measured]) + "\n"
        sections += [f"## {domain}", *to_markdown(overview_blocks(results), folder / domain, f"{folder.name}/{domain}")]
        titles = "; ".join(PARTS[part].title for part in parts)
        sections.append(f"[{folder.name}/{domain}.md]({folder.name}/{domain}.md) has, with intervals: {titles}.")
    overview = "\n\n".join(section.strip("\n") for section in (*sections, *further) if section) + "\n"
    return {folder.with_suffix(".md"): overview, **result}


def section(part: str, result: dict[str, Any], folder: Path, link: str = "") -> str:
    """One part's section; pictures that lie in `folder`, `link` from where the page is, are shown."""
    about = f"`{result['about']['command']}`"
    if part != "learning_curve":  # of runs, not of the weights that are shipped
        model = ", ".join(f"{part} {digest}" for part, digest in result["about"]["model"].items())
        about += f"\n\nWeights: {model}. PyTorch {result['about']['versions']['torch']}."
    blocks = [f"## {PARTS[part].title}", about, *to_markdown(PARTS[part].blocks(result), folder, link)]
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


def write_pages(folder: Path) -> Path:
    """Make the overview `<folder>.md` and the pages of the domains anew; the overview's path."""
    for path, text in pages(read_published(folder), folder).items():
        write_text(path, text)
    return folder.with_suffix(".md")
