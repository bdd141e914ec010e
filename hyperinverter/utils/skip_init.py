"""Build networks without drawing initial weights: to fill them all from a file, or for their shapes alone."""

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
    with _WithoutDraws({}):
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built inside are on the device meta: they take no memory and no time."""
    with torch.device("meta"), _WithoutDraws({"device": "meta"}):
        yield


class _WithoutDraws(TorchFunctionMode):
    def __init__(self, place: dict[str, str]) -> None:
        super().__init__()
        self.place = place

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if func is Tensor.div and args[0].is_meta:  # any arithmetic on meta first imports torch's compiler (seconds)
            return args[0]
        if func is torch.randn:
            return torch.empty(*args, **kwargs | self.place)
        if func is torch.tensor and self.place:  # constants such as filter taps are few: compute with them for real
            return func(*args, **{"device": "cpu", **kwargs})
        return func(*args, **kwargs)
