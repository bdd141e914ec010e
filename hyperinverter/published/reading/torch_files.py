"""What torch.save wrote: zip archives (since PyTorch 1.6), and before them pickles followed by numbers.

Formats: `torch/serialization.py`; `_save`: NAME/data.pkl, NAME/data/KEY, NAME/byteorder; `_legacy_save`: five pickles
(magic number, protocol, machine, object, storage keys), then for each key the count of numbers (8 bytes) and them.
"""

from collections.abc import Mapping
from typing import Any

import torch

from hyperinverter.published.reading.allowed import ALLOWED
from hyperinverter.published.reading.archive import Archive
from hyperinverter.published.reading.recognise import TORCH_MAGIC
from hyperinverter.published.reading.refusal import Budget, UnreadableFile, cut_short, shown
from hyperinverter.published.reading.tensors import Storage, checked_identity, raw_tensor, whole
from hyperinverter.published.reading.unpickler import Stream, Unpickler

PROTOCOL = 1001


def read_torch_zip(archive: Archive, pickled: str, budget: Budget, table: Mapping[str, Any] = ALLOWED) -> Any:
    """The object of a torch.save file whose pickle is the entry `pickled`."""
    folder = pickled.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.entries and bytes(archive.stored(order)[:16]) != b"little":
        raise _big_endian()
    storages: dict[str, Any] = {}

    def persistent(identity: Any) -> Storage:
        kind, name, numel = checked_identity(identity, 5)
        entry = f"{folder}data/{name}"
        if entry not in archive.entries:
            raise UnreadableFile(f"a tensor's numbers ({shown(entry)}) are not in it")
        if name not in storages:
            storages[name] = raw_tensor(archive.stored(entry), budget)
        raw, nbytes = storages[name], numel * kind.itemsize
        if len(raw) != nbytes:
            raise UnreadableFile(f"a storage declares {nbytes} bytes, the file holds {len(raw)} for it")
        return Storage(kind, raw, 0, nbytes)

    return Unpickler(Stream(archive.stored(pickled)), table, budget, persistent=persistent).load()


def read_legacy(data: memoryview, budget: Budget, table: Mapping[str, Any] = ALLOWED) -> Any:
    """The object that was saved before the zip format, with the numbers that follow it.

    Raises UnreadableFile: damaged, cut short, for another kind of machine, or a name that is not allowed.
    """
    stream, storages, left = Stream(data), {}, len(data)

    def persistent(identity: Any) -> Storage:
        nonlocal left
        kind, name, numel = checked_identity(identity, 6)
        if name not in storages:  # memory for the numbers, which follow later
            left -= numel * kind.itemsize
            if left < 0:
                raise cut_short(f"storage {shown(name)} needs {numel * kind.itemsize} bytes more than follow")
            storages[name] = kind, numel, torch.empty(numel * kind.itemsize, dtype=torch.uint8)
        known, count, raw = storages[name]
        if known.dtype != kind.dtype or count != numel:
            raise UnreadableFile(f"storage {shown(name)} is declared in two ways")
        view = identity[5]  # a part of a storage, as PyTorch 0.4 wrote it: name, first number, how many
        if view is None:
            view = name, 0, numel
        if not isinstance(view, tuple) or len(view) != 3 or not whole(*view[1:]) or view[1] + view[2] > numel:
            raise UnreadableFile(f"a part of storage {shown(name)} lies outside of it")
        return Storage(kind, raw, view[1] * kind.itemsize, view[2] * kind.itemsize)

    def load(names: Mapping[str, Any] = {}, **more: Any) -> Any:
        return Unpickler(stream, names, budget, **more).load()

    if load() != TORCH_MAGIC:
        raise UnreadableFile("it is no torch file")
    protocol, system = load(), load()
    if protocol != PROTOCOL or not isinstance(system, dict):
        raise UnreadableFile(f"its torch format is version {shown(protocol)}; known is {PROTOCOL}")
    if system.get("little_endian") is not True:
        raise _big_endian()
    content, keys = load(table, persistent=persistent), load(table)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise UnreadableFile("the list of storages at its end is not that of its tensors")
    for key in keys:
        _, numel, raw = storages[key]
        count = int.from_bytes(stream.read(8), "little", signed=True)
        if count != numel:
            raise UnreadableFile(f"storage {shown(key)} declares {numel} numbers, the file stores {count}")
        raw.numpy()[:] = memoryview(stream.read(len(raw)))
    return content


def read_storage(budget: Budget, data: Any) -> Storage:
    """A storage that pickle, not torch.save, stored: a small torch file within the file."""
    if not isinstance(data, bytes | memoryview):
        raise UnreadableFile(f"a nested storage is a {type(data).__name__} in place of bytes")
    content = read_legacy(memoryview(data), budget)
    if not isinstance(content, Storage):
        raise UnreadableFile(f"a nested storage holds a {type(content).__name__} instead")
    return content


def _big_endian() -> UnreadableFile:
    return UnreadableFile("it was saved on a big-endian machine", "save it again on an ordinary computer")
