"""Where images come from: a folder, a zip, an LSUN LMDB folder, a glob of these, or a list of these.

A source knows names and reads one image at a time; it holds no pixels. Handles (zip, LMDB) are opened on first use in
each process and are dropped when a source is pickled: a ZipFile shared over a fork reads garbage ("Bad CRC-32").
"""

import glob
import logging
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from hyperinverter.utils.decode import BadImageError, decode_image
from hyperinverter.utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
KINDS = ("auto", "folder", "zip", "lmdb")
NAMED = 5  # files that a warning names before it writes "..."

logger = logging.getLogger(__name__)


class MissingDataError(UserError, FileNotFoundError):
    """A path or pattern of images matches nothing."""


class ImageSource:
    """A fixed, ordered set of named images. Subclasses set `names` and implement `read_bytes`.

    `split_keys` are what the train/validation split hashes: the names inside their own root, so that naming a second
    root moves no image. `ignored` lists the files that are no images by their extension.
    """

    def __init__(self, names: list[str], ignored: list[str] | None = None, split_keys: list[str] | None = None):
        self.names = names
        self.ignored = ignored or []
        self.split_keys = split_keys or names

    def __len__(self) -> int:
        return len(self.names)

    def read_bytes(self, index: int) -> bytes:
        raise TypeError(f"{type(self).__name__} must define read_bytes")

    def places(self) -> list[Path]:
        """Where each image lies, symbolic links followed: tells two roots that hold the same image, and results that
        would be written over it."""
        raise TypeError(f"{type(self).__name__} must define places")

    def read(self, index: int) -> Image.Image:
        """Image number `index` as upright 8-bit RGB.

        Raises:
            BadImageError: the file cannot be read as an image; names it.
        """
        name = self.names[index]
        try:
            data = self.read_bytes(index)
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # RuntimeError: a zip member with a password
            raise BadImageError(name, f"cannot be read: {error}") from error
        return decode_image(data, name)


