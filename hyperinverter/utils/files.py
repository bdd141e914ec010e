"""Files that survive kills and full disks: whole or not at all, and appended in order."""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hyperinverter.utils.errors import UserError
from hyperinverter.utils.held_folders import check_held, not_there, open_own, remove_empty

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a full or read-only disk says
MOST_BYTES = 2_000_000_000  # of an image file: 250 megapixels of 16 bits with transparency
BEGAN = time.time() - 1  # of this process, or the one that it was forked from
HOST = re.sub(r"[^A-Za-z0-9-]", "", socket.gethostname())[:20] or "host"
# what a killed process leaves; earlier versions named no host, and had temporary files of the safetensors library
LEFTOVER = re.compile(r"\..+\.(?P<process>\d+)(@(?P<host>[A-Za-z0-9-]+))?\.tmp|\.tmp\w{6}")


def check_writable(output: str | Path) -> None:
    """Refuse an output folder that could not be made or written to; leaves nothing behind.

    Raises UserError: it, or the folder above it that is there, is no folder or may not be written by this user; or the
    system makes no folder or file there (/proc, a name too long); or a variable of the shell stands in its place.
    """
    if str(output).startswith("$"):  # out of a YAML file, or quoted: no shell has put its value there
        raise UserError(f"output is {output}: variables of the shell are not read here; write the path itself")
    path = Path(output).absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"output is {output}, but {there} is not a folder; give another output=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"output is {output}, but you may not write into {there}; give another output=FOLDER")
    made = not_there(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        if error.errno in NO_ROOM:
            raise about(error, path) from error
        raise UserError(
            f"output is {output}, but the system makes no {'folder' if made else 'file'} there ({error.strerror}); "
            "give another output=FOLDER, in a folder of yours"
        ) from error
    finally:
        remove_empty(made)


def ordinary_bytes(path: Path) -> bytes:
    """A file's bytes; a pipe or device, which may never end, and more than MOST_BYTES are an OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        there = os.fstat(file.fileno())
        if not stat.S_ISREG(there.st_mode):
            raise OSError("it is no ordinary file")
        if there.st_size > MOST_BYTES:
            raise OSError(f"it has {there.st_size} bytes, more than any image")
        return file.read()


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` only when the block ends without an error.

    When this returns, the new file is on the disk: bytes and name are flushed, in this order.

    Raises OSError: the disk is full, the folder may not be written, ...; `filename` is `path`, the old file is whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{HOST}.tmp")
    check_held(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)  # some writers make files for the owner alone; give them the mode any new file has
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        message = about(error, path)
        if message is error:
            raise
        raise message from error
    finally:
        with contextlib.suppress(OSError):  # on a disk that is read-only by now: the first error is the one to report
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, result: Any, indent: int = 1) -> None:
    """A whole file of JSON, indented so that changes can be read."""
    write_text(path, json.dumps(result, indent=indent) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is no such file, or it is damaged or another thing."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def copy_file(source: Path, target: Path) -> None:
    """Unless the same file lies there already (copies keep the source's time of change)."""
    if target.exists():
        old, new = target.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    with write_atomically(target) as temporary:
        shutil.copyfile(source, temporary)
        os.utime(temporary, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))


def about(error: OSError, path: Path) -> OSError:
    """The same error for the file that was meant, not of a temporary one; other files keep their own."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    meant = not names or any(LEFTOVER.fullmatch(Path(name).name) for name in names)
    return OSError(error.errno, error.strerror, str(path)) if meant and error.errno is not None else error


def slug(text: str) -> str:
    """A name for a file or folder: small letters, digits and underscores; what stands in brackets is left out."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\(\w+\)", "", text.lower())).strip("_")


def flush_folder(folder: Path) -> None:
    """Make new names in a folder outlive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems flush no folders
            raise
    finally:
        os.close(handle)


_tidied: tuple[int, set[Path]] = (0, set())  # process, the folders it has looked through


def _tidy(folder: Path) -> None:
    """On the first write into a folder: delete the temporary files of processes of this machine that are no more."""
    global _tidied
    if _tidied[0] != os.getpid():
        _tidied = (os.getpid(), set())
    folder = folder.absolute()
    if folder in _tidied[1]:
        return
    _tidied[1].add(folder)
    for path in folder.glob(".*.tmp"):
        match = LEFTOVER.fullmatch(path.name)
        if match and match["host"] == HOST:
            with contextlib.suppress(OSError):
                if not _is_alive(int(match["process"][:9]), path.stat().st_mtime):
                    path.unlink()


def _is_alive(process: int, written: float) -> bool:
    """Whether the process that wrote a file at that time may still write."""
    if process == os.getpid():
        return written >= BEGAN  # else an earlier process had this number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def remove_leftovers(folders: Sequence[Path]) -> None:
    """Delete the temporary files of killed processes; only for folders that nobody else writes into now."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if LEFTOVER.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


class AppendedFile:
    """A file that only grows. What the disk refuses waits, in order, and is tried again with the next write.

    Args:
        path: made if it is not there.
        on_error: gets the error when a write fails; once, until one succeeds again.
    """

    def __init__(self, path: Path, on_error: Callable[[OSError], None]) -> None:
        self.path = path
        self._on_error, self._reported = on_error, False
        self._waiting = bytearray()
        self._handle = open_own(path, os.O_WRONLY | os.O_APPEND)

    def write(self, data: bytes) -> None:
        """Append at once (not through a buffer: a killed process loses nothing that was written)."""
        self._waiting += data
        try:
            self._drain()
            self._reported = False
        except OSError as error:
            if not self._reported:
                self._reported = True
                self._on_error(about(error, self.path))

    def sync(self) -> None:
        """Flush everything to the disk. Raises OSError: something still waits; `filename` is the path."""
        try:
            self._drain()
            os.fsync(self._handle)
        except OSError as error:
            raise about(error, self.path) from error

    def close(self) -> None:
        with contextlib.suppress(OSError, UserError):  # was reported when it happened
            self._drain()
        os.close(self._handle)

    def _drain(self) -> None:
        check_held(self.path)
        if os.fstat(self._handle).st_nlink == 0:  # somebody deleted the file: what comes now is not to vanish with it
            os.close(self._handle)
            self._handle = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        while self._waiting:
            del self._waiting[: os.write(self._handle, self._waiting)]
