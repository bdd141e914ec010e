"""The .safetensors container: the library's own bytes, heads that lie, files cut while they are read, full disks."""

import errno
import json
import os
import resource
import signal
import time

import pytest
import safetensors.torch
import torch

from hyperinverter.checkpoint import read_safetensors
from hyperinverter.directions.ganspace import Pca, save_pca
from hyperinverter.inverters import Inversion
from hyperinverter.published.reading import read_published
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import read_tensors, write_tensors

EVERY_TYPE = {
    str(dtype): torch.arange(5).to(dtype)
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.int32,
                  torch.float32, torch.complex64, torch.float64, torch.int64)
}  # fmt: skip
TENSORS = {**EVERY_TYPE, "b": torch.randn(3, 4), "a": torch.randn(2), "empty": torch.zeros(0, 7), "one": torch.ones(())}


def with_head(head: object, body: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape: object, offsets: object, dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_same_bytes_as_the_library(tmp_path):
    write_tensors(tmp_path / "own", TENSORS, {"x": "é"})
    safetensors.torch.save_file(TENSORS, tmp_path / "library", metadata={"x": "é"})
    assert (tmp_path / "own").read_bytes() == (tmp_path / "library").read_bytes()


def test_read_back_in_its_own_memory(tmp_path):
    write_tensors(tmp_path / "a", TENSORS, {"x": "1"})
    metadata, tensors = read_tensors(tmp_path / "a")
    library = safetensors.torch.load_file(tmp_path / "a")
    assert metadata == {"x": "1"} and tensors.keys() == library.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == library[name].dtype and torch.equal(tensor, library[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


LIES = {
    "empty": b"",
    "cut_length": b"\x08\0\0",
    "long_head": (2**40).to_bytes(8, "little") + b"{}",
    "no_json": with_head(b"{'a'}"),
    "utf16": with_head("{}".encode("utf-16")),
    "list": with_head([]),
    "deep": with_head(b'{"a":' * 100_000),
    "long_number": with_head(b'{"a":' + b"9" * 5000 + b"}"),
    "metadata_number": with_head({"__metadata__": {"a": 1}}),
    "metadata_list": with_head({"__metadata__": []}),
    "twice": with_head(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * 2 + b'"b":1}'),
    "number": with_head({"a": 1}),
    "other_keys": with_head({"a": {"dtype": "F32"}}),
    "unknown_type": with_head({"a": entry([1], [0, 4], "X9")}, bytes(4)),
    "type_is_a_list": with_head({"a": entry([1], [0, 4], ["F32"])}, bytes(4)),
    "negative": with_head({"a": entry([-1], [0, 4])}, bytes(4)),
    "true": with_head({"a": entry([True], [0, 4])}, bytes(4)),
    "fraction": with_head({"a": entry([1.0], [0, 4])}, bytes(4)),
    "huge": with_head({"a": entry([2**40], [0, 4])}, bytes(4)),
    "huge_nothing": with_head({"a": entry([2**47, 2**47, 0], [0, 0])}),
    "many_dimensions": with_head({"a": entry([1] * 70, [0, 4])}, bytes(4)),
    "gap": with_head({"a": entry([1], [4, 8])}, bytes(8)),
    "overlap": with_head({"a": entry([1], [0, 4]), "b": entry([1], [0, 4])}, bytes(4)),
    "beyond": with_head({"a": entry([4], [0, 16])}, bytes(8)),
    "more_follows": with_head({"a": entry([1], [0, 4])}, bytes(8)),
    "empty_tensors": with_head({f"{i:x}": entry([0], [0, 0]) for i in range(300_000)}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_head_that_lies_is_refused_by_every_reader_at_once(lie, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LIES[lie])
    begin = time.process_time()
    with pytest.raises(UserError, match=r"x\.safetensors: not a readable \.safetensors file \(.*; again") as caught:
        read_safetensors(path, "again")
    assert len(str(caught.value)) < 400 + len(str(path))
    for reader in (read_published, Inversion.load):
        with pytest.raises(UserError, match=r"x\.safetensors: "):
            reader(path)
    assert time.process_time() - begin < 10


def in_a_process(act) -> int:
    """The exit status of `act` in a process of its own: -7 where SIGBUS ended it."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("container", ["safetensors", "pt", "npy"])
def test_a_file_that_is_cut_after_it_was_read_ends_no_process(container, tmp_path):
    path, values = tmp_path / f"x.{container}", torch.arange(2**20, dtype=torch.float32)
    if container == "safetensors":
        write_tensors(path, {"a": values}, {})
    elif container == "pt":
        torch.save({"a": values}, path)
    else:
        import numpy as np

        np.save(path, values.numpy())

    def act():
        content = read_published(path).content
        os.truncate(path, 0)
        found = content if container == "npy" else content["a"]
        assert found.sum() == values.sum()

    assert in_a_process(act) != -signal.SIGBUS
    assert path.stat().st_size == 0  # it came so far


def test_an_inversion_is_the_same_file_every_time(tmp_path):
    inversion = Inversion(torch.randn(1, 1, 8).repeat(1, 4, 1), {"a": torch.randn(1, 4)}, info={"x": 1})
    for number in range(8):
        inversion.save(tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("kind", ["inversion", "pca"])
def test_a_full_disk_is_told_by_the_system_and_nothing_stays(kind, tmp_path):
    path, before = tmp_path / "x.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as caught:  # with its number, not a SafetensorError
            if kind == "inversion":
                Inversion(torch.randn(1, 4, 512)).save(path)
            else:
                save_pca(Pca(torch.randn(1, 512), torch.randn(2, 1, 512), torch.ones(2)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
