"""Signs of life: while a command works, its terminal shows something at least every two seconds."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

QUIET_S = 1.5  # after which a user wonders whether anything happens

_doing: list[str] = []  # what the blocks that are open do, outermost first


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Name what the block does, for the sign that is shown when it takes long and writes nothing."""
    _doing.append(what)
    try:
        yield
    finally:
        _doing.pop()


def _bars() -> list[Any]:
    """Progress bars that are shown."""
    tqdm = sys.modules.get("tqdm")
    return list(getattr(getattr(tqdm, "tqdm", None), "_instances", ()))  # it may be half imported


def close_bars() -> None:
    """End the progress bars that an error left open, so that what is printed next begins a line."""
    for bar in _bars():
        bar.close()


class _Heard:
    """A stream that tells of what is written to it; everything else is the stream's."""

    def __init__(self, stream: TextIO, life: "_Life") -> None:
        self._stream, self._life = stream, life

    def write(self, text: str) -> int:
        self._life.hear()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Life:
    """A thread that shows a sign after every QUIET_S in which nobody else wrote: bars count on, or `loading ...`."""

    def __init__(self) -> None:
        self.paused = 0
        self._lock = threading.RLock()  # a signal's handler may write while its thread does
        self._over = threading.Event()
        self._last, self._in_line, self._named = time.monotonic(), False, ""
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (stream and _Heard(stream, self) for stream in self._streams)
        self._thread = threading.Thread(target=self._watch, name="signs of life", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self.hear()
        sys.stdout, sys.stderr = self._streams

    def hear(self) -> None:
        """Something is about to be written, on a line of its own."""
        with self._lock:
            self._last = time.monotonic()
            if self._in_line:
                self._in_line = False
                self._show("\n")

    def _watch(self) -> None:
        while not self._over.wait(max(self._last + QUIET_S - time.monotonic(), 0.01)):
            if time.monotonic() - self._last < QUIET_S:
                continue
            self._last = time.monotonic()
            bars = [] if self.paused else _bars()
            for bar in bars:
                with contextlib.suppress(OSError, ValueError, AttributeError):  # it ends at this moment
                    bar.delay = 0  # it is shown from now on, so that its end clears it
                    bar.refresh()
            if not bars and not self.paused:
                name = _doing[-1] if _doing else "working"
                with self._lock:
                    if self._in_line and name == self._named:
                        self._show(".")
                    else:
                        self._show("\n" * self._in_line + f"{name} ...")
                    self._in_line, self._named = True, name

    def _show(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody reads it any more
            self._streams[1].write(text)
            self._streams[1].flush()


def _give_bars_a_size() -> None:
    """A terminal of no size (some containers and CI) hides tqdm's bars: they get one, if tqdm is not imported yet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no terminal
        if 0 in os.get_terminal_size(sys.stderr.fileno()):
            os.environ.setdefault("TQDM_NCOLS", "80")
            os.environ.setdefault("TQDM_NROWS", "24")


_life: _Life | None = None


@contextlib.contextmanager
def signs_of_life(wanted: bool = True) -> Iterator[None]:
    """Show on stderr that something happens, for as long as the block runs; nothing within another such block."""
    global _life
    if _life is not None or not wanted:
        yield
        return
    _give_bars_a_size()
    _life = _Life()
    try:
        yield
    finally:
        life, _life = _life, None
        life.end()


@contextlib.contextmanager
def shown_on_terminal(what: str) -> Iterator[bool]:
    """For calls from Python, as commands do it: signs of life on a terminal, and True; within a command nothing."""
    main = threading.current_thread() is threading.main_thread()
    wanted = _life is None and main and sys.stderr is not None and sys.stderr.isatty()
    with signs_of_life(wanted), doing(what) if wanted else contextlib.nullcontext():
        yield wanted


@contextlib.contextmanager
def another_process_speaks() -> Iterator[None]:
    """No signs: a process that was started writes to the same terminal."""
    life = _life
    if life is None:
        yield
        return
    life.paused += 1
    try:
        yield
    finally:
        life.paused -= 1
        life.hear()


def log_message(message: str) -> None:
    """A line with the time, on stderr, beside any progress bar."""
    from tqdm import tqdm

    tqdm.write(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr)
