"""Where images come from: a folder, a zip, an LSUN LMDB folder, a glob of these, or a list of these."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hyperinverter.config.schema import DataConfig
from hyperinverter.data.image_source import ImageSource, Subset, sort_out
from hyperinverter.data.lmdb_source import LmdbSource
from hyperinverter.data.names import Names, concatenated, repeated
from hyperinverter.data.other_files import LMDB_FILE, is_lmdb_file, what_else, what_is_inside
from hyperinverter.data.zip_source import ZipSource, is_zip
from hyperinverter.utils.decode import HEAD_BYTES, IMAGE_SUFFIXES, MAX_MEGAPIXELS, looks_like_image
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import ordinary_bytes
from hyperinverter.utils.paths import check_given, expand
from hyperinverter.utils.text import counted

KINDS = ("auto", "folder", "zip", "lmdb")
NAMED = 5  # files that a warning names before it writes "..."

logger = logging.getLogger(__name__)


class FilesSource(ImageSource):
    """Image files on disk; names are relative to `root`, with forward slashes."""

    def __init__(self, root: Path, names: Names | Sequence[str], ignored: Names | Sequence[str] = ()):
        super().__init__(names, ignored)
        self.root = root

    def read_bytes(self, index: int) -> bytes:
        return ordinary_bytes(self.root / self.names[index])

    def places(self) -> list[Path]:
        return [(self.root / name).resolve() for name in self.names]


class ConcatSource(ImageSource):
    """Several sources one after the other; a name that occurs twice gets its root's name in front."""

    def __init__(self, labelled: list[tuple[ImageSource, str]]):
        parts = [part for part, _ in labelled]
        super().__init__(
            Names.of(_distinct([(part.names, label) for part, label in labelled])),
            concatenated([part.ignored for part in parts]),
            concatenated([part.split_keys for part in parts]),
        )
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def read_bytes(self, index: int) -> bytes:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[number].read_bytes(index - (int(self._ends[number - 1]) if number else 0))

    def places(self) -> list[Path]:
        return [place for part in self.parts for place in part.places()]


def _distinct(parts: list[tuple[Names, str]]) -> Iterator[str]:
    """All names, each different."""
    ambiguous = repeated([names for names, _ in parts])
    taken = set(np.concatenate([names.hashes() for names, _ in parts]).tolist()) if ambiguous else set()
    for number, (names, label) in enumerate(parts):
        for name in names:
            full = name
            if name in ambiguous:
                full = f"{label}/{name}"
                while hash(full) in taken:  # two roots of the same name, or a plain name like this one
                    full = f"{number}/{full}"
                taken.add(hash(full))
            yield full


