"""Write pickles in NVIDIA's network format, with the globals and fields that its persistence.py and train.py write.

The modules that such a file names (`torch_utils.persistence`, `dnnlib.util`) exist only while it is written.
"""

import contextlib
import pickle
import sys
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

BUFFERS = ("w_avg", "resample_filter", "noise_const", "magnitude_ema")  # by their last name; the rest are parameters


class EasyDict(dict):
    """As in NVIDIA's dnnlib: a dict whose entries are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader called a function of the file")


class Stored:
    """A network as persistence.py stores it: class name, source text and the module's `__dict__`.

    Args:
        kwargs: what it was "built" with.
        changes: entries of `meta` to write otherwise, for damaged files.
    """

    def __init__(
        self, module: nn.Module, class_name: str, kwargs: dict | None = None, changes: dict | None = None
    ) -> None:
        self.module, self.class_name, self.changes = module, class_name, changes or {}
        self.kwargs = EasyDict(kwargs or {})

    def __reduce__(self):
        state = dict(self.module.__dict__, _init_args=(), _init_kwargs=self.kwargs)
        state["_modules"] = {
            name: part if isinstance(part, Stored) or part is None else Stored(part, type(part).__name__)
            for name, part in self.module._modules.items()
        }
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('source from a file ran')\n",
            "class_name": self.class_name,
            "state": state,
        }
        return _reconstruct_persistent_obj, (EasyDict(meta | self.changes),)


def nested(state: dict[str, Tensor]) -> nn.Module:
    """A module with these parameters and buffers under these names."""
    root = nn.Module()
    for key, value in state.items():
        *folders, name = key.split(".")
        module = root
        for folder in folders:
            if folder not in module._modules:
                module.add_module(folder, nn.Module())
            module = module._modules[folder]
        if name in BUFFERS or not value.is_floating_point():
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, nn.Parameter(value))
    return root


@contextlib.contextmanager
def nvidia_modules():
    """The modules that NVIDIA's pickles name."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    modules = {name: ModuleType(name) for name in names}
    for function, module in ((_reconstruct_persistent_obj, "torch_utils.persistence"), (EasyDict, "dnnlib.util")):
        function.__module__ = module
        setattr(modules[module], function.__name__, function)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def nvidia_bytes(content: dict, protocol: int = pickle.DEFAULT_PROTOCOL) -> bytes:
    with nvidia_modules():
        return pickle.dumps(content, protocol)


def save_nvidia(path: Path, content: dict, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    """Write e.g. `{"G": Stored(...), "D": Stored(...), "G_ema": Stored(...), "training_set_kwargs": ...}`."""
    path.write_bytes(nvidia_bytes(content, protocol))
    return path
