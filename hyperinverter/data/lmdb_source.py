"""Images in an LMDB folder as LSUN distributes them: arbitrary keys, each value a whole image file (LSUN: WebP).

Source of the format: Yu et al., "LSUN: Construction of a Large-scale Image Dataset", arXiv:1506.03365, and its data.py.
"""

import os
import threading
from pathlib import Path
from typing import Any

from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.names import Names
from hyperinverter.utils.errors import UserError


class LmdbSource(ImageSource):
    """The images of one environment, read-only, in key order. Only the keys are held in memory, in one block.

    Raises:
        UserError: the `lmdb` package is not installed, or the folder is no readable environment.
    """

    def __init__(self, path: Path):
        self.path = str(path.resolve())
        with _environment(self.path).begin() as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            super().__init__(Names.of(keys, shown=_name_of))

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
        return lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UserError(f"{path} is no readable LMDB database ({error}): unpack or download it again") from error


def _name_of(key: bytes) -> str:
    """LSUN's keys are hexadecimal text; other bytes are shown as hexadecimal."""
    text = key.decode("ascii", errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else key.hex()
