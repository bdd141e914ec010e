"""Millions of names without millions of objects: one block of bytes and two arrays.

A Python list of three million LSUN keys takes 300 MB in every process that reads them, and a forked process copies all
of it page by page, because counting references writes to every string. Here a name takes its bytes and 12 more, in
arrays that no reader writes to.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import overload

import numpy as np

SURROGATES = "surrogatepass"  # names of files need not be proper text


def decode(name: bytes) -> str:
    return name.decode("utf-8", SURROGATES)


class Names(Sequence[str]):
    """A fixed sequence of names; behaves as a list of strings does, for reading.

    Args:
        text: the bytes of all names.
        starts: where each name begins, int64 [n].
        lengths: bytes of each name, uint32 [n].
        shown: bytes of a name -> text; a function at a module's top level, so that names can be pickled.
    """

    def __init__(
        self, text: bytes, starts: np.ndarray, lengths: np.ndarray, shown: Callable[[bytes], str] = decode
    ) -> None:
        self._text, self._starts, self._lengths, self._shown = text, starts, lengths, shown

    @classmethod
    def of(cls, names: Iterable[str | bytes], shown: Callable[[bytes], str] = decode) -> "Names":
        """Take up names one by one; they may come from a generator."""
        text = bytearray()
        lengths = np.fromiter(_appended(names, text), np.uint32)
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(bytes(text), ends - lengths, lengths, shown)

    def raw(self, index: int) -> bytes:
        """The bytes of a name."""
        start = int(self._starts[index])
        return self._text[start : start + int(self._lengths[index])]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Names":
        """These names in this order; their bytes are shared."""
        return Names(self._text, self._starts[indices], self._lengths[indices], self._shown)

    def hashes(self) -> np.ndarray:
        """A 64-bit number for each name, int64 [n]; equal names have equal numbers within one process."""
        return np.fromiter((hash(name) for name in self), np.int64, len(self))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> "str | list[str]":
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._shown(self.raw(index))

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({list(chain(self[:3], ['...'] if len(self) > 3 else []))}, {len(self)} in all)"


def concatenated(parts: Sequence[Names]) -> Names:
    """All names of several, in order; the same object where there is one."""
    return parts[0] if len(parts) == 1 else Names.of(chain.from_iterable(parts))


def repeated(parts: Sequence[Names]) -> set[str]:
    """The names that occur more than once among all."""
    hashes = np.concatenate([part.hashes() for part in parts])
    numbers, counts = np.unique(hashes, return_counts=True)
    suspects = np.isin(hashes, numbers[counts > 1])
    seen: set[str] = set()
    result: set[str] = set()
    starts = np.cumsum([0, *map(len, parts)])
    for index in np.flatnonzero(suspects):
        part = int(np.searchsorted(starts, index, side="right")) - 1
        name = parts[part][int(index - starts[part])]
        (result if name in seen else seen).add(name)
    return result


def _appended(names: Iterable[str | bytes], text: bytearray) -> Iterator[int]:
    for name in names:
        raw = name if isinstance(name, bytes) else name.encode("utf-8", SURROGATES)
        text += raw
        yield len(raw)
