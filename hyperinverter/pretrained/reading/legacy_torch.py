"""torch.save before its zip format (PyTorch 1.5 and older, and storages inside other pickles): pickles, then numbers.

Format: `torch/serialization.py`, `_legacy_save`: five pickles (magic number, protocol, machine, object, storage keys),
then for each key the count of numbers (8 bytes) and the numbers.
"""

from collections.abc import Mapping
from typing import Any

from hyperinverter.pretrained.reading.allowed import ALLOWED
from hyperinverter.pretrained.reading.machine import Machine
from hyperinverter.pretrained.reading.refusal import Refused, cut_short, shown
from hyperinverter.pretrained.reading.tensors import Storage, StorageType, whole
from hyperinverter.pretrained.reading.values import Budget

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
HEAD = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."  # how the first pickle ends


def read_legacy(data: memoryview, budget: Budget, table: Mapping[str, Any] = ALLOWED) -> Any:
    """The object that was saved; tensors described, their storages bound to the file's bytes.

    Args:
        data: the file.
        budget: of the work that it may ask for.
        table: names that it may use.
    Raises:
        Refused: damaged, cut short, for another kind of machine, or a name that is not allowed.
    """
    storages: dict[str, Storage] = {}
    views: list[tuple[Storage, Storage, int]] = []  # a part, of which storage, from which byte

    def persistent(identity: Any) -> Storage:
        kind, name, numel = checked_identity(identity, 6)
        view = identity[5]
        root = storages.setdefault(name, Storage(kind.dtype, numel))
        if root.dtype != kind.dtype or root.numel != numel:
            raise Refused(f"storage {shown(name)} is declared in two ways")
        if view is None:
            return root
        if not isinstance(view, tuple) or len(view) != 3 or not whole(*view[1:]) or view[1] + view[2] > numel:
            raise Refused(f"a part of storage {shown(name)} lies outside of it")
        part = Storage(kind.dtype, view[2])
        views.append((part, root, view[1] * (part.nbytes // max(part.numel, 1))))
        return part

    machine = Machine(data, {}, budget)
    if machine.run() != MAGIC:
        raise Refused("it is no torch file")
    protocol, system = next_pickle(machine), next_pickle(machine)
    if protocol != PROTOCOL or not isinstance(system, dict):
        raise Refused(f"its torch format is version {shown(protocol)}; known is {PROTOCOL}")
    if system.get("little_endian") is not True:
        raise Refused("it was saved on a big-endian machine", "save it again on an ordinary computer")
    machine.table, machine.persistent = table, persistent
    content = next_pickle(machine)
    machine.persistent = None
    keys = next_pickle(machine)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise Refused("the list of storages at its end is not that of its tensors")
    for key in keys:
        storage = storages[key]
        count = machine.number("<q")
        if count != storage.numel:
            raise Refused(f"storage {shown(key)} declares {storage.numel} numbers, the file stores {shown(count)}")
        if storage.nbytes > len(data) - machine.position:
            raise cut_short(f"storage {shown(key)} needs {storage.nbytes} bytes, {len(data) - machine.position} follow")
        storage.give(machine.take(storage.nbytes))
    for part, root, start in views:
        part.give(root.data[start : start + part.nbytes])
    return content


def next_pickle(machine: Machine) -> Any:
    """The pickle that follows; nothing of the one before is visible to it."""
    machine.stack, machine.marks, machine.memo = [], [], {}
    return machine.run()


def checked_identity(identity: Any, length: int) -> tuple[StorageType, str, int]:
    """Type, name and count of numbers of a storage that a torch file refers to."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        kind = identity[0] if isinstance(identity, tuple) and identity else type(identity).__name__
        raise Refused(f"it refers to a {shown(kind)} outside its pickle, where only storages may lie")
    _, kind, name, _, numel = identity[:5]
    if not isinstance(kind, StorageType) or not isinstance(name, str) or not whole(numel):
        raise Refused("a storage in it is not told by type, name and count of numbers")
    return kind, name, numel


def read_storage(data: memoryview, budget: Budget) -> Storage:
    """A file that holds one storage and nothing else."""
    content = read_legacy(data, budget)
    if not isinstance(content, Storage):
        raise Refused(f"a nested storage holds a {type(content).__name__} instead")
    return content
