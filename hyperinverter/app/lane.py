"""A queue with one worker: what two people ask for at once is done one after the other, in the order of asking."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from hyperinverter.utils.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(UserError):
    """Too many wait already."""


class Lane:
    """Work that is done one at a time.

    Args:
        name: of its thread.
        most: how many may wait.
    """

    def __init__(self, name: str, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._count = 0  # that wait or are being done
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=name)

    @property
    def waiting(self) -> int:
        """How many come before whoever asks now."""
        return self._count

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """
        Raises:
            BusyError: too many wait.
        """
        with self._lock:
            if self._count >= self.most:
                raise BusyError(f"{self._count} requests are waiting, which is all that may: try again in a moment")
            self._count += 1
        future = self._worker.submit(work, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: "Future[T]") -> None:
        with self._lock:
            self._count -= 1

    def close(self) -> None:
        """Wait for what is being done; what waits is left out."""
        self._worker.shutdown(cancel_futures=True)
