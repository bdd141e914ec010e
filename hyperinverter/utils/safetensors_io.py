"""The .safetensors container: read without mapping the file or believing what it declares, written alike every time.

The safetensors library maps a file (a file that is cut while it is mapped ends the process), parses a header of any
cost before it looks at it, writes metadata in another order each time, and tells of a full disk in words only. The
format is short: 8 bytes for the length of a JSON head (little-endian), the head, the tensors one after the other.
Format: https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from hyperinverter.utils.files import write_atomically

# In the library's order, by which it sorts tensors (the last first): equal content is an equal file, whoever wrote it.
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "C64": torch.complex64,
    "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip
CODES = {dtype: (number, code) for number, (code, dtype) in enumerate(DTYPES.items())}
METADATA = "__metadata__"
MOST_TENSORS = 100_000
MOST_DIMENSIONS, MOST_NUMBERS = 16, 2**48  # of one tensor
SPARE_BYTES = 200_000_000  # beside three times the file
HEAD_TAKES = 25  # bytes of Python objects for a byte of JSON, at worst


@dataclass(frozen=True)
class Place:
    """One tensor as the head describes it: checked against the file's size."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    end: int


@dataclass
class Head:
    metadata: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)


def read_head(file: BinaryIO) -> Head:
    """The head of an open file, which is left behind it.

    Raises ValueError: it is no .safetensors file, is cut short, or declares what it does not hold; says which.
    """
    size = os.fstat(file.fileno()).st_size
    return parse_head(file.read(8), size, file.read)


def parse_head(length_field: bytes, size: int, read: Callable[[int], bytes]) -> Head:
    """The head of a file of `size` bytes; `read(n)` gives its next n bytes. Raises as `read_head`."""
    length = int.from_bytes(length_field, "little")
    if len(length_field) < 8 or 8 + length > size:
        raise ValueError(f"it is cut short: its header should have {length} bytes, {max(size - 8, 0)} follow")
    if length > (2 * size + SPARE_BYTES) // HEAD_TAKES:
        raise ValueError(f"its header has {length} bytes, more than any file of {size} bytes needs")
    text = read(length)
    if len(text) < length:
        raise ValueError("it is cut short: it ends inside its header")
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("its header is nested without end") from None
    except ValueError as error:  # no JSON, no UTF-8, a name that stands twice
        raise ValueError(f"its header cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError("its header is no list of tensors")
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata is not made of texts")
    if len(content) > MOST_TENSORS:
        raise ValueError(f"it lists {len(content)} tensors, more than any network has")
    places = {name: _place(name, entry, 8 + length) for name, entry in content.items()}
    at = 8 + length
    for place in sorted(places.values(), key=lambda place: (place.begin, place.end)):
        if place.begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = place.end
    if at != size:
        what = "is cut short" if at > size else "goes on behind its tensors"
        raise ValueError(f"it {what}: its tensors end at byte {at} of {size}")
    return Head(metadata, places)


def read_tensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors; every tensor has a memory of its own. Memory: the file's size, and the head's objects.

    Raises OSError: the file cannot be read. ValueError: as `read_head`.
    """
    with open(path, "rb") as file:
        head = read_head(file)
        tensors = {}
        for name, place in sorted(head.places.items(), key=lambda item: item[1].begin):
            data = bytearray(place.end - place.begin)
            if file.readinto(data) < len(data):
                raise ValueError("it became shorter while it was read")
            tensors[name] = tensor_of(data, place)
    return head.metadata, {name: tensors[name] for name in head.places}


def tensor_of(data: bytearray | memoryview, place: Place) -> Tensor:
    """The tensor in exactly these bytes, which it goes on using."""
    if not len(data):
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(data, dtype=place.dtype).reshape(place.shape)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file atomically; the same tensors and metadata give the same bytes.

    Raises:
        OSError: it cannot be written; `filename` is the path, an earlier file is whole.
        ValueError: a tensor of a type that the format has no name for.
    """
    assert sys.byteorder == "little", "the format is little-endian"
    if foreign := [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in CODES]:
        raise ValueError(f"a .safetensors file holds no such numbers: {', '.join(foreign[:3])}")
    order = sorted(tensors, key=lambda name: (-CODES[tensors[name].dtype][0], name))
    head: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name in order:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        head[name] = {"dtype": CODES[tensor.dtype][1], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(math.ceil(len(text) / 8) * 8)  # numbers begin at a multiple of 8
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)


def _place(name: str, entry: object, start: int) -> Place:
    message = f"its tensor {name[:80]!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{message} is described otherwise than by dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(f"{message} is of an unknown type")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and len(shape) <= MOST_DIMENSIONS):
        raise ValueError(f"{message} has a shape or a place that is none")
    dtype = DTYPES[entry["dtype"]]
    declared = math.prod(shape) * dtype.itemsize
    if math.prod(max(n, 1) for n in shape) > MOST_NUMBERS or offsets[1] - offsets[0] != declared:
        raise ValueError(f"{message} declares another size than its bytes have")
    return Place(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n <= MOST_NUMBERS for n in values)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name stands twice")
    return result