class FilesSource(ImageSource):
    """Image files on disk; names are relative to `root`, with forward slashes."""

    def __init__(self, root: Path, names: list[str], ignored: list[str] | None = None):
        super().__init__(names, ignored)
        self.root = root

    def read_bytes(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()

    def places(self) -> list[Path]:
        return [(self.root / name).resolve() for name in self.names]


class ZipSource(ImageSource):
    """Images in a .zip file, stored or compressed."""

    def __init__(self, path: Path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = [info.filename for info in archive.infolist() if not info.is_dir()]
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is no readable zip file ({error}): copy or download it again") from error
        names, ignored = _sort_out(members)
        super().__init__(names, ignored)
        self.path = path
        self._archive = PerProcess(partial(zipfile.ZipFile, path))

    def read_bytes(self, index: int) -> bytes:
        return self._archive.get().read(self.names[index])

    def places(self) -> list[Path]:
        root = self.path.resolve()
        return [root / name for name in self.names]


class ConcatSource(ImageSource):
    """Several sources one after the other; a name that occurs twice gets its root's name in front."""

    def __init__(self, parts: list[ImageSource], labels: list[str]):
        count = Counter(name for part in parts for name in part.names)
        used: set[str] = set()
        names = []
        for number, (part, label) in enumerate(zip(parts, labels, strict=True)):
            for name in part.names:
                full = name if count[name] == 1 else f"{label}/{name}"
                if full in used:  # two roots of the same name
                    full = f"{number}/{full}"
                used.add(full)
                names.append(full)
        super().__init__(
            names, [name for part in parts for name in part.ignored], [key for part in parts for key in part.split_keys]
        )
        self.parts = parts
        self._locations = [(part, index) for part in parts for index in range(len(part))]

    def read_bytes(self, index: int) -> bytes:
        part, inner = self._locations[index]
        return part.read_bytes(inner)

    def places(self) -> list[Path]:
        return [place for part in self.parts for place in part.places()]


class Subset(ImageSource):
    """Some images of another source, in the given order."""

    def __init__(self, source: ImageSource, indices: list[int]):
        super().__init__([source.names[i] for i in indices], source.ignored, [source.split_keys[i] for i in indices])
        self.source = source
        self.indices = indices

    def read_bytes(self, index: int) -> bytes:
        return self.source.read_bytes(self.indices[index])

    def places(self) -> list[Path]:
        places = self.source.places()
        return [places[i] for i in self.indices]


class PerProcess:
    """A handle opened on first use in each process; a pickled copy starts closed. `get` is safe from many threads."""

    def __init__(self, open_handle: Callable[[], Any]):
        self._open = open_handle
        self._pid: int | None = None
        self._handle: Any = None
        self._lock = threading.Lock()

    def get(self) -> Any:
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._handle = self._open()
                    self._pid = os.getpid()
        return self._handle

    def __getstate__(self) -> Callable[[], Any]:
        return self._open

    def __setstate__(self, open_handle: Callable[[], Any]) -> None:
        self.__init__(open_handle)


def open_source(root: str | Path | list[str], kind: str = "auto", max_images: int | None = None) -> ImageSource:
    """Open images by path.

    Args:
        root: a folder (searched recursively), a .zip, an LSUN LMDB folder, one image file, a glob of these, or a list.
            What several of them name is read once.
        kind: auto (by what is there), folder, zip or lmdb.
        max_images: keep the first this many, in name order within each root; None keeps all.
    Raises:
        MissingDataError: a path or glob matches nothing.
        UserError: nothing in it is an image, or it is not of the stated kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of image source {kind!r}; known: {', '.join(KINDS)}")
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images must be at least 1 or None, got {max_images}")
    roots = [root] if isinstance(root, str | Path) else list(root)
    paths = [path for one in roots for path in _expand(str(one))]
    parts, labels = _open_parts(paths, kind)
    if len(paths) > 1:
        parts, labels = _each_image_once(parts, labels)
    source = parts[0] if len(parts) == 1 else ConcatSource(parts, labels)
    if len(source) == 0:
        others = f" ({len(source.ignored)} other files, such as {source.ignored[0]})" if source.ignored else ""
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        raise UserError(f"no images in {where}{others}: put files there that end in {' '.join(IMAGE_SUFFIXES)}")
    if source.ignored:
        names = ", ".join(source.ignored[:NAMED]) + (", ..." if len(source.ignored) > NAMED else "")
        logger.warning("%d files are no images by their extension and are left out: %s", len(source.ignored), names)
    if max_images is not None and max_images < len(source):
        source = Subset(source, list(range(max_images)))
    return source


def spare_inputs(target: Path, places: set[Path]) -> None:
    """Refuse to write a result over an image that was read.

    Raises:
        UserError: `target` is one of `places`.
    """
    if target.resolve() in places:
        raise UserError(
            f"{target} is one of the images to work on, and a result would replace it; give another output="
        )


def _expand(root: str) -> list[Path]:
    path = Path(root).expanduser()
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(root) else []
    if not matches:
        what = "no file matches the pattern" if glob.has_magic(root) else "there is no file or folder"
        raise MissingDataError(
            f"{what} {root} (looked from {os.getcwd()}): check data.root; it takes a folder of images, a .zip, "
            "an LSUN LMDB folder, a quoted glob such as 'train_*.zip', or a list [a,b]"
        )
    return [Path(match) for match in matches]


def _open_parts(paths: list[Path], kind: str) -> tuple[list[ImageSource], list[str]]:
    parts: list[ImageSource] = []
    labels: list[str] = []
    loose = [path for path in paths if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    if loose:  # image files named one by one (or by a glob) make one source
        if kind in ("zip", "lmdb"):
            raise UserError(f"data.kind is {kind}, but {loose[0]} is an image file: use data.kind=auto")
        folder = Path(os.path.commonpath([path.absolute().parent for path in loose]))
        parts.append(FilesSource(folder, [path.absolute().relative_to(folder).as_posix() for path in loose]))
        labels.append(folder.name)
    for path in paths:
        if path not in loose:
            parts.append(_open_one(path, kind))
            labels.append(path.stem)
    return parts, labels


def _each_image_once(parts: list[ImageSource], labels: list[str]) -> tuple[list[ImageSource], list[str]]:
    """The parts without images that a part before them (or the same list of files) holds; says how many those are."""
    seen: set[Path] = set()
    kept: list[tuple[ImageSource, str]] = []
    repeated = 0
    for part, label in zip(parts, labels, strict=True):
        new = []
        for index, place in enumerate(part.places()):
            if place not in seen:
                seen.add(place)
                new.append(index)
        repeated += len(part) - len(new)
        if len(new) == len(part):
            kept.append((part, label))
        elif new:
            kept.append((Subset(part, new), label))
    if repeated:
        logger.warning("%d images are named more than once in data.root and are read once", repeated)
    return [part for part, _ in kept], [label for _, label in kept]


def _open_one(path: Path, kind: str) -> ImageSource:
    found = "folder"
    if path.is_dir():
        found = "lmdb" if (path / "data.mdb").is_file() else "folder"
    elif zipfile.is_zipfile(path) or path.suffix.lower() == ".zip":
        found = "zip"
    else:
        raise UserError(f"{path} is neither a folder, a zip, an LSUN LMDB folder nor an image file")
    if kind not in ("auto", found):
        raise UserError(f"data.kind is {kind}, but {path} looks like kind {found}: use data.kind=auto or another root")
    if found == "zip":
        return ZipSource(path)
    if found == "lmdb":
        from hyperinverter.data.lmdb_source import LmdbSource  # the lmdb package is an extra

        return LmdbSource(path)
    files = []
    visited: set[str] = set()  # links may lead round in a circle, or twice to the same folder
    for folder, subfolders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        files += [(Path(folder) / name).relative_to(path).as_posix() for name in names]
    return FilesSource(path, *_sort_out(files))


def _sort_out(files: list[str]) -> tuple[list[str], list[str]]:
    """Image names in order, and the rest (other extensions, hidden files, macOS resource forks) in order."""

    def is_image(name: str) -> bool:
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        return path.suffix.lower() in IMAGE_SUFFIXES and not hidden

    return sorted(filter(is_image, files)), sorted(name for name in files if not is_image(name))
