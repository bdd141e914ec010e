"""From what the pickle reader made to plain types and tensors, with a bound on how large that is when written out.

A few bytes can describe a structure that holds itself, or one that doubles at every level. So the content is walked
once, each shared part is converted once, and its size counts wherever it appears. Tensors that share a storage share
its memory too: that counts once, and their sizes by themselves have a bound of their own, since a reader may copy each.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperinverter.published.reading.arrays import NumpyArray
from hyperinverter.published.reading.nvidia_pkl import NetworkStub, PickledNetwork
from hyperinverter.published.reading.refusal import SPARE_BYTES, Budget, UnreadableFile
from hyperinverter.published.reading.unpickler import Global

DEEPEST = 100  # levels; a published network has about 20
MOST_VALUES = 2_000_000
LARGER_THAN_FILE = 4  # in memory: numbers that several tensors share are taken once
REPEATED = 64  # every name's tensor written out by itself; HyperStyle stores a hypernetwork once and names it ten times


class _Made(NamedTuple):
    """A plain value, how many values it holds, and their bytes when written out: of text and of tensors."""

    value: Any
    count: int = 1
    text: int = 0
    numbers: int = 0


class Plain:
    """Converts the content of one file of `file_bytes`; `networks` counts the networks in it."""

    def __init__(self, file_bytes: int, budget: Budget) -> None:
        self.budget = budget
        self.most_bytes = LARGER_THAN_FILE * file_bytes + SPARE_BYTES
        self.networks = 0
        self._taken: dict[int, int] = {}  # storage -> bytes of its largest tensor
        self._taken_bytes = 0  # sum of these
        self._done: dict[int, _Made] = {}
        self._open: set[int] = set()
        self._kept: list[Any] = []  # an id stays a value's own only while the value lives

    def convert(self, value: Any) -> Any:
        """Plain types, tensors and NetworkStubs.

        Raises UnreadableFile: too deep, too large, or a value that has no plain form.
        """
        return self._convert(value, 0).value

    def _convert(self, value: Any, depth: int) -> _Made:
        if value is None or isinstance(value, bool | int | float | complex | torch.dtype):
            return _Made(value)
        if isinstance(value, str):
            return _Made(value, text=len(value))
        if id(value) in self._done:
            return self._done[id(value)]
        if depth > DEEPEST or id(value) in self._open:
            raise UnreadableFile(f"its content is nested more than {DEEPEST} levels deep")
        self._open.add(id(value))
        made = self._composed(value, depth)
        repeated_bytes = self.most_bytes * REPEATED // LARGER_THAN_FILE
        if made.count > MOST_VALUES or made.text > self.most_bytes or made.numbers > repeated_bytes:
            raise UnreadableFile("its content, written out, is many times as large as the file")
        self._open.remove(id(value))
        self._kept.append(value)
        self._done[id(value)] = made
        return made

    def _composed(self, value: Any, depth: int) -> _Made:
        if isinstance(value, bytes | memoryview):
            self.budget.copy(len(value))
            return _Made(bytes(value), text=len(value))
        if isinstance(value, Tensor):
            self._take(value)
            return _Made(value, numbers=value.nbytes)
        if isinstance(value, dict):
            made = self._all(value.values(), depth)
            keys = sum(len(key) for key in value if isinstance(key, str | bytes))
            return made._replace(value=dict(zip(value, made.value, strict=True)), text=made.text + keys)
        if isinstance(value, list | tuple):
            made = self._all(value, depth)
            return made if isinstance(value, list) else made._replace(value=tuple(made.value))
        if isinstance(value, set | frozenset):
            text = sum(len(item) for item in value if isinstance(item, str | bytes))
            return _Made(set(value), 1 + len(value), text)
        if isinstance(value, NumpyArray) and value.parts is not None:
            return self._convert(value.content(self.budget), depth + 1)
        if isinstance(value, PickledNetwork):
            return self._network(value, depth)
        name = value.name if isinstance(value, Global) else type(value).__name__
        raise UnreadableFile(f"it holds {name} as a value, which is neither a tensor nor a plain type")

    def _take(self, tensor: Tensor) -> None:
        """Count a tensor's memory; of those that share a storage the largest counts for all."""
        storage = tensor.untyped_storage().data_ptr()
        more = max(tensor.nbytes - self._taken.get(storage, 0), 0)
        self._taken[storage] = self._taken.get(storage, 0) + more
        self._taken_bytes += more
        if self._taken_bytes > self.most_bytes:
            raise UnreadableFile("its tensors take many times as much memory as the file")
        if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise UnreadableFile("a tensor of truth values holds other bytes than 0 and 1")

    def _all(self, values: Any, depth: int) -> _Made:
        """Of all of them; the value is the list of theirs."""
        made = [self._convert(value, depth + 1) for value in values]
        count, text, numbers = (sum(getattr(one, name) for one in made) for name in ("count", "text", "numbers"))
        return _Made([one.value for one in made], 1 + count, text, numbers)

    def _network(self, network: PickledNetwork, depth: int) -> _Made:
        self.networks += 1
        described = [network.class_name, network.init_kwargs, network.init_args, network.tensors(self.budget)]
        made = self._all(described, depth)
        name, kwargs, arguments, state = made.value
        strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if strangers:
            raise UnreadableFile(f"{strangers[0]} of its {name} is no tensor")
        return made._replace(value=NetworkStub(name, kwargs, state, list(arguments)))
