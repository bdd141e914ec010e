"""Writing files so that a killed process leaves the old one whole, and knowing beforehand that it can be done."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hyperinverter.utils.errors import UserError


def check_writable(output: str | Path) -> None:
    """Refuse an output folder that could not be made or written to; makes nothing.

    Raises:
        UserError: it, or the folder above it that is there, is no folder or may not be written by this user.
    """
    path = Path(output).absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"output is {output}, but {there} is not a folder; give another output=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"output is {output}, but you may not write into {there}; give another output=FOLDER")


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)  # some writers make files for the owner alone; give them the mode any new file has
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
