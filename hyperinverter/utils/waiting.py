"""A word on the terminal where a step takes long and shows nothing else."""

import contextlib
import sys
import threading
from collections.abc import Iterator

SLOW_S = 1.5  # after which a user wonders whether anything happens
BEAT_S = 2.0


@contextlib.contextmanager
def said_if_slow(what: str, after_s: float = SLOW_S, wanted: bool = True) -> Iterator[None]:
    """Write `what ...` on stderr when the block takes longer, and a dot for every two seconds more.

    For blocks that write nothing themselves; nothing is written when one is over sooner, or not `wanted`.
    """
    over = threading.Event()

    def say() -> None:
        if over.wait(after_s):
            return
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(f"{what} ...", end="", file=sys.stderr, flush=True)
            while not over.wait(BEAT_S):
                print(".", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if wanted:
            thread.join()  # its line ends before others begin
