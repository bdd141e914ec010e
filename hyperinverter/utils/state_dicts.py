"""Networks that are filled from a file: built without drawing weights, and whether its tensors are theirs.

One check, one message everywhere.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperinverter.utils.text import printable

COUNTERS = r".*\.num_batches_tracked"  # BatchNorm's bookkeeping, which some releases leave out, and of any type there
SHOWN, LONGEST = 3, 100


def misfits(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: str = COUNTERS, finite: bool = True
) -> str:
    """What keeps `state` from being the state of a network, in words; "" where it fits.

    Args:
        own: the network's; shapes without memory do.
        state: what it would be filled with.
        optional: regular expression of names that may be missing.
        finite: look for NaN and infinity too.
    """
    both = [name for name in own if name in state]
    faults = {
        "missing": [name for name in own if name not in state and not re.fullmatch(optional, name)],
        "not known": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in both
            if state[name].shape != own[name].shape
        ],
        "of another type": [
            f"{name} {_type(state[name])} for {_type(own[name])}"
            for name in both
            if state[name].is_complex()
            or (state[name].is_floating_point() != own[name].is_floating_point() and not re.fullmatch(COUNTERS, name))
        ],
        "with NaN or infinity": [name for name in both if finite and not is_finite(state[name])],
    }
    return "; ".join(f"{len(names)} {fault}: {shortened(names)}" for fault, names in faults.items() if names)


def is_finite(tensor: Tensor) -> bool:
    """Whether it holds neither NaN nor infinity; True of whole numbers."""
    inexact = tensor.is_floating_point() or tensor.is_complex()
    return not inexact or bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())


def shortened(names: list) -> str:
    """The first few of them, which may come out of a file."""
    shown = (printable(str(name), longest=LONGEST) for name in names[:SHOWN])
    return ", ".join(shown) + (", ..." if len(names) > SHOWN else "")


def outline(content: Any) -> str:
    """What a file holds, for a refusal: the first names of a mapping; of anything else its type."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [printable(str(name), longest=LONGEST) for name in content]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
