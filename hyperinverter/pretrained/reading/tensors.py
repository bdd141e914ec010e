"""Tensors of pickled checkpoints: described first, made from the file's bytes only when all of it is known to fit.

PyTorch's own rebuild functions enlarge a storage that is too small for what is declared. Here a tensor is a view of
bytes that lie in the file, or it is refused. Formats: `torch/_utils.py` (`_rebuild_*`), `torch/serialization.py`.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperinverter.pretrained.reading.refusal import Refused
from hyperinverter.pretrained.reading.values import Budget, Global

MOST_DIMENSIONS = 16
LARGEST_SIZE = 2**40  # of one dimension; keeps torch's own integers from overflowing
ALIGNED_BYTES = 16  # what vector instructions like

# the class that a file names for a storage -> type of its numbers
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
}
DTYPES = (*STORAGE_TYPES.values(), torch.uint16, torch.uint32, torch.uint64)


@dataclass(eq=False)
class StorageType:
    """The name of a storage class; `dtype` is None for untyped bytes."""

    name: str
    dtype: torch.dtype | None


@dataclass(eq=False)
class Storage:
    """A run of numbers in the file.

    Attributes:
        dtype: None for untyped bytes.
        numel: numbers (untyped: bytes) that the file declares.
        data: its bytes; None until the file has shown them.
    """

    dtype: torch.dtype | None
    numel: int
    data: memoryview | bytes | None = None
    _numbers: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.numel * (1 if self.dtype is None else self.dtype.itemsize)

    def give(self, data: memoryview | bytes) -> None:
        """The bytes that lie in the file for it."""
        if len(data) != self.nbytes:
            raise Refused(f"a storage declares {self.nbytes} bytes, the file holds {len(data)} for it")
        self.data = data

    def numbers(self, dtype: torch.dtype, budget: Budget) -> Tensor:
        """All of them [numel], sharing the file's bytes where these are aligned."""
        if dtype not in self._numbers:
            if self.data is None:
                raise Refused("a tensor's numbers are not in the file")
            self._numbers[dtype] = tensor_from_bytes(self.data, dtype, budget)
        return self._numbers[dtype]


def tensor_from_bytes(data: memoryview | bytes, dtype: torch.dtype, budget: Budget) -> Tensor:
    """Little-endian numbers [n]. A writable, aligned buffer is shared, any other is copied."""
    if len(data) % dtype.itemsize:
        raise Refused(f"{len(data)} bytes are no whole number of {str(dtype).removeprefix('torch.')} values")
    if not len(data):
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only buffers; those are copied below
        raw = torch.frombuffer(data, dtype=torch.uint8)
    if memoryview(data).readonly or raw.data_ptr() % ALIGNED_BYTES:
        budget.copy(len(data))
        raw = raw.clone()
    if dtype == torch.bool and bool((raw > 1).any()):
        raise Refused("a tensor of truth values holds other bytes than 0 and 1")
    return raw.view(dtype)


@dataclass(eq=False)
class LazyTensor:
    """A tensor as the file describes it: sizes and strides in numbers of its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if not (whole(self.offset) and whole(*self.size) and whole(*self.stride)):
            raise Refused("a tensor's place in its storage is not told by whole numbers")
        if len(self.size) != len(self.stride) or len(self.size) > MOST_DIMENSIONS:
            raise Refused(f"a tensor has {len(self.size)} sizes and {len(self.stride)} strides")
        reach = self.offset + 1 + sum((s - 1) * t for s, t in zip(self.size, self.stride, strict=True))
        there = self.storage.nbytes // self.dtype.itemsize
        if 0 not in self.size and reach > there:
            raise Refused(f"a tensor of shape {self.size} reaches to number {reach} of a storage with {there}")

    @property
    def nbytes(self) -> int:
        """As a copy of its own would take."""
        count = self.dtype.itemsize
        for size in self.size:
            count *= size
        return count

    def make(self, budget: Budget) -> Tensor:
        if 0 in self.size:
            return torch.empty(self.size, dtype=self.dtype)
        return self.storage.numbers(self.dtype, budget).as_strided(self.size, self.stride, self.offset)


def whole(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < LARGEST_SIZE for value in values)


# ------------------------------------------------- what files call to rebuild tensors: (budget, *arguments) -> value


def _described(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> LazyTensor:
    if not isinstance(storage, Storage):
        raise Refused(f"a tensor is made on a {type(storage).__name__} in place of a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise Refused("a tensor's sizes or strides are no tuple")
    dtype = dtype or storage.dtype
    if not isinstance(dtype, torch.dtype):
        raise Refused("a tensor does not say what kind of numbers it holds")
    return LazyTensor(storage, offset, size, stride, dtype)


def rebuild_tensor(budget: Budget, storage: Any, offset: Any, size: Any, stride: Any) -> LazyTensor:
    return _described(storage, offset, size, stride)


def rebuild_tensor_v2(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> LazyTensor:
    if metadata:
        raise Refused("a tensor is marked as conjugated or negated, which weights are not")
    return _described(storage, offset, size, stride)


def rebuild_tensor_v3(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> LazyTensor:
    if metadata:
        raise Refused("a tensor is marked as conjugated or negated, which weights are not")
    return _described(storage, offset, size, stride, dtype)


def rebuild_parameter(budget: Budget, data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> LazyTensor:
    """A parameter is read as its tensor; attributes that someone hung on it are left out."""
    if not isinstance(data, LazyTensor):
        raise Refused(f"a parameter is made of a {type(data).__name__}")
    return data


def rebuild_from_type(budget: Budget, function: Any, kind: Any, arguments: Any, state: Any) -> LazyTensor:
    """A tensor with attributes hung on it: the tensor alone."""
    if not isinstance(function, Global) or function.make not in REBUILD or not isinstance(arguments, tuple):
        raise Refused("a tensor is rebuilt by something else than torch's own functions")
    return function.make(budget, *arguments)


REBUILD = (rebuild_tensor, rebuild_tensor_v2, rebuild_tensor_v3, rebuild_parameter)
