"""The table of contents of an LMDB file, `data.mdb`, read as any other file: every number in it is checked before use.

The lmdb package maps the file and follows what stands in it: a file that is cut short or damaged ends the process
(SIGBUS, SIGSEGV), which no program can catch. Reading needs little: the newest of two meta pages names the root of a
B+ tree; branch pages lead to leaf pages, whose nodes hold a key and either the value or the page where it begins.
Format: `lmdb.h` and `mdb.c` of LMDB 0.9 (OpenLDAP), MDB_page, MDB_node, MDB_meta, MDB_db; numbers are little-endian.
"""

import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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

    Raises:
        ValueError: it is no LMDB file, is cut short or damaged; says which.
        OSError: it cannot be read.
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
