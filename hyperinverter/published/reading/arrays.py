"""NumPy's arrays, scalars and .npy files as tensors and plain numbers, without NumPy's own unpickling.

Formats: `numpy/lib/format.py` (.npy 1.0 to 3.0), `ndarray.__reduce__` and `dtype.__reduce__`.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from hyperinverter.published.reading.refusal import Budget, UnreadableFile, cut_short, shown
from hyperinverter.published.reading.tensors import MOST_DIMENSIONS, raw_tensor, whole
from hyperinverter.published.reading.unpickler import Buildable

NPY_MAGIC = b"\x93NUMPY"
LONGEST_HEADER_BYTES = 65536
KNOWN_TYPES = re.compile(r"(b1|\?|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,3}|O8?)")


class NumpyType(Buildable):
    """A dtype: kind and size as "f4", order as "<", ">" or "|"."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or not KNOWN_TYPES.fullmatch(code):
            message = f"a NumPy array in it holds numbers of type {shown(code)!r}"
            raise UnreadableFile(message, "save it again as float32 numbers")
        self.code, self.order = code, "<"

    @property
    def is_object(self) -> bool:
        """Whether it is of anything, as np.save of a dict is: a pickle in the place of numbers."""
        return self.code.startswith("O")

    @classmethod
    def parse(cls, text: str) -> "NumpyType":
        """From the form in a .npy header: "<f4"."""
        parsed = cls(text.lstrip("<>|="))
        parsed.order = ">" if text.startswith(">") else "<"
        return parsed

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise UnreadableFile("a NumPy type in it has fields", "save the numbers as a plain float32 array")
        if state[1] not in ("<", ">", "|", "="):
            raise UnreadableFile("a NumPy type in it has no known byte order")
        self.order = state[1]

    @property
    def numpy(self) -> np.dtype:
        return np.dtype((">" if self.order == ">" else "<") + self.code)


def array_content(data: memoryview | bytes, kind: NumpyType, shape: Any, fortran: bool, budget: Budget) -> Any:
    """Numbers as a tensor of that shape, text as nested lists.

    Raises UnreadableFile: the bytes are not as many as type and shape say.
    """
    if not isinstance(shape, tuple) or not whole(*shape) or len(shape) > MOST_DIMENSIONS:
        raise UnreadableFile("a NumPy array in it has no proper shape")
    dtype, count = kind.numpy, math.prod(shape)
    if count * dtype.itemsize != len(data):
        raise cut_short(
            f"an array of shape {shape} and type {kind.code} has {count * dtype.itemsize} bytes, {len(data)} are there"
        )
    if dtype.kind in "SU":
        budget.spend(sum(math.prod(shape[:depth]) for depth in range(1, len(shape) + 1)))  # lists in lists, empty too
        budget.copy(len(data))
        return np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran else "C").tolist()
    native = dtype.newbyteorder("<")
    if native != dtype:
        budget.copy(len(data))
        data = np.frombuffer(data, dtype).astype(native).tobytes()
    numbers = raw_tensor(data, budget).view(torch.from_numpy(np.empty(0, native)).dtype)
    if fortran and len(shape) > 1:
        return numbers.reshape(shape[::-1]).permute(*range(len(shape) - 1, -1, -1))
    return numbers.reshape(shape)


def object_content(items: Any, shape: Any, fortran: bool, budget: Budget) -> Any:
    """What an array of anything holds: nested lists, or of one without dimensions its one item.

    Raises UnreadableFile: the items are not as many as the shape says.
    """
    if not isinstance(shape, tuple) or not whole(*shape) or len(shape) > MOST_DIMENSIONS:
        raise UnreadableFile("a NumPy array in it has no proper shape")
    if not isinstance(items, list) or math.prod(shape) != len(items):
        raise UnreadableFile("a NumPy array of objects in it is not stored as NumPy stores arrays")
    if fortran and len(shape) > 1:
        raise UnreadableFile("a NumPy array of objects in it is stored by columns", "save it as float32 numbers")
    if shape and not items:
        return []
    budget.spend(sum(math.prod(shape[:depth]) for depth in range(1, len(shape) + 1)))
    for size in shape[:0:-1]:
        items = [items[start : start + size] for start in range(0, len(items), size)]
    return items if shape else items[0]


def npy_content(data: memoryview, budget: Budget, unpickled: Callable[[memoryview], Any]) -> Any:
    """The array of a .npy file; one of objects by `unpickled`, of the bytes behind the header."""
    if bytes(data[:6]) != NPY_MAGIC or len(data) < 10:
        raise UnreadableFile("it is no .npy array")
    wide = data[6] > 1
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    if length > LONGEST_HEADER_BYTES or start + length > len(data):
        raise cut_short(f"its header should have {length} bytes")
    header = bytes(data[start : start + length]).decode("latin-1")
    kind = re.search(r"""['"]descr['"]\s*:\s*['"]([^'"]{1,8})['"]""", header)
    order = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)""", header)
    shape = re.search(r"""['"]shape['"]\s*:\s*\(([\d\s,]*)\)""", header)
    if not (kind and order and shape):
        raise UnreadableFile("its .npy header does not tell type, order and shape of one plain array")
    sizes = tuple(int(size) for size in re.findall(r"\d{1,18}", shape[1]))
    result = NumpyType.parse(kind[1])
    if result.is_object:
        return unpickled(data[start + length :])
    return array_content(data[start + length :], result, sizes, order[1] == "True", budget)


# ------------------------------------------------------------- what pickles call to rebuild arrays: arguments -> value


class NumpyArray(Buildable):
    """An array whose content arrives in a second step; None until then."""

    parts: tuple[Any, ...] | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyType):
            raise UnreadableFile("a NumPy array in it is not stored as NumPy stores arrays")
        _, shape, kind, fortran, data = state
        self.parts = data if kind.is_object else raw_bytes(data), kind, shape, fortran is True

    def content(self, budget: Budget) -> Any:
        """A tensor, or nested lists of text or of other values."""
        assert self.parts is not None
        data, kind, shape, fortran = self.parts
        make = object_content if kind.is_object else partial(array_content, kind=kind)
        return make(data, shape=shape, fortran=fortran, budget=budget)


def raw_bytes(data: Any) -> memoryview | bytes:
    if isinstance(data, str):  # written by Python 2
        return data.encode("latin-1")
    if not isinstance(data, memoryview | bytes):
        raise UnreadableFile(f"a NumPy value in it is stored as a {type(data).__name__} in place of bytes")
    return data


def make_scalar(kind: Any, data: Any = b"") -> Any:
    """A NumPy number as a Python number."""
    if not isinstance(kind, NumpyType) or kind.is_object:
        raise UnreadableFile("a NumPy number in it has no type")
    value = array_content(raw_bytes(data), kind, (1,), False, Budget())[0]
    return value.item() if isinstance(value, torch.Tensor) else value


def array_from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> NumpyArray:
    """Pickle protocol 5's form of an array."""
    if not isinstance(kind, NumpyType) or kind.is_object:
        raise UnreadableFile("a NumPy array in it has no type")
    array = NumpyArray()
    array.parts = raw_bytes(data), kind, shape, order == "F"
    return array
