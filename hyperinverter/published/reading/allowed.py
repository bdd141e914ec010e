"""The names that a pickled checkpoint may use, and what each stands for here. Everything else is refused by its name.

Each entry is a constructor of this folder that checks its arguments and makes an inert value, or a constant. Beyond
tensors it holds what training scripts of published repositories put beside their weights: argparse.Namespace, EasyDict,
NumPy scalars and arrays, collections, paths.
"""

from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from hyperinverter.published.reading import arrays, tensors
from hyperinverter.published.reading.refusal import UnreadableFile
from hyperinverter.published.reading.tensors import DTYPES, STORAGE_TYPES, StorageType
from hyperinverter.published.reading.unpickler import Buildable, Global, checked_key


class Held(dict, Buildable):
    """A mapping that the file names: OrderedDict, defaultdict, Counter, EasyDict, Namespace."""

    def __init__(self, kind: str, items: Any = None) -> None:
        super().__init__()
        self.kind = kind
        pairs = list(items.items()) if isinstance(items, dict) else items if items is not None else []
        if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            raise UnreadableFile(f"{kind} is made from something other than pairs")
        self.update((checked_key(key), value) for key, value in pairs)

    def build(self, state: Any) -> None:
        if state is not None and not isinstance(state, dict):
            raise UnreadableFile(f"{self.kind} has a {type(state).__name__} as its state")
        if self.kind == "Namespace":  # its attributes are its content; the others' (as `_metadata`) are bookkeeping
            self.update(Held(self.kind, state))


def _defaultdict(factory: Any = None, items: Any = None) -> Held:
    """The factory is noted by nobody and never called: only what was stored is read."""
    if factory is not None and not isinstance(factory, Global):
        raise UnreadableFile("a defaultdict's factory is no class")
    return Held("defaultdict", items)


def _list(items: Any = (), longest: Any = None) -> list[Any]:
    if not isinstance(items, list | tuple | set | frozenset):
        raise UnreadableFile(f"a collection is made of a {type(items).__name__}")
    return list(items)


def _bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    """How protocol 2 stores bytes: as text in Latin-1."""
    if isinstance(text, bytes) and encoding == "latin1":
        return text
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnreadableFile("bytes are not stored as text in Latin-1")
    return text.encode("latin-1")


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, float | int) or not isinstance(imaginary, float | int):
        raise UnreadableFile("a complex number is not made of numbers")
    return complex(real, imaginary)


def _path(kind: Callable[..., Any], *parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise UnreadableFile("a path is not made of text")
    return str(kind(*parts))


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise UnreadableFile("a device is not told by name and number")
    return kind if index is None else f"{kind}:{index}"


def _set(items: Any = ()) -> set[Any]:
    return set(map(checked_key, _list(items)))


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": partial(Held, "OrderedDict"),
    "collections Counter": partial(Held, "Counter"),
    "collections defaultdict": _defaultdict,
    "collections deque": _list,
    "argparse Namespace": partial(Held, "Namespace"),
    "dnnlib.util EasyDict": partial(Held, "EasyDict"),
    "builtins set": _set,
    "builtins frozenset": _set,
    "builtins bytes": _bytes,
    "builtins bytearray": _bytes,
    "builtins complex": _complex,
    "_codecs encode": _bytes,
    "torch Size": lambda items=(): tuple(_list(items)),
    "torch device": _device,
    "torch.serialization _get_layout": _device,  # its name
    "torch._utils _rebuild_tensor": tensors.rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": tensors.rebuild_tensor_v2,
    "torch._utils _rebuild_tensor_v3": tensors.rebuild_tensor_v3,
    "torch._utils _rebuild_parameter": tensors.rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": tensors.rebuild_parameter,
    "torch._tensor _rebuild_from_type_v2": tensors.rebuild_from_type,
    "numpy dtype": arrays.NumpyType,
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray scalar"] = arrays.make_scalar
    _CALLS[f"{_core}.multiarray _reconstruct"] = lambda *_: arrays.NumpyArray()  # what counts is the state that follows
    _CALLS[f"{_core}.numeric _frombuffer"] = arrays.array_from_buffer
for _module in ("pathlib", "pathlib._local"):
    for _system, _kind in (("Posix", PurePosixPath), ("Windows", PureWindowsPath)):
        _CALLS[f"{_module} {_system}Path"] = _CALLS[f"{_module} Pure{_system}Path"] = partial(_path, _kind)

# handed on as an argument (a factory, a class), never called
_NAMES = [f"builtins {name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple")]
_NAMES += ["numpy ndarray", "torch Tensor", "torch._tensor Tensor", "torch.nn.parameter Parameter"]

ALLOWED: dict[str, Any] = {
    **{name: Global(name, make) for name, make in _CALLS.items()},
    **{name: Global(name) for name in _NAMES},
    **{
        f"{module} {name}": StorageType(name, dtype)
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, dtype in STORAGE_TYPES.items()
    },
    **{str(dtype).replace(".", " "): dtype for dtype in DTYPES},
}
