"""Files that survive kills and full disks: whole or not at all, appended in order, and one writer per folder."""

import contextlib
import errno
import os
import re
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hyperinverter.utils.errors import UserError

LOCK_NAME = ".lock"
MOST_BYTES = 2_000_000_000  # of an image file: 250 megapixels of 16 bits with transparency
BEGAN = time.time() - 1  # of this process, or the one that it was forked from
HOST = re.sub(r"[^A-Za-z0-9-]", "", socket.gethostname())[:20] or "host"
# what a killed process leaves; earlier versions named no host, and had temporary files of the safetensors library
LEFTOVER = re.compile(r"\..+\.(?P<process>\d+)(@(?P<host>[A-Za-z0-9-]+))?\.tmp|\.tmp\w{6}")


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

    Raises:
        OSError: the disk is full, the folder may not be written, ...; `filename` is `path`, the old file is whole.
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
        told = about(error, path)
        if told is error:
            raise
        raise told from error
    finally:
        with contextlib.suppress(OSError):  # on a disk that is read-only by now: the first error is the one to tell
            temporary.unlink(missing_ok=True)


def about(error: OSError, path: Path) -> OSError:
    """The same error told of the file that was meant, not of a temporary one; other files keep their own."""
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
        tell: gets the error when a write fails; once, until one succeeds again.
    """

    def __init__(self, path: Path, tell: Callable[[OSError], None]) -> None:
        self.path = path
        self._tell, self._told = tell, False
        self._waiting = bytearray()
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, data: bytes) -> None:
        """Append at once (not through a buffer: a killed process loses nothing that was written)."""
        self._waiting += data
        try:
            self._drain()
            self._told = False
        except OSError as error:
            if not self._told:
                self._told = True
                self._tell(about(error, self.path))

    def sync(self) -> None:
        """Flush everything to the disk.

        Raises:
            OSError: something still waits; `filename` is the path.
        """
        try:
            self._drain()
            os.fsync(self._handle)
        except OSError as error:
            raise about(error, self.path) from error

    def close(self) -> None:
        with contextlib.suppress(OSError, UserError):  # was told when it happened
            self._drain()
        os.close(self._handle)

    def _drain(self) -> None:
        check_held(self.path)
        if os.fstat(self._handle).st_nlink == 0:  # somebody deleted the file: what comes now is not to vanish with it
            os.close(self._handle)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        while self._waiting:
            del self._waiting[: os.write(self._handle, self._waiting)]


@contextlib.contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it however the process ends.

    A folder made here is removed again when nothing was written into it.

    Raises:
        UserError: another process holds it; names it.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    handle = _take_lock(folder / LOCK_NAME)
    held = None
    try:
        held = Held(folder)
        _held.append(held)
        yield
    finally:
        if held is not None:
            _held.remove(held)
        if handle is not None:
            with contextlib.suppress(OSError):  # before letting go: who waits notices that the file is another one
                if held is None:
                    (folder / LOCK_NAME).unlink()
                else:
                    held.unlink(LOCK_NAME)
            os.close(handle)
        if held is None or held.is_in_place():
            with contextlib.suppress(OSError):  # not empty
                for place in made:
                    place.rmdir()
        if held is not None:
            held.close()


class Held:
    """A folder that this process writes into: the folder itself, whatever its name leads to later.

    Raises:
        UserError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._handle: int | None = None
        if os.name != "posix":
            return
        import fcntl

        self._handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # the lock file was deleted or replaced, and its folder is still written into
            self.close()
            raise _is_taken(folder, "another process") from None
        except OSError:
            pass  # a file system that locks no folders; the lock file is held

    def is_in_place(self) -> bool:
        """Whether the name still leads to the folder."""
        if self._handle is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._handle), self.folder.stat())
        except OSError:
            return False

    def unlink(self, name: str) -> None:
        """Delete a file in the folder, wherever that is now."""
        if self._handle is None:
            (self.folder / name).unlink()
        else:
            os.unlink(name, dir_fd=self._handle)

    def check(self) -> None:
        """Refuse to write when the name leads elsewhere.

        Raises:
            UserError: the folder was removed, moved or replaced; says where it is now, where the system knows.
        """
        if self.is_in_place():
            return
        now = ""
        with contextlib.suppress(OSError):  # Linux
            now = os.readlink(f"/proc/self/fd/{self._handle}")
        is_moved = now and not now.endswith(" (deleted)") and Path(now) != self.folder
        what = f"was moved to {now}" if is_moved else "was removed"
        then = f"what was saved lies there: go on with output={now}" if is_moved else "what was saved in it is gone"
        raise UserError(
            f"{self.folder}: the output folder {what} while this process wrote into it; it has stopped, and writes "
            f"nothing into what has this name now; {then}"
        )

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_held: list[Held] = []  # of this process


def check_held(path: Path | None = None) -> None:
    """Refuse to write to `path` (None: anywhere) when the held folder around it is no longer in its place.

    Raises:
        UserError: it was removed, moved or replaced.
    """
    for held in _held:
        if path is None or path.absolute().is_relative_to(held.folder):
            held.check()


def _is_taken(folder: Path, holder: str) -> UserError:
    return UserError(
        f"{folder}: {holder} is writing into this folder; wait for its end, stop it, or give another output=FOLDER"
    )


def _take_lock(path: Path) -> int | None:
    """The handle that holds the lock; None where the system or the file system has no locks (told in a warning)."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = path.exists() and os.path.samestat(os.fstat(handle), path.stat())
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise _is_taken(path.parent, holder) from None
        except OSError as error:
            os.close(handle)
            warnings.warn(
                f"{path}: cannot be locked ({error.strerror}): make sure that no other run writes here", stacklevel=3
            )
            return None
        if same:
            break
        os.close(handle)  # its holder removed it between our two calls
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
        os.ftruncate(handle, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} (since {since})".encode())
    return handle
