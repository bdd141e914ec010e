"""Images in a .zip file, read by their place in it: the table of contents is held as arrays.

`zipfile` keeps an object and a dictionary entry for every member in every process that has the archive open: 700 MB for
a million images, where these arrays take 80. Format: PKWARE's APPNOTE.TXT 6.3, sections 4.3 (records) and 4.5.3 (sizes
and places beyond 4 GiB). No member is unpacked to more bytes than the table of contents declares.
"""

import bz2
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hyperinverter.data.image_source import ImageSource, OpenFile, sort_out
from hyperinverter.data.names import Names
from hyperinverter.utils.decode import HEAD_BYTES
from hyperinverter.utils.errors import UserError

END = struct.Struct("<4s4H2LH")  # end of central directory; a comment follows
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
LONGEST_COMMENT = 65535
IN_EXTRA_32 = 0xFFFFFFFF  # the number stands in an extra field instead
ENCRYPTED, UTF8 = 0x1, 0x800  # flags
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14  # methods
MOST_UNPACKED = 100_000_000  # bytes of a member beside three times what it takes packed
CHUNK = 65536  # members taken up together
HEAD_PACKED = 1 << 20  # bytes of a member without a suffix that are unpacked to see whether it is an image

FIELDS = np.dtype(
    [("offset", "u8"), ("packed", "u8"), ("size", "u8"), ("crc", "u4"), ("method", "u2"), ("flags", "u2")]
)


class ZipSource(ImageSource):
    """The images of an archive in name order; of a name that occurs twice the last one, as `zipfile` reads it.

    Raises UserError: it is no readable zip file.
    """

    def __init__(self, path: Path):
        table: list[np.ndarray] = []
        try:
            with open(path, "rb") as file:
                names = Names.of(_collected(entries(file), table))
            result = np.concatenate(table) if table else np.zeros(0, FIELDS)
            _check_apart(result)
        except (zipfile.BadZipFile, struct.error, EOFError, OverflowError) as error:
            raise UserError(f"{path} is no readable zip file ({error}): copy or download it again") from error
        self.path, self._file = path, OpenFile(path)
        self.names, self._table = names, result
        kept, ignored = sort_out(names, self._head)
        super().__init__(names.take(kept), ignored)
        self._table = self._table[kept]

    def _head(self, index: int) -> bytes:
        """The first bytes of a member; none of one that cannot be read."""
        try:
            return _unpacked(self._packed(index, HEAD_PACKED), int(self._table[index]["method"]), HEAD_BYTES)[
                :HEAD_BYTES
            ]
        except (OSError, RuntimeError, zipfile.BadZipFile):
            return b""

    def read_bytes(self, index: int) -> bytes:
        entry = self._table[index]
        size, packed = int(entry["size"]), int(entry["packed"])
        if size > 3 * packed + MOST_UNPACKED:
            raise OSError(f"it unpacks from {packed} to {size} bytes, as no image does")
        data = _unpacked(self._packed(index, packed), int(entry["method"]), size)
        if len(data) != size or zlib.crc32(data) != entry["crc"]:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self.names[index]!r}")
        return data

    def _packed(self, index: int, most: int) -> bytes:
        """The first bytes of a member as they lie in the archive."""
        entry = self._table[index]
        if entry["flags"] & ENCRYPTED:
            raise OSError("it is encrypted; unpack the archive with its password")
        head = LOCAL.unpack(self._file.read(int(entry["offset"]), LOCAL.size))
        if head[0] != b"PK\3\4":
            raise zipfile.BadZipFile("no member begins where the table of contents says")
        start = int(entry["offset"]) + LOCAL.size + head[-2] + head[-1]
        return self._file.read(start, min(int(entry["packed"]), most))

    @property
    def container(self) -> Path:
        return self.path.resolve()


