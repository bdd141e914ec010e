"""The catalog of released weights: what each file is, where it is published, under which terms, where it is kept.

The facts stand in catalog.yaml beside this file; this module reads them and says which files are there.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hyperinverter.config.faults import unknown_name
from hyperinverter.config.yaml_text import read_yaml
from hyperinverter.pretrained.files import available_models, find_network_file, search_folders
from hyperinverter.utils.checkout import download_root
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import printable

CATALOG = Path(__file__).with_name("catalog.yaml")
FOLDERS = ("published", "nets")  # below a folder of pretrained models
VECTORS = ("direction", "pca")  # kinds of files that hold no network: what edits move along


@dataclass(frozen=True)
class CatalogEntry:
    """One released file; the head of catalog.yaml says what each field means."""

    name: str
    what: str
    file: str
    project: str
    page: str
    copies: tuple[str, ...]
    kind: str | None = None
    domain: str | None = None
    folder: str = FOLDERS[0]
    licence: str | None = None
    size: int | None = None
    sha256: str | None = None
    about_mb: int | None = None
    needs: tuple[str, ...] = ()
    images: str | None = None
    members: tuple[str, ...] = ()
    makes: str | None = None

    @property
    def source(self) -> str:
        """Who publishes it, on which page."""
        return f"{self.project} ({self.page})"

    @property
    def licence_text(self) -> str:
        return self.licence or "unknown"

    @property
    def relative(self) -> Path:
        """Where it is kept, below a folder of pretrained models."""
        return Path(self.folder) / self.file

    @property
    def made(self) -> Path | None:
        """What it makes, below a folder of pretrained models; None where it is used as it is."""
        return Path(FOLDERS[1]) / self.makes if self.makes else None

    def find_made(self, root: Path | None = None) -> Path | None:
        """The file that it makes, below `root` or in the search folders; None when absent or where it makes none."""
        if self.made is None:
            return None
        path = find_network_file(self.made.name) if root is None else root / self.made
        return path if path and path.is_file() else None

    def find(self, root: Path | None = None) -> Path | None:
        """The file in its folder below `root`, or below the search folders or directly in them; None when absent."""
        places = [place for folder in search_folders() for place in (folder / self.relative, folder / self.file)]
        return next((place for place in (places if root is None else [root / self.relative]) if place.is_file()), None)


@dataclass(frozen=True)
class ReleasedModel:
    """A model folder that can be made from released files.

    `generator`, `w_encoder`, `hyperinverter`: the entries that its parts are made from; the discriminator comes with
    the generator, and E1 with the HyperInverter file where its own is absent. None: the repository carries these parts,
    and only the generator is released by others.
    """

    name: str
    domain: str
    generator: str
    w_encoder: str | None = None
    hyperinverter: str | None = None

    def entries(self) -> list[CatalogEntry]:
        """The fewest files that it can be made from."""
        return [entry(name) for name in (self.generator, self.hyperinverter) if name]

    @property
    def is_generator_only(self) -> bool:
        return self.hyperinverter is None

    def vectors(self) -> list[CatalogEntry]:
        """Directions and PCAs of its generator's W; it works without them."""
        return [each for each in catalog().values() if each.kind in VECTORS and self.generator in each.needs]


@cache
def _content() -> dict[str, Any]:
    content = read_yaml(CATALOG, CATALOG.name)
    if content.faults:
        raise ValueError(str(content.faults[0]))
    return content.values


@cache
def catalog() -> dict[str, CatalogEntry]:
    """Name -> entry, in the order of the file."""
    content, result = _content(), {}
    for name, fields in content["entries"].items():
        project = content["projects"][fields["project"]]
        values = {"licence": project["licence"], "page": project["page"], **fields}
        values["images"] = content["images"][values["images"]] if values.get("images") else None
        for key in ("copies", "needs", "members"):
            values[key] = tuple(values.get(key, ()))
        result[name] = CatalogEntry(name=name, **values)
    return result


@cache
def released_models() -> dict[str, ReleasedModel]:
    """Name -> model folder that released files make."""
    return {name: ReleasedModel(name, **parts) for name, parts in _content()["models"].items()}


def entry(name: str) -> CatalogEntry:
    """One entry by its name. Raises UserError: there is none; names the closest."""
    if name not in catalog():
        raise UserError(unknown_name("released file or model", name, [*catalog(), *released_models()]))
    return catalog()[name]


def entries_of(names: Iterable[str]) -> list[CatalogEntry]:
    """The entries of a mixed list of entries and released models, each once."""
    result: dict[str, CatalogEntry] = {}
    for name in names:
        model = released_models().get(name)
        for each in [*model.entries(), *model.vectors()] if model else [entry(name)]:
            result.setdefault(each.name, each)
    return list(result.values())


def members_of(path: Path) -> tuple[str, ...]:
    """Of a package of this file name, the files in it that are read; () of anything else."""
    return next((each.members for each in catalog().values() if each.file == path.name), ())


def entry_of_file(path: Path, sha256: str) -> CatalogEntry | None:
    """The entry whose file name this is; the name is a hint, not a proof.

    `sha256`: its own. Of another hash than the catalog's it is another file, unless it lies where downloads do: there
    it has to be the published one, and whoever reads it says so.
    """
    result = next((each for each in catalog().values() if each.file == path.name), None)
    is_other = result is not None and result.sha256 and not sha256.startswith(result.sha256)
    return None if is_other and path.parent.name not in FOLDERS else result


def address_of(copy: str, drive: str) -> str:
    """A copy's address; of Google Drive's, which are `drive:ID`, as `drive` with its {id} filled in."""
    return drive.format(id=copy.removeprefix("drive:")) if copy.startswith("drive:") else copy


def download_folder() -> Path:
    """Where downloads go: the first folder of HYPERINVERTER_MODELS, else `pretrained_models` of the repository.

    Without a repository (an installed package) it is a folder of the user's own, see `download_root`.
    """
    if os.environ.get("HYPERINVERTER_MODELS", "").strip(os.pathsep):
        return search_folders()[0]
    return download_root()


def listing() -> str:
    """A table of the models and files, with what is there, where it comes from and under which licence."""
    result = {name: each.find() for name, each in catalog().items()}
    rows = [("name", "kind", "domain", "size", "here", "from", "licence")]
    for each in catalog().values():
        path = result[each.name]
        size = f"{path.stat().st_size / 1e6:.0f} MB" if path else f"~{each.about_mb} MB" if each.about_mb else "?"
        licence = each.licence_text.split(";")[0]
        here = "yes" if path or each.find_made() else "-"
        rows.append((each.name, each.kind or "-", each.domain or "-", size, here, each.project, licence))
    lines = ["Models (each is downloaded and converted by its name):"]
    for model in released_models().values():
        folder = available_models().get(model.name)
        state = f"here: {folder}" if folder else "made from " + ", ".join(each.name for each in model.entries())
        lines.append(f"  {model.name:<16}{state}")
    lines += ["", "Files (~: computed from the parameter count, ?: not known):", *aligned(rows)]
    return "\n".join(lines)


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of equal length as lines of text, columns two spaces apart."""
    rows = [tuple(map(printable, row)) for row in rows]  # a cell may come out of a file
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
