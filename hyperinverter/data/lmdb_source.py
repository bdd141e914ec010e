"""Images in an LMDB database: arbitrary keys, each value a whole image file.

Layouts: LSUN's (Yu et al., "LSUN: Construction of a Large-scale Image Dataset", arXiv:1506.03365, and its data.py: a
hash as the key, WebP), and rosinality's (stylegan2-pytorch, `prepare_data.py`: every photo in several sizes under
SIZE-NUMBER, and a key `length`). Others are read as LSUN's.

The lmdb package maps the file and follows what stands in it: a file that is cut short or damaged ends the process
(SIGBUS, SIGSEGV), which no program can catch. Reading needs little: the newest of two meta pages names the root of a
B+ tree; branch pages lead to leaf pages, whose nodes hold a key and either the value or the page where it begins.
Format: `lmdb.h` and `mdb.c` of LMDB 0.9 (OpenLDAP), MDB_page, MDB_node, MDB_meta, MDB_db; numbers are little-endian.
"""

import re
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hyperinverter.data.image_source import ImageSource, OpenFile
from hyperinverter.data.names import Names
from hyperinverter.data.other_files import LMDB_FILE
from hyperinverter.utils.errors import UserError

META = struct.Struct("<2I2Q")  # magic, version, address, size of the map
DATABASE = struct.Struct("<I2H5Q")  # pad, flags, depth, branch, leaf and overflow pages, entries, root
LAST = struct.Struct("<2Q")  # last page in use, number of the transaction
PAGE = struct.Struct("<Q4H")  # its number, pad, flags, end of the pointers, begin of the nodes
NODE = struct.Struct("<4H")  # size of the value (low, high) or page of a branch's child, flags, size of the key
MAGIC = 0xBEEFC0DE
BRANCH, LEAF, OVERFLOW, IS_META = 1, 2, 4, 8  # flags of a page
ELSEWHERE, SUBDATABASE, DUPLICATES = 1, 2, 4  # flags of a node: the value has pages of its own, or is no value
NO_ROOT = 2**64 - 1
PAGE_SIZES = [2**power for power in range(8, 17)]
DEEPEST = 32  # levels of the tree, LMDB's own limit

Read = Callable[[int, int], bytes]  # (first byte, how many) -> these bytes of the file


@dataclass
class Entries:
    """Where the values lie in the file; filled while `keys` is gone through."""

    starts: array = field(default_factory=lambda: array("q"))
    sizes: array = field(default_factory=lambda: array("q"))


def keys(read: Read, file_bytes: int, entries: Entries) -> Iterator[bytes]:
    """The keys of the main database in order, while `entries` takes up where each value lies.

    Raises ValueError: it is no LMDB file, is cut short or damaged; says which. OSError: it cannot be read.
    """
    page_bytes, root, last = _newest_meta(read, file_bytes)
    if (last + 1) * page_bytes > file_bytes:
        raise ValueError(f"it is cut short: {file_bytes} bytes of {(last + 1) * page_bytes}")
    if root == NO_ROOT:
        return
    seen = bytearray(last + 1)  # a page that leads back would never end
    stack = [(root, 1)]
    while stack:
        number, depth = stack.pop()
        if not 2 <= number <= last or seen[number] or depth > DEEPEST:
            raise ValueError(f"its tree of pages is damaged (page {number})")
        seen[number] = 1
        page = read(number * page_bytes, page_bytes)
        own_number, _, flags, lower, upper = PAGE.unpack_from(page)
        if own_number != number or flags not in (BRANCH, LEAF) or not PAGE.size <= lower <= upper <= page_bytes:
            raise ValueError(f"its page {number} is damaged")
        places = struct.unpack_from(f"<{(lower - PAGE.size) // 2}H", page, PAGE.size)
        try:
            if flags == BRANCH:
                stack += [(_child(page, at), depth + 1) for at in reversed(places)]
            else:
                for at in places:
                    key, start, size = _value(page, at, number * page_bytes, page_bytes)
                    if start + size > file_bytes:
                        raise ValueError("a value lies beyond its end")
                    entries.starts.append(start)
                    entries.sizes.append(size)
                    yield key
        except struct.error as error:  # a node that begins beyond its page
            raise ValueError(f"its page {number} is damaged") from error


