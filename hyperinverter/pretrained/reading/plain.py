"""From what the pickle machine made to plain types and tensors, with a bound on how large that is when written out.

A few bytes can describe a structure that holds itself, or one that doubles at every level. So the content is walked
once, each shared part is converted once, and its size counts wherever it appears.
"""

from typing import Any

import torch
from torch import Tensor

from hyperinverter.pretrained.reading.arrays import NumpyArray
from hyperinverter.pretrained.reading.nvidia_pkl import Network, NetworkStub
from hyperinverter.pretrained.reading.refusal import Refused
from hyperinverter.pretrained.reading.tensors import LazyTensor
from hyperinverter.pretrained.reading.values import SPARE_BYTES, Budget, Global

DEEPEST = 100  # levels; a published network has about 20
MOST_VALUES = 2_000_000
LARGER_THAN_FILE = 4  # tensors that share numbers count each for itself


class Plain:
    """Converts the content of one file of `file_bytes`; `networks` counts the networks in it."""

    def __init__(self, file_bytes: int, budget: Budget) -> None:
        self.budget = budget
        self.most_bytes = LARGER_THAN_FILE * file_bytes + SPARE_BYTES
        self.networks = 0
        self._done: dict[int, tuple[Any, int, int]] = {}
        self._open: set[int] = set()
        self._kept: list[Any] = []  # an id stays a value's own only while the value lives

    def convert(self, value: Any) -> Any:
        """Plain types, tensors and NetworkStubs.

        Raises:
            Refused: too deep, too large, or a value that has no plain form.
        """
        return self._convert(value, 0)[0]

    def _convert(self, value: Any, depth: int) -> tuple[Any, int, int]:
        """The plain value, how many values it holds, how many bytes."""
        if value is None or isinstance(value, bool | int | float | complex | torch.dtype):
            return value, 1, 0
        if isinstance(value, str):
            return value, 1, len(value)
        if id(value) in self._done:
            return self._done[id(value)]
        if depth > DEEPEST or id(value) in self._open:
            raise Refused(f"its content is nested more than {DEEPEST} levels deep")
        self._open.add(id(value))
        result = self._composed(value, depth)
        if result[1] > MOST_VALUES or result[2] > self.most_bytes:
            raise Refused("its content, written out, is many times as large as the file")
        self._open.remove(id(value))
        self._kept.append(value)
        self._done[id(value)] = result
        return result

    def _composed(self, value: Any, depth: int) -> tuple[Any, int, int]:
        if isinstance(value, bytes | memoryview):
            self.budget.copy(len(value))
            return bytes(value), 1, len(value)
        if isinstance(value, LazyTensor):
            return value.make(self.budget), 1, value.nbytes
        if isinstance(value, Tensor):
            return value, 1, value.nbytes
        if isinstance(value, dict):
            values, count, size = self._all(value.values(), depth)
            size += sum(len(key) for key in value if isinstance(key, str | bytes))
            return dict(zip(value, values, strict=True)), count, size
        if isinstance(value, list | tuple):
            values, count, size = self._all(value, depth)
            return (values if isinstance(value, list) else tuple(values)), count, size
        if isinstance(value, set | frozenset):
            return set(value), 1 + len(value), sum(len(item) for item in value if isinstance(item, str | bytes))
        if isinstance(value, NumpyArray) and value.content is not None:
            return self._convert(value.content, depth + 1)
        if isinstance(value, Network):
            return self._network(value, depth)
        name = value.name if isinstance(value, Global) else type(value).__name__
        raise Refused(f"it holds {name} as a value, which is neither a tensor nor a plain type")

    def _all(self, values: Any, depth: int) -> tuple[list[Any], int, int]:
        made, count, size = [], 1, 0
        for value in values:
            plain, values_in_it, bytes_in_it = self._convert(value, depth + 1)
            made.append(plain)
            count, size = count + values_in_it, size + bytes_in_it
        return made, count, size

    def _network(self, network: Network, depth: int) -> tuple[NetworkStub, int, int]:
        self.networks += 1
        described = [network.class_name, network.init_kwargs, network.init_args, network.tensors(self.budget)]
        (name, kwargs, arguments, state), count, size = self._all(described, depth)
        strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if strangers:
            raise Refused(f"{strangers[0]} of its {name} is no tensor")
        return NetworkStub(name, kwargs, state, list(arguments)), count, size
