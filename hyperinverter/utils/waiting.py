"""A word on the terminal where a step takes long and shows nothing else."""

import contextlib
import sys
import threading
from collections.abc import Iterator

SLOW_S = 1.5  # after which a user wonders whether anything happens


@contextlib.contextmanager
def said_if_slow(what: str, after_s: float = SLOW_S, wanted: bool = True) -> Iterator[None]:
    """Write `what` on stderr when the block takes longer; nothing when it is over sooner, or not `wanted`."""

    def say() -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(f"{what} ...", file=sys.stderr, flush=True)

    timer = threading.Timer(after_s, say)
    timer.daemon = True
    if wanted:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