def open_source(
    root: str | Path | list[str],
    kind: str = "auto",
    max_images: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    resolution: int | None = None,
) -> ImageSource:
    """Open images by path.

    Args:
        root: a folder (searched recursively), a .zip, an LSUN LMDB folder, one image file, a glob of these, or a list.
            What several of them name is read once.
        kind: auto (by what is there), folder, zip or lmdb.
        max_images: keep the first this many, in name order within each root; None keeps all.
        max_megapixels: larger JPEGs are reduced while they are decoded, other larger images refused.
        resolution: px that are needed, for databases with every photo in several sizes; None: the largest there are.
    Raises:
        MissingDataError: a path or glob matches nothing.
        UserError: nothing in it is an image, or it is not of the stated kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of image source {kind!r}; known: {', '.join(KINDS)}")
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images must be at least 1 or None, got {max_images}")
    roots = [root] if isinstance(root, str | Path) else list(root)
    source = _opened([path for one in roots for path in expand(str(one))], kind, resolution)
    source.max_megapixels = max_megapixels
    if source.ignored:
        names = ", ".join(source.ignored[:NAMED]) + (", ..." if len(source.ignored) > NAMED else "")
        logger.warning("left out, no image by its extension: %s: %s", counted(len(source.ignored), "file"), names)
    if max_images is not None and max_images < len(source):
        source = Subset(source, np.arange(max_images))
    return source


def _opened(paths: list[Path], kind: str, resolution: int | None = None) -> ImageSource:
    """All images of what is there, as one source. Raises UserError: as `open_source`."""
    parts = _open_parts(paths, kind, resolution)
    if len(paths) > 1:
        parts = _each_image_once(parts)
    source = parts[0][0] if len(parts) == 1 else ConcatSource(parts)
    if len(source) == 0:
        others = (
            f" ({counted(len(source.ignored), 'other file')}, such as {source.ignored[0]})" if source.ignored else ""
        )
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        if len(paths) == 1 and (message := what_is_inside(paths[0], source.ignored)):
            raise UserError(f"no images in {where}: it {message}")
        raise UserError(f"no images in {where}{others}: put files there that end in {' '.join(IMAGE_SUFFIXES)}")
    return source


def check_images(root: str | list[str] | None, kind: str = "auto") -> None:
    """Refuse, before networks are loaded, what `open_source` refuses; a folder with an image is not read to its end.

    Raises:
        MissingDataError: a path or glob matches nothing.
        UserError: nothing in it is an image, or it is not of the stated kind.
    """
    for one in [root] if isinstance(root, str) else root or []:
        for path in expand(str(one)):
            if kind != "auto" or not (_is_image_file(path) if path.is_file() else _holds_image(path)):
                _opened([path], kind)


def check_folders(root: str | list[str]) -> None:
    """As `check_images`, of folders of files alone: archives and databases, whose lists may be long, stay closed."""
    paths = [path for one in ([root] if isinstance(root, str) else root) for path in expand(one)]
    check_images([str(path) for path in paths if path.is_dir() and not (path / LMDB_FILE).is_file()])


def check_training_data(data: DataConfig) -> None:
    """Refuse images that are not there before networks are loaded.

    Raises:
        UserError: data.root is not set or holds no images.
        FileNotFoundError: data.root or data.validation_root does not exist.
    """
    check_given(data)
    if data.kind == "generated":
        return
    check_images(data.root, data.kind)
    check_images(data.validation_root)


def _holds_image(folder: Path) -> bool:
    files = (Path(name) for _, _, names in os.walk(folder, followlinks=False) for name in names)
    return any(file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") for file in files)


def spare_inputs(target: Path, places: set[Path]) -> None:
    """Refuse to write a result over an image that was read. Raises UserError: `target` is one of `places`."""
    if target.resolve() in places:
        raise UserError(
            f"{target} is one of the images to work on, and a result would replace it; give another output="
        )


def _open_parts(paths: list[Path], kind: str, resolution: int | None) -> list[tuple[ImageSource, str]]:
    """Sources, each with a word to tell its names from another's."""
    parts: list[tuple[ImageSource, str]] = []
    loose = [path for path in paths if path.is_file() and _is_image_file(path)]
    if loose:  # image files named one by one (or by a glob) make one source
        if kind in ("zip", "lmdb"):
            raise UserError(f"data.kind is {kind}, but {loose[0]} is an image file: use data.kind=auto")
        folder = Path(os.path.commonpath([path.absolute().parent for path in loose]))
        names = [path.absolute().relative_to(folder).as_posix() for path in loose]
        parts.append((FilesSource(folder, names), folder.name))
    return parts + [(_open_one(path, kind, resolution), path.stem) for path in paths if path not in loose]


def _is_image_file(path: Path) -> bool:
    """By its suffix, or by its content where that says nothing of images or archives (photo, photo.jpg_large)."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.suffix.lower() != ".zip" and looks_like_image(_head(path))


def _head(path: Path) -> bytes:
    """The first bytes of a file; none of one that cannot be read, which its reader will tell, and of pipes."""
    if not path.is_file():
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _each_image_once(parts: list[tuple[ImageSource, str]]) -> list[tuple[ImageSource, str]]:
    """The parts without images that a part before them (or the same list of files) holds; says how many those are."""
    seen: set[Path] = set()  # an archive by its own path, image files by theirs
    kept: list[tuple[ImageSource, str]] = []
    repeated = 0
    for part, label in parts:
        new = []
        for index, place in enumerate(part.places() if part.container is None else [part.container]):
            if place not in seen:
                seen.add(place)
                new.append(index)
        if part.container is not None:
            new = range(len(part) if new else 0)
        repeated += len(part) - len(new)
        if len(new) == len(part):
            kept.append((part, label))
        elif new:
            kept.append((Subset(part, new), label))
    if repeated:
        logger.warning("%d images are named more than once in data.root and are read once", repeated)
    return kept


def _open_one(path: Path, kind: str, resolution: int | None) -> ImageSource:
    result = "folder"
    if path.is_dir():
        result = "lmdb" if (path / LMDB_FILE).is_file() else "folder"
    elif not path.is_file():
        raise UserError(f"{path} is no ordinary file; give images as files, a folder or a .zip")
    elif path.suffix.lower() == ".zip" or is_zip(path):
        result = "zip"
    elif is_lmdb_file(path) and path.name != LMDB_FILE:
        result = "lmdb"
    else:
        raise UserError(f"{path} {what_else(path) or 'is neither a folder, a zip, an LMDB folder nor an image file'}")
    if kind not in ("auto", result):
        raise UserError(f"data.kind is {kind}, but {path} looks like kind {result}: use data.kind=auto or another root")
    if result == "zip":
        return ZipSource(path)
    if result == "lmdb":
        return LmdbSource(path, resolution)
    files: list[str] = []
    visited: set[str] = set()  # links may lead round in a circle, or twice to the same folder
    for folder, subfolders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        inside = Path(folder).relative_to(path).as_posix()
        files += names if inside == "." else [f"{inside}/{name}" for name in names]
    result = Names.of(files)
    kept, ignored = sort_out(result, lambda index: _head(path / result[index]))
    return FilesSource(path, result.take(kept), ignored)