def _newest_meta(read: Read, file_bytes: int) -> tuple[int, int, int]:
    """Bytes of a page, page of the root, last page."""
    size = PAGE.size + META.size + 2 * DATABASE.size + LAST.size
    if file_bytes < size:
        raise ValueError(f"it is cut short: {file_bytes} bytes")
    result = []
    page_bytes = 0
    for number in (0, 1):
        start = number * page_bytes
        if start + size > file_bytes:
            break
        head = read(start, size)
        _, _, flags, _, _ = PAGE.unpack_from(head)
        magic, version, _, _ = META.unpack_from(head, PAGE.size)
        free, main = (DATABASE.unpack_from(head, PAGE.size + META.size + i * DATABASE.size) for i in (0, 1))
        last, transaction = LAST.unpack_from(head, size - LAST.size)
        if magic != MAGIC or not flags & IS_META or free[0] not in PAGE_SIZES:
            if number:
                break
            raise ValueError("it does not begin as an LMDB file does")
        if version != 1:
            raise ValueError(f"it is of version {version} of the format; 1 is read here")
        page_bytes = free[0]
        result.append((transaction, page_bytes, main[-1], last))
    return max(result)[1:]


def _child(page: bytes, at: int) -> int:
    low, high, flags, _ = NODE.unpack_from(page, at)
    return low | high << 16 | flags << 32


def _value(page: bytes, at: int, page_start: int, page_bytes: int) -> tuple[bytes, int, int]:
    """Key, first byte of the value in the file, its bytes."""
    low, high, flags, key_bytes = NODE.unpack_from(page, at)
    size, begin = low | high << 16, at + NODE.size + key_bytes
    if flags & (SUBDATABASE | DUPLICATES):
        raise ValueError("it holds databases or lists inside its entries, which no data set of images does")
    if flags & ELSEWHERE:
        (number,) = struct.unpack_from("<Q", page, begin)
        start = number * page_bytes + PAGE.size
    else:
        start = page_start + begin
        if begin + size > page_bytes:
            raise ValueError("a value leaves its page")
    if begin > page_bytes:
        raise ValueError("a key leaves its page")
    return page[at + NODE.size : begin], start, size


BOOKKEEPING = (b"length", b"__len__", b"__keys__", b"keys", b"num-samples", b"meta_info")  # of several projects
SIZE_NUMBER = re.compile(rb"(\d{1,5})-(\d+)")


class LmdbSource(ImageSource):
    """The images of one database, in key order. Keys and the places of values are held in memory, in three blocks.

    Args:
        path: the folder that holds data.mdb, or a database that is one file.
        resolution: of photos that are there in several sizes the smallest at least this large is read, else the
            largest; None: the largest. A photo's name is then its number, which is the same in every size.
    Raises:
        UserError: there is no readable database.
    """

    def __init__(self, path: Path, resolution: int | None = None):
        self.path, entries = str(path.resolve()), Entries()
        file = path / LMDB_FILE if path.is_dir() else path
        self._file = OpenFile(file)
        try:
            result = Names.of(keys(self._file.read, file.stat().st_size, entries))
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is no readable LMDB database ({error}): unpack or download it again") from error
        prefix, shown = b"", _name_of
        if sizes := _sizes(result):
            large_enough = [size for size in sizes if resolution is not None and size >= resolution]
            prefix, shown = b"%d-" % min(large_enough, default=max(sizes)), _number_of
        raw = map(result.raw, range(len(result)))
        kept = np.flatnonzero([key.startswith(prefix) and key not in BOOKKEEPING for key in raw])
        super().__init__(Names.of(map(result.raw, kept), shown=shown))
        self._starts, self._sizes = (np.array(part, np.int64)[kept] for part in (entries.starts, entries.sizes))

    def read_bytes(self, index: int) -> bytes:
        return self._file.read(int(self._starts[index]), int(self._sizes[index]))

    @property
    def container(self) -> Path:
        return Path(self.path)


def _sizes(names: Names) -> set[int]:
    """Sizes in which rosinality's layout holds its photos; none: it is another layout.

    Where the run that wrote it was stopped there is no `length` yet; sizes that are powers of two tell it then.
    """
    sizes, is_complete = set(), False
    for key in map(names.raw, range(len(names))):
        match = SIZE_NUMBER.fullmatch(key)
        if match:
            sizes.add(int(match[1]))
        elif key not in BOOKKEEPING:
            return set()
        is_complete |= key == b"length"
    return sizes if is_complete or all(size >= 8 and size & (size - 1) == 0 for size in sizes) else set()


def _number_of(key: bytes) -> str:
    return key.partition(b"-")[2].decode("ascii")


def _name_of(key: bytes) -> str:
    """LSUN's keys are hexadecimal text; other bytes are shown as hexadecimal."""
    text = key.decode("ascii", errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else key.hex()