def _unpacked(data: bytes, method: int, size: int) -> bytes:
    """A member's bytes, at most one more than `size`, whatever they would unpack to.

    Raises zipfile.BadZipFile: they are damaged. OSError: they are packed in a way that is not known here.
    """
    try:
        if method == STORED:
            return data
        if method == DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        if method == BZIP2:
            return bz2.BZ2Decompressor().decompress(data, size + 1)
        if method == LZMA:  # version, length of the properties, these, then the data (APPNOTE 5.8)
            _, length, numbers, dictionary = struct.unpack_from("<HHBL", data)
            numbers, lc = divmod(numbers, 9)
            pb, lp = divmod(numbers, 5)
            kept = max(min(dictionary, size), 4096)  # nothing refers to what lies before the first byte
            filters = [{"id": lzma.FILTER_LZMA1, "dict_size": kept, "lc": lc, "lp": lp, "pb": pb}]
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(data[4 + length :], size + 1)
    except (zlib.error, lzma.LZMAError, ValueError, EOFError, OSError, struct.error) as error:  # OSError: bz2's
        raise zipfile.BadZipFile(str(error)) from error
    raise OSError(f"its compression (method {method}) is not known here; pack the archive again")


def _check_apart(table: np.ndarray) -> None:
    """Refuse members that lie on one another, of which a small archive can have millions.

    Raises zipfile.BadZipFile: there are such.
    """
    fields = np.sort(table[["offset", "packed"]], order="offset")
    ends = fields["offset"] + fields["packed"] + np.uint64(LOCAL.size)
    if (fields["offset"][1:] < ends[:-1]).any() or (ends < fields["offset"]).any():
        raise zipfile.BadZipFile("its members overlap")


def is_zip(path: Path) -> bool:
    """Whether a file ends as an archive does, whatever it is called. (`zipfile.is_zipfile` raises for some.)"""
    try:
        with open(path, "rb") as file:
            _find_directory(file)
        return True
    except (OSError, zipfile.BadZipFile, struct.error):
        return False


def entries(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and FIELDS of the members in the order of the table of contents, folders left out.

    Raises zipfile.BadZipFile: there is no whole table of contents.
    """
    start, size, shift = _find_directory(file)
    file.seek(start)
    data = file.read(size)
    at = 0
    while at < size:
        if data[at : at + 4] != b"PK\1\2" or at + ENTRY.size > size:
            raise zipfile.BadZipFile("its table of contents is damaged")
        _, _, _, flags, method, _, _, crc, packed, unpacked, n, m, comment, *_, offset = ENTRY.unpack_from(data, at)
        at += ENTRY.size
        raw, extra = data[at : at + n], data[at + n : at + n + m]
        at += n + m + comment
        if IN_EXTRA_32 in (unpacked, packed, offset):
            unpacked, packed, offset = _long_numbers(extra, [unpacked, packed, offset])
        name = raw.decode("utf-8" if flags & UTF8 else "cp437", "replace").split("\0")[0]
        if not name.endswith("/"):
            yield name, (offset + shift, packed, unpacked, crc, method, flags)


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Where the table of contents begins, its bytes, and by how much places in it are too small.

    That is more than 0 where something stands before the archive (a program that unpacks it).
    """
    end = file.seek(0, os.SEEK_END)
    before = max(end - END.size - LONGEST_COMMENT, 0)
    file.seek(before)
    tail = file.read()
    at = tail.rfind(b"PK\5\6", 0, len(tail) - END.size + 4)
    while at >= 0 and at + END.size + END.unpack_from(tail, at)[-1] > len(tail):  # it stands in the comment
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise zipfile.BadZipFile("it has no end record")
    *_, size, offset, _ = END.unpack_from(tail, at)
    directory_end = before + at
    long_at = directory_end - LOCATOR64.size - END64.size
    if long_at >= 0:
        file.seek(long_at)
        both = file.read(END64.size + LOCATOR64.size)
        if both[END64.size :].startswith(b"PK\6\7") and both.startswith(b"PK\6\6"):
            *_, size, offset = END64.unpack_from(both)
            directory_end = long_at
    start = directory_end - size
    if start < offset:
        raise zipfile.BadZipFile("its table of contents is cut off")
    return start, size, start - offset


def _long_numbers(extra: bytes, numbers: list[int]) -> list[int]:
    """Size, packed size and place, those beyond 32 bits taken from the extra field number 1, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            result = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            return [next(result, number) if number == IN_EXTRA_32 else number for number in numbers]
        at += 4 + length
    return numbers


def _collected(result: Iterator[tuple[str, tuple[int, ...]]], table: list[np.ndarray]) -> Iterator[str]:
    """The names, while the fields go into arrays."""
    for chunk in iter(lambda: list(islice(result, CHUNK)), []):
        table.append(np.array([fields for _, fields in chunk], FIELDS))
        yield from (name for name, _ in chunk)
