"""What every source of images is: a fixed, ordered set of names, and the bytes of one image at a time.

A source knows names and reads one image at a time; it holds no pixels. Archives are read by place: a ZipFile, which has
a position, shared over a fork reads garbage ("Bad CRC-32").
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from hyperinverter.data.names import Names
from hyperinverter.utils.decode import IMAGE_SUFFIXES, MAX_MEGAPIXELS, BadImageError, decode_image, looks_like_image
from hyperinverter.utils.errors import DAMAGED, reason_of


class ImageSource:
    """A fixed, ordered set of named images. Subclasses set `names` and implement `read_bytes`.

    `split_keys` are what the train/validation split hashes: the names inside their own root, so that naming a second
    root moves no image. `ignored` lists the files that are no images by their extension. `max_megapixels`: as
    `decode_image` takes it.
    """

    max_megapixels: float = MAX_MEGAPIXELS

    def __init__(
        self,
        names: Names | Sequence[str],
        ignored: Names | Sequence[str] = (),
        split_keys: Names | Sequence[str] | None = None,
    ):
        self.names, self.ignored = _packed(names), _packed(ignored)
        self.split_keys = self.names if split_keys is None else _packed(split_keys)

    def __len__(self) -> int:
        return len(self.names)

    def read_bytes(self, index: int) -> bytes:
        raise TypeError(f"{type(self).__name__} must define read_bytes")

    @property
    def container(self) -> Path | None:
        """The file or folder of a source that holds its images inside; None for image files of their own."""
        return None

    def places(self) -> list[Path]:
        """Where each image lies, symbolic links followed: tells two roots that hold the same image, and results that
        would be written over it."""
        if (container := self.container) is None:
            raise TypeError(f"{type(self).__name__} must define places")
        return [Path(f"{container}/{name}") for name in self.names]  # joined as text: a name "/a.png" stays inside

    def read(self, index: int) -> Image.Image:
        """Image number `index` as upright 8-bit RGB.

        Raises BadImageError: the file cannot be read as an image; names it.
        """
        return decode_image(self.checked_bytes(index), self.names[index], self.max_megapixels)

    def digest(self) -> str:
        """A hash over the names and bytes of all images: tells whether a measurement was of these."""
        digest = hashlib.sha256()
        for index, name in enumerate(self.names):
            data = self.checked_bytes(index)
            digest.update(f"{name} {len(data)}\n".encode("utf-8", "surrogatepass"))
            digest.update(data)
        return digest.hexdigest()[:16]

    def checked_bytes(self, index: int) -> bytes:
        """The file of image number `index`. Raises BadImageError: it cannot be read; names it."""
        try:
            return self.read_bytes(index)
        except (OSError, *DAMAGED) as error:
            raise BadImageError(self.names[index], f"cannot be read: {reason_of(error)}") from error


class Subset(ImageSource):
    """Some images of another source, in the given order."""

    def __init__(self, source: ImageSource, indices: Sequence[int] | np.ndarray):
        self.indices = np.asarray(indices, np.int64)
        super().__init__(source.names.take(self.indices), source.ignored, source.split_keys.take(self.indices))
        self.source, self.max_megapixels = source, source.max_megapixels

    def read_bytes(self, index: int) -> bytes:
        return self.source.read_bytes(int(self.indices[index]))

    def places(self) -> list[Path]:
        places = self.source.places()
        return [places[i] for i in self.indices]


class OpenFile:
    """A file that threads and forked processes may read at once; it is opened by its first reader, in a copy anew."""

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._lock = path, None, threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return OpenFile, (self.path,)

    def read(self, start: int, size: int) -> bytes:
        """These bytes. Raises OSError: the file ends before them."""
        if self._file is None:
            with self._lock:
                self._file = self._file or open(self.path, "rb", buffering=0)  # noqa: SIM115 (stays open)
        number = self._file.fileno()
        beyond = start + size - os.fstat(number).st_size
        if beyond > 0:  # before memory is taken for what is not there
            raise OSError(f"{self.path} ends {beyond} bytes too early")
        if hasattr(os, "pread"):  # no common position, so threads need not wait for each other
            data = os.pread(number, size, start)
        else:  # there are no forks here either
            with self._lock:
                self._file.seek(start)
                data = self._file.read(size)
        if len(data) < size:
            raise OSError(f"{self.path} ends {size - len(data)} bytes too early")
        return data


def sort_out(names: Names, read_head: Callable[[int], bytes] | None = None) -> tuple[np.ndarray, Names]:
    """Indices of the images in name order, int64, of equal names the last; and the other names in order.

    Others are files of other extensions, hidden ones, and macOS resource forks.

    `read_head`: gives the first bytes of a file by its index, by which files without a suffix are recognised. None:
    they are no images.
    """
    texts = list(names)  # for a moment
    order = sorted(range(len(texts)), key=texts.__getitem__)

    def is_image(index: int) -> bool:
        suffix = os.path.splitext(texts[index])[1]
        if suffix or read_head is None or _is_hidden(texts[index]):
            return texts[index].lower().endswith(IMAGE_SUFFIXES) and not _is_hidden(texts[index])
        return looks_like_image(read_head(index))

    images = np.fromiter(map(is_image, order), bool, len(order))
    repeats = (texts[i] == texts[j] for i, j in pairwise(order))
    superseded = np.fromiter(chain(repeats, [False] * bool(order)), bool, len(order))
    order = np.array(order, np.int64)
    return order[images & ~superseded], names.take(order[~images])


def _is_hidden(name: str) -> bool:
    if not (name.startswith(".") or "/." in name or "__MACOSX" in name):
        return False
    parts = [part for part in name.split("/") if part not in ("", ".")]  # "./a.png" is not hidden
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _packed(names: Names | Sequence[str]) -> Names:
    return names if isinstance(names, Names) else Names.of(names)
