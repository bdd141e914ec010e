"""Which images the resize policy of `utils.resize` had to crop or enlarge: a warning first, a list at the end."""

import logging
from collections.abc import Sequence

import numpy as np

from hyperinverter.utils.resize import centre_crop
from hyperinverter.utils.text import counted

logger = logging.getLogger(__name__)

CROPPED, ENLARGED = 0, 1  # rows of the marks


class FitNotes:
    """Images that are not square (centre-cropped), and those smaller than `resolution` px (enlarged).

    `names`: of the images that are noted by their index in it: two bits each, however often they come and however many
    they are. Others are remembered by name.
    """

    def __init__(self, resolution: int, names: Sequence[str] = ()) -> None:
        self.resolution = resolution
        self._names = names
        self._marks = np.zeros([2, len(names)], bool)
        self._others: tuple[set[str], set[str]] = (set(), set())
        self._told = [False, False]

    def note(self, name: str, size: tuple[int, int], index: int | None = None) -> None:
        """An image of this (width, height), px; the first of each kind is named in a warning."""
        if centre_crop(size, (1, 1)):
            self._mark(CROPPED, name, index, f"{size[0]} x {size[1]}: images that are not square are centre-cropped")
        if min(size) < self.resolution:
            self._mark(ENLARGED, name, index, f"{size[0]} x {size[1]}: images below {self.resolution} px are enlarged")

    def report(self) -> list[str]:
        """One line per kind that occurred."""
        kinds = ((CROPPED, "not square, centre-cropped"), (ENLARGED, f"smaller than {self.resolution} px, enlarged"))
        return [
            f"{what}: {counted(self._count(kind), 'file')}, such as {self._example(kind)}" for kind, what in kinds
            if self._count(kind)
        ]  # fmt: skip

    def state(self) -> tuple[np.ndarray, tuple[set[str], set[str]]]:
        """What `merge` takes, in another process that has the same names."""
        return self._marks, self._others

    def merge(self, state: tuple[np.ndarray, tuple[set[str], set[str]]]) -> None:
        self._marks |= state[0]
        for own, result in zip(self._others, state[1], strict=True):
            own |= result

    def _mark(self, kind: int, name: str, index: int | None, what: str) -> None:
        if not self._told[kind]:
            self._told[kind] = True
            logger.warning("%s is %s", name, what)
        if index is None:
            self._others[kind].add(name)
        else:
            self._marks[kind, index] = True

    def _count(self, kind: int) -> int:
        return int(self._marks[kind].sum()) + len(self._others[kind])

    def _example(self, kind: int) -> str:
        """The first by name; names of a source are in order."""
        marked = np.flatnonzero(self._marks[kind])[:1]
        return min({self._names[i] for i in marked} | self._others[kind])
