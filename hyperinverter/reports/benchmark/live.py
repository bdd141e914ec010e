"""How much memory tensors hold at every moment of a run, from their creation and their end.

The same counter works on real tensors and on fake ones that hold no numbers, so a training step of any size can be
budgeted on a laptop. It counts what tensors hold, in blocks of 512 bytes as PyTorch's CUDA allocator gives them out; a
GPU adds its context (about half a GiB), the workspaces of its convolution library and what its allocator cannot reuse.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BLOCK = 512  # bytes


class LiveMemory(TorchDispatchMode):
    """Bytes held by tensors that were made inside `with LiveMemory():`.

    Attributes:
        now: bytes held at this moment.
        peak: the largest of these so far; `start_peak` begins anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def start_peak(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        # the Python object of a storage lives as long as the storage does
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class SavedForBackward:
    """`bytes` that autograd keeps until the backward pass, each storage once, without those in `excluded`."""

    def __init__(self, excluded: set[int]) -> None:
        self.bytes = 0
        self._seen = set(excluded)

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor.detach()  # not the output itself, which would hold its own graph alive


@contextmanager
def kept_for_backward(parameters: Iterable[Tensor]) -> Iterator[SavedForBackward]:
    """Counts what the forward pass inside keeps for its backward pass, beside the parameters."""
    saved = SavedForBackward({parameter.untyped_storage()._cdata for parameter in parameters})
    with saved_tensors_hooks(saved.note, lambda tensor: tensor):
        yield saved
