"""One writer per folder: the folder itself is held, whatever its name leads to later."""

import contextlib
import errno
import os
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperinverter.utils.errors import UserError

LOCK_NAME = ".lock"


def open_own(path: Path, flags: int) -> int:
    """The handle of a file that this package makes and writes piece by piece, made if it is not there.

    Raises UserError: a link has its name, which would lead the writing to another file.
    """
    try:
        return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(
            f"{path}: a link, which is not written through; remove it, or give another output=FOLDER"
        ) from error


def not_there(folder: Path) -> list[Path]:
    """The folder and those above it that are not there yet, innermost first."""
    return [place for place in (folder, *folder.parents) if not os.path.exists(place)]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost first, up to the first one that holds something."""
    with contextlib.suppress(OSError):  # not empty, or not there
        for folder in folders:
            folder.rmdir()


@contextlib.contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it however the process ends.

    A folder made here is removed again when nothing was written into it.

    Raises UserError: another process holds it; names it.
    """
    held = Held(Path(folder))
    _held.append(held)
    try:
        yield
    finally:
        _held.remove(held)
        held.release()


class Held:
    """A folder that this process writes into: the folder itself, whatever its name leads to later.

    Raises UserError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._made = not_there(folder)
        self._lock = _take_lock(folder / LOCK_NAME)
        self._handle: int | None = None
        if os.name != "posix":
            return
        import fcntl

        try:
            self._handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # the lock file was deleted or replaced, and its folder is still written into
            self.release()
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

    def check(self) -> None:
        """Refuse to write when the name leads elsewhere.

        Raises UserError: the folder was removed, moved or replaced; says where it is now, where the system knows.
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

    def release(self) -> None:
        """Let go of the folder, wherever that is now; one that was made here and is empty is removed."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # before letting go: who waits notices that the file is another one
                if self._handle is None:
                    (self.folder / LOCK_NAME).unlink()
                else:
                    os.unlink(LOCK_NAME, dir_fd=self._handle)
            os.close(self._lock)
        if self.is_in_place():
            remove_empty(self._made)
        if self._handle is not None:
            os.close(self._handle)


_held: list[Held] = []  # of this process


def check_held(path: Path | None = None) -> None:
    """Refuse to write to `path` (None: anywhere) when the held folder around it is no longer in its place.

    Raises UserError: it was removed, moved or replaced.
    """
    for held in _held:
        if path is None or path.absolute().is_relative_to(held.folder):
            held.check()


def _is_taken(folder: Path, holder: str) -> UserError:
    return UserError(
        f"{folder}: {holder} is writing into this folder; wait for its end, stop it, or give another output=FOLDER"
    )


def _take_lock(path: Path) -> int | None:
    """The handle that holds the lock; None where the system or the file system has no locks (reported in a warning)."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open_own(path, os.O_RDWR)
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
