"""The names that a pickled checkpoint may use, and what each stands for here. Everything else is refused by its name.

Each entry is a constructor of this folder that checks its arguments and makes an inert value, or a constant. The table
is complete: no name is looked up anywhere else. Beyond tensors it holds what training scripts of published
repositories put beside their weights: argparse.Namespace, EasyDict, NumPy scalars and arrays, collections, paths.
"""

from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from hyperinverter.pretrained.reading import arrays, tensors
from hyperinverter.pretrained.reading.refusal import Refused
from hyperinverter.pretrained.reading.tensors import DTYPES, STORAGE_TYPES, StorageType
from hyperinverter.pretrained.reading.values import Budget, Global, Held, checked_key


def _mapping(kind: str) -> Callable[..., Held]:
    def make(budget: Budget, items: Any = None) -> Held:
        return Held(kind) if items is None else Held(kind).fill(budget, items)

    return make


def _defaultdict(budget: Budget, factory: Any = None, items: Any = None) -> Held:
    """The factory is noted by nobody and never called: only what was stored is read."""
    if factory is not None and not isinstance(factory, Global):
        raise Refused("a defaultdict's factory is no class")
    return _mapping("defaultdict")(budget, items)


def _items(budget: Budget, items: Any) -> list[Any]:
    if not isinstance(items, list | tuple | set | frozenset):
        raise Refused(f"a collection is made of a {type(items).__name__}")
    budget.spend(len(items))
    return list(items)


def _deque(budget: Budget, items: Any = (), longest: Any = None) -> list[Any]:
    return _items(budget, items)


def _set(budget: Budget, items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in _items(budget, items)}


def _size(budget: Budget, sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(_items(budget, sizes))


def _bytes(budget: Budget, text: Any = "", encoding: Any = "latin1") -> bytes:
    """How protocol 2 stores bytes: as text in Latin-1."""
    if isinstance(text, bytes) and encoding == "latin1":
        return text
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes are not stored as text in Latin-1")
    budget.copy(len(text))
    return text.encode("latin-1")


def _complex(budget: Budget, real: Any, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, float | int) or not isinstance(imaginary, float | int):
        raise Refused("a complex number is not made of numbers")
    return complex(real, imaginary)


def _path(kind: type[PurePosixPath] | type[PureWindowsPath]) -> Callable[..., str]:
    def make(budget: Budget, *parts: Any) -> str:
        if not all(isinstance(part, str) for part in parts):
            raise Refused("a path is not made of text")
        budget.copy(sum(map(len, parts)))
        return str(kind(*parts))

    return make


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise Refused("a device is not told by name and number")
    return kind if index is None else f"{kind}:{index}"


def _layout(budget: Budget, name: Any) -> str:
    if not isinstance(name, str):
        raise Refused("a tensor's layout has no name")
    return name


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _mapping("OrderedDict"),
    "collections Counter": _mapping("Counter"),
    "collections defaultdict": _defaultdict,
    "collections deque": _deque,
    "argparse Namespace": _mapping("Namespace"),
    "dnnlib.util EasyDict": _mapping("EasyDict"),
    "builtins set": _set,
    "builtins frozenset": _set,
    "builtins bytes": _bytes,
    "builtins bytearray": _bytes,
    "builtins complex": _complex,
    "_codecs encode": _bytes,
    "torch Size": _size,
    "torch device": _device,
    "torch.serialization _get_layout": _layout,
    "torch._utils _rebuild_tensor": tensors.rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": tensors.rebuild_tensor_v2,
    "torch._utils _rebuild_tensor_v3": tensors.rebuild_tensor_v3,
    "torch._utils _rebuild_parameter": tensors.rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": tensors.rebuild_parameter,
    "torch._tensor _rebuild_from_type_v2": tensors.rebuild_from_type,
    "numpy dtype": arrays.make_type,
}
_CALLS |= {f"numpy.{core}.multiarray scalar": arrays.make_scalar for core in ("core", "_core")}
_CALLS |= {f"numpy.{core}.multiarray _reconstruct": arrays.make_array for core in ("core", "_core")}
_CALLS |= {f"numpy.{core}.numeric _frombuffer": arrays.array_from_buffer for core in ("core", "_core")}
_CALLS |= {
    f"{module} {name}": _path(PureWindowsPath if "Windows" in name else PurePosixPath)
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
}

# handed on as an argument (a factory, a class), never called
_NAMES = [f"builtins {name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple")]
_NAMES += ["numpy ndarray", "torch Tensor", "torch._tensor Tensor", "torch.nn.parameter Parameter"]

_STORAGES = {
    f"{module} {name}": StorageType(name, dtype)
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in (*STORAGE_TYPES.items(), ("UntypedStorage", None), ("_UntypedStorage", None))
}

ALLOWED: dict[str, Any] = {
    **{name: Global(name, make) for name, make in _CALLS.items()},
    **{name: Global(name) for name in _NAMES},
    **_STORAGES,
    **{str(dtype).replace(".", " "): dtype for dtype in DTYPES},
}
