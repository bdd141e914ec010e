"""NVIDIA's network pickles (StyleGAN2-ADA, converted StyleGAN2, StyleGAN3's container) without running their code.

Such a file holds, for each network, the Python source of its class and the `__dict__` of the module. NVIDIA's loader
executes the source. Here the source is skipped unread: names, keyword arguments and tensors say all that is needed.
Format: `torch_utils/persistence.py` and `legacy.py` of NVlabs/stylegan2-ada-pytorch.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from hyperinverter.published.reading.allowed import ALLOWED
from hyperinverter.published.reading.refusal import Budget, UnreadableFile, shown
from hyperinverter.published.reading.torch_files import read_storage
from hyperinverter.published.reading.unpickler import Global, Stream, Unpickler, not_allowed

VERSION = 6  # of the persistence format; every released file has this one
DEEPEST_MODULE = 50


@dataclass
class NetworkStub:
    """A network of an NVIDIA pickle: what it was built with and its tensors; nothing of its code.

    Attributes:
        state: key -> tensor, as its `state_dict()` would give them.
        init_args: positional arguments, nearly always empty.
    """

    class_name: str
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]
    init_args: list[Any] = field(default_factory=list)


class PickledNetwork:
    """A persistent object as its pickle describes it."""

    def __init__(self, meta: Any) -> None:
        if not isinstance(meta, dict):
            raise UnreadableFile("a network in it is not described by a mapping")
        kind, version = meta.get("type"), meta.get("version")
        if kind != "class" or type(version) is not int or version != VERSION:
            message = version if type(version) is int else f"<{type(version).__name__}>"
            raise UnreadableFile(
                f"a network in it is stored as {shown(kind)} of version {message}; known is class of version {VERSION}",
                "save it again with the persistence.py of NVlabs/stylegan2-ada-pytorch or NVlabs/stylegan3",
            )
        self.class_name, self.fields = meta.get("class_name"), meta.get("state")
        if not isinstance(self.class_name, str) or not isinstance(self.fields, dict):
            raise UnreadableFile("a network in it has no class name or no state")
        self.init_kwargs = self.fields.get("_init_kwargs") or {}
        self.init_args = self.fields.get("_init_args") or ()
        if not isinstance(self.init_kwargs, dict) or not isinstance(self.init_args, list | tuple):
            raise UnreadableFile(f"the arguments that {shown(self.class_name)} was built with are not stored as such")

    def tensors(self, budget: Budget) -> dict[str, Any]:
        """Key -> tensor in the order of `state_dict()`: own parameters, own buffers, then the parts'."""
        state: dict[str, Any] = {}
        self._collect("", state, budget, 0)
        return state

    def _collect(self, prefix: str, state: dict[str, Any], budget: Budget, depth: int) -> None:
        if depth > DEEPEST_MODULE:
            raise UnreadableFile(f"its {shown(self.class_name)} is nested more than {DEEPEST_MODULE} modules deep")
        passing = self.fields.get("_non_persistent_buffers_set") or ()
        if not isinstance(passing, set | frozenset | list | tuple):
            raise UnreadableFile(f"the buffers of {shown(prefix or self.class_name)} are not told by name")
        own = [*self._section("_parameters"), *(b for b in self._section("_buffers") if b[0] not in passing)]
        for name, value in own:
            budget.spend(1)
            budget.copy(len(prefix) + len(name))
            if prefix + name in state:
                raise UnreadableFile(f"it holds {shown(prefix + name)} twice")
            if value is not None:  # a layer without bias
                state[prefix + name] = value
        for name, part in self._section("_modules"):
            budget.spend(1)
            budget.copy(len(prefix) + len(name))
            if part is None:
                continue
            if not isinstance(part, PickledNetwork):
                raise UnreadableFile(
                    f"its part {shown(prefix + name)} is a {type(part).__name__} in place of a network"
                )
            part._collect(f"{prefix}{name}.", state, budget, depth + 1)

    def _section(self, name: str) -> list[tuple[str, Any]]:
        section = self.fields.get(name) or {}
        if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
            raise UnreadableFile(f"{name} of {shown(self.class_name)} is no mapping of names")
        return list(section.items())


def names_of(budget: Budget) -> dict[str, Any]:
    """The names that a file may use, where it may hold such networks."""
    return ALLOWED | {
        name: Global(name, make)
        for name, make in {
            "torch_utils.persistence _reconstruct_persistent_obj": PickledNetwork,
            "torch.storage _load_from_bytes": partial(read_storage, budget),
        }.items()
    }


def _unknown(module: str, name: str) -> UnreadableFile:
    if module.split(".")[0] == "tflib" or module.startswith("dnnlib.tflib"):
        return UnreadableFile(
            f"it is a StyleGAN network for TensorFlow ({shown(module)}.{shown(name)}), which PyTorch cannot load",
            "convert it once with legacy.py of NVlabs/stylegan2-ada-pytorch (python legacy.py --source=IN.pkl "
            "--dest=OUT.pkl), or fetch the PyTorch file of the same network",
        )
    return not_allowed(module, name)


def read_pickle(data: memoryview, budget: Budget) -> Any:
    """What the pickle holds; networks as `PickledNetwork`."""
    return Unpickler(Stream(data), names_of(budget), budget, unknown=_unknown).load()
