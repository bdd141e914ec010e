"""Build networks whose every weight is filled from a file: the initial random numbers are not drawn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def skip_init() -> Iterator[None]:
    """Modules built inside keep whatever their memory holds where torch would draw random weights.

    Buffers and constants (filters, BatchNorm's statistics and counters) are computed as usual. For half a billion
    weights this saves many seconds.
    """
    with _WithoutDraws():
        yield


class _WithoutDraws(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        return func(*args, **kwargs)
