"""Images in an LMDB database: arbitrary keys, each value a whole image file.

Layouts: LSUN's (Yu et al., "LSUN: Construction of a Large-scale Image Dataset", arXiv:1506.03365, and its data.py: a
hash as the key, WebP), and rosinality's (stylegan2-pytorch, `prepare_data.py`: every photo in several sizes under
SIZE-NUMBER, and a key `length`). Others are read as LSUN's.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from hyperinverter.data.image_source import ImageSource, OpenFile, PerProcess
from hyperinverter.data.lmdb_file import Entries, keys
from hyperinverter.data.names import Names
from hyperinverter.data.other_files import LMDB_FILE
from hyperinverter.utils.errors import UserError

BOOKKEEPING = (b"length", b"__len__", b"__keys__", b"keys", b"num-samples", b"meta_info")  # of several projects
SIZE_NUMBER = re.compile(rb"(\d{1,5})-(\d+)")


class LmdbSource(ImageSource):
    """The images of one database, in key order. Keys and the places of values are held in memory, in three blocks.

    Args:
        path: the folder that holds data.mdb, or a database that is one file.
        resolution: of photos that are there in several sizes the smallest at least this large is read, else the
            largest; None: the largest. A photo's name is then its number, which is the same in every size.
    Raises:
        UserError: there is no readable database.
    """

    def __init__(self, path: Path, resolution: int | None = None):
        self.path = str(path.resolve())
        file, entries = path / LMDB_FILE if path.is_dir() else path, Entries()
        try:
            result = Names.of(keys(OpenFile(file).read, file.stat().st_size, entries))
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is no readable LMDB database ({error}): unpack or download it again") from error
        prefix, shown = b"", _name_of
        if sizes := _sizes(result):
            large_enough = [size for size in sizes if resolution is not None and size >= resolution]
            prefix, shown = b"%d-" % min(large_enough, default=max(sizes)), _number_of
        raw = map(result.raw, range(len(result)))
        kept = np.flatnonzero([key.startswith(prefix) and key not in BOOKKEEPING for key in raw])
        super().__init__(Names.of(map(result.raw, kept), shown=shown))
        self._starts, self._sizes = (np.array(part, np.int64)[kept] for part in (entries.starts, entries.sizes))
        self._file = PerProcess(partial(OpenFile, file))

    def read_bytes(self, index: int) -> bytes:
        return self._file.get().read(int(self._starts[index]), int(self._sizes[index]))

    def places(self) -> list[Path]:
        return [Path(f"{self.path}/{name}") for name in self.names]

    @property
    def container(self) -> Path:
        return Path(self.path)


def _sizes(names: Names) -> set[int]:
    """Sizes in which rosinality's layout holds its photos; none: it is another layout.

    Where the run that wrote it was stopped there is no `length` yet; sizes that are powers of two tell it then.
    """
    sizes, is_complete = set(), False
    for key in map(names.raw, range(len(names))):
        match = SIZE_NUMBER.fullmatch(key)
        if match:
            sizes.add(int(match[1]))
        elif key not in BOOKKEEPING:
            return set()
        is_complete |= key == b"length"
    return sizes if is_complete or all(size >= 8 and size & (size - 1) == 0 for size in sizes) else set()


def _number_of(key: bytes) -> str:
    return key.partition(b"-")[2].decode("ascii")


def _name_of(key: bytes) -> str:
    """LSUN's keys are hexadecimal text; other bytes are shown as hexadecimal."""
    text = key.decode("ascii", errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else key.hex()
