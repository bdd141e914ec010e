"""Images in an LMDB database: arbitrary keys, each value a whole image file.

Layouts: LSUN's (Yu et al., "LSUN: Construction of a Large-scale Image Dataset", arXiv:1506.03365, and its data.py: a
hash as the key, WebP), and rosinality's (stylegan2-pytorch, `prepare_data.py`: every photo in several sizes under
SIZE-NUMBER, and a key `length`). Others are read as LSUN's.
"""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.names import Names
from hyperinverter.utils.errors import UserError

BOOKKEEPING = (b"length", b"__len__", b"__keys__", b"keys", b"num-samples", b"meta_info")  # of several projects
SIZE_NUMBER = re.compile(rb"(\d{1,5})-(\d+)")


class LmdbSource(ImageSource):
    """The images of one environment, read-only, in key order. Only the keys are held in memory, in one block.

    Args:
        path: the folder that holds data.mdb, or a database that is one file.
        resolution: of photos that are there in several sizes the smallest at least this large is read, else the
            largest; None: the largest. A photo's name is then its number, which is the same in every size.
    Raises:
        UserError: the `lmdb` package is not installed, or there is no readable environment.
    """

    def __init__(self, path: Path, resolution: int | None = None):
        self.path = str(path.resolve())
        with _environment(self.path).begin() as transaction:
            sizes = _sizes(transaction)
            if not sizes:
                keys = (key for key in _keys(transaction) if key not in BOOKKEEPING)
                super().__init__(Names.of(keys, shown=_name_of))
                return
            large_enough = [size for size in sizes if resolution is not None and size >= resolution]
            prefix = b"%d-" % min(large_enough, default=max(sizes))
            super().__init__(Names.of(_keys(transaction, prefix), shown=_number_of))

    def read_bytes(self, index: int) -> bytes:
        with _environment(self.path).begin() as transaction:
            value = transaction.get(self.names.raw(index))
        if value is None:
            raise OSError("its key has gone from the database")
        return value

    def places(self) -> list[Path]:
        return [Path(f"{self.path}/{name}") for name in self.names]

    @property
    def container(self) -> Path:
        return Path(self.path)


# One environment per path and process, shared by every source of that path: lmdb refuses to open a path twice.
_environments: dict[str, tuple[int, Any]] = {}  # path -> (process id, environment)
_opening = threading.Lock()


def _environment(path: str) -> Any:
    with _opening:
        pid, environment = _environments.get(path, (None, None))
        if pid != os.getpid():
            if environment is not None:  # inherited over a fork: it must not be read, and blocks a new one until closed
                environment.close()
            environment = _open(path)
            _environments[path] = (os.getpid(), environment)
        return environment


def _open(path: str) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            f"{path} is an LMDB database, and the lmdb package is not installed: pip install 'hyperinverter[lmdb]'"
        ) from error
    try:
        # lock=False: a read-only file system has no place for a lock file, and nobody writes while we read.
        is_folder = os.path.isdir(path)
        return lmdb.open(path, subdir=is_folder, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UserError(f"{path} is no readable LMDB database ({error}): unpack or download it again") from error


def _keys(transaction: Any, prefix: bytes = b"") -> Iterator[bytes]:
    """All keys that begin so, in order."""
    cursor = transaction.cursor()
    if cursor.set_range(prefix) if prefix else cursor.first():
        for key in cursor.iternext(keys=True, values=False):
            if not key.startswith(prefix):
                return
            yield key


def _sizes(transaction: Any) -> set[int]:
    """Sizes in which rosinality's layout holds its photos; none: it is another layout.

    Where the run that wrote it was stopped there is no `length` yet; sizes that are powers of two tell it then.
    """
    sizes = set()
    for key in _keys(transaction):
        match = SIZE_NUMBER.fullmatch(key)
        if match:
            sizes.add(int(match[1]))
        elif key not in BOOKKEEPING:
            return set()
    is_complete = transaction.get(b"length") is not None
    return sizes if is_complete or all(size >= 8 and size & (size - 1) == 0 for size in sizes) else set()


def _number_of(key: bytes) -> str:
    return key.partition(b"-")[2].decode("ascii")


def _name_of(key: bytes) -> str:
    """LSUN's keys are hexadecimal text; other bytes are shown as hexadecimal."""
    text = key.decode("ascii", errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else key.hex()
