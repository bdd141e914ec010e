"""Whether training waits for its images: one warning, with what to do."""

import logging
import time

WATCHED = 50  # batches, after as many in which files, caches and decoders are met for the first time
SHARE = 0.2  # of the time; a fifth is more than chance

logger = logging.getLogger(__name__)


class Waiting:
    """Adds up how long batches were waited for, against the time between them.

    On a GPU too: work is queued ahead there, and only a queue that runs empty makes the images be waited for.

    `workers`: threads that decode.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._batches = self._images = 0
        self._waited = 0.0
        self._began: float | None = None

    def note(self, start: float, images: int) -> None:
        """A batch of so many images was asked for at `start`, a reading of time.perf_counter, and is there now."""
        now = time.perf_counter()
        self._batches += 1
        if self._batches <= WATCHED:
            self._began = now
            return
        if self._batches > 2 * WATCHED:
            return
        self._waited += now - start
        self._images += images
        if self._batches == 2 * WATCHED and self._waited > SHARE * (now - self._began):
            self._warn(now - self._began)

    def _warn(self, seconds: float) -> None:
        logger.warning(
            "training waits for its images %.0f %% of the time: %d threads give %.3g images per second. Raise "
            "data.workers where there are more cores, store the photos at the domain's resolution, as JPEG instead of "
            "PNG, or raise data.cache_mib so that all of them stay in memory",
            100 * self._waited / seconds,
            max(self.workers, 1),
            self._images / seconds,
        )
