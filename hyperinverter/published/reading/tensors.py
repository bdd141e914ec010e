"""Tensors of pickled checkpoints: views of bytes that lie in the file, or refused.

PyTorch's own rebuild functions enlarge a storage that is too small for what is declared. Formats: `torch/_utils.py`
(`_rebuild_*`), `torch/serialization.py`.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperinverter.published.reading.refusal import Budget, UnreadableFile, shown
from hyperinverter.published.reading.unpickler import Global

MOST_DIMENSIONS = 16
LARGEST_SIZE = 2**40  # of one dimension; keeps torch's own integers from overflowing
ALIGNED_BYTES = 16  # what vector instructions like

# the class that a file names for a storage -> type of its numbers; None: untyped bytes
STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": None,
    "_UntypedStorage": None,
}
DTYPES = (*filter(None, STORAGE_TYPES.values()), torch.uint16, torch.uint32, torch.uint64)


@dataclass(eq=False)
class StorageType:
    """The name of a storage class."""

    name: str
    dtype: torch.dtype | None

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize if self.dtype else 1


@dataclass(eq=False)
class Storage:
    """A run of numbers: `nbytes` from `start` on of the aligned bytes `raw` [n]."""

    kind: StorageType
    raw: Tensor
    start: int
    nbytes: int


def raw_tensor(data: memoryview | bytes, budget: Budget) -> Tensor:
    """Bytes [n]. A writable, aligned buffer is shared, any other is copied."""
    if not len(data):
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only buffers; those are copied below
        raw = torch.frombuffer(data, dtype=torch.uint8)
    if memoryview(data).readonly or raw.data_ptr() % ALIGNED_BYTES:
        budget.copy(len(data))
        return raw.clone()
    return raw


def whole(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < LARGEST_SIZE for value in values)


def checked_identity(identity: Any, length: int) -> tuple[StorageType, str, int]:
    """Type, name and count of numbers of a storage that a torch file refers to."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        kind = identity[0] if isinstance(identity, tuple) and identity else type(identity).__name__
        raise UnreadableFile(f"it refers to a {shown(kind)} outside its pickle, where only storages may lie")
    _, kind, name, _, numel = identity[:5]
    if not isinstance(kind, StorageType) or not isinstance(name, str) or not whole(numel):
        raise UnreadableFile("a storage in it is not told by type, name and count of numbers")
    return kind, name, numel


# ------------------------------------------------------------- what files call to rebuild tensors: arguments -> value


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise UnreadableFile(f"a tensor is made on a {type(storage).__name__} in place of a storage")
    dtype = dtype or storage.kind.dtype
    if not isinstance(dtype, torch.dtype):
        raise UnreadableFile("a tensor does not say what kind of numbers it holds")
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and whole(offset, *size, *stride)):
        raise UnreadableFile("a tensor's place in its storage is not told by whole numbers")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise UnreadableFile(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if 0 in size:
        return torch.empty(size, dtype=dtype)
    if storage.start % dtype.itemsize:
        raise UnreadableFile("a tensor's numbers begin between two numbers of its storage")
    reach = offset + 1 + sum((s - 1) * t for s, t in zip(size, stride, strict=True))
    there = storage.nbytes // dtype.itemsize
    if reach > there:
        raise UnreadableFile(f"a tensor of shape {size} reaches to number {reach} of a storage with {there}")
    numbers = storage.raw[: len(storage.raw) // dtype.itemsize * dtype.itemsize].view(dtype)
    return numbers.as_strided(size, stride, storage.start // dtype.itemsize + offset)


def rebuild_tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Tensor:
    """`more`: whether it needs a gradient, hooks, and perhaps marks."""
    _refuse_marks(more, 2)
    return rebuild_tensor(storage, offset, size, stride)


def rebuild_tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Tensor:
    """`more`: whether it needs a gradient, hooks, the type of its numbers, and perhaps marks."""
    _refuse_marks(more, 3)
    return rebuild_tensor(storage, offset, size, stride, more[2])


def _refuse_marks(more: tuple[Any, ...], usual: int) -> None:
    if len(more) not in (usual, usual + 1) or any(more[usual:]):
        raise UnreadableFile("a tensor is marked as conjugated or negated, which weights are not")


def rebuild_parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Tensor:
    """A parameter is read as its tensor; attributes that someone hung on it are left out."""
    if not isinstance(data, Tensor):
        raise UnreadableFile(f"a parameter is made of a {type(data).__name__}")
    return data


def rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """A tensor with attributes hung on it: the tensor alone."""
    if not isinstance(function, Global) or function.make not in REBUILD or not isinstance(arguments, tuple):
        raise UnreadableFile("a tensor is rebuilt by something else than torch's own functions")
    return function.make(*arguments)


REBUILD = (rebuild_tensor, rebuild_tensor_v2, rebuild_tensor_v3, rebuild_parameter)
