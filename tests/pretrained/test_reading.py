"""Every container of published weights is read to the numbers it was written with, whatever the file's name says."""

import argparse
import collections
import hashlib
import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch
from nvidia_file import EasyDict, Stored, nested, save_nvidia
from safetensors.torch import save_file
from torch import nn

from hyperinverter.checkpoint import read_model
from hyperinverter.directions import load_direction
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.published.reading import NetworkStub, read_published
from hyperinverter.utils.errors import UserError


def same(read, written):
    assert list(read) == list(written)
    for key, value in written.items():
        found = read[key]
        assert found.dtype == value.dtype and found.shape == value.shape and found.stride() == value.stride(), key
        assert torch.equal(found, value), key


@pytest.fixture
def state():
    table = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return collections.OrderedDict(
        {
            "whole": table,
            "parameter": nn.Parameter(table * 2),
            "turned": table.t()[1:, ::2],
            "half": table.half(),
            "bfloat": table.bfloat16(),
            "double": table.double(),
            "truth": table > 0,
            "bytes": (table * 50).to(torch.uint8),
            "words": torch.arange(5).to(torch.uint16),
            "complex": torch.complex(table, -table),
            "scalar": torch.tensor(7),
            "empty": torch.empty(0, 3),
            "shared": table[2:4],
        }
    )


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_both_formats_hold_what_torch_reads(zipped, protocol, state, tmp_path):
    path = tmp_path / "weights.tar"
    if not zipped:
        state.pop("words")  # PyTorch writes these numbers into the older format, but cannot read them back
    torch.save({"state_dict": state, "step": 3}, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    file = read_published(path)
    assert file.container == "torch" and file.content["step"] == 3
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    same(file.content["state_dict"], state)
    if protocol == 2:  # what torch itself reads without code
        same(torch.load(path, weights_only=True)["state_dict"], file.content["state_dict"])
    assert not any(value.requires_grad for value in file.content["state_dict"].values())
    whole, shared = file.content["state_dict"]["whole"], file.content["state_dict"]["shared"]
    assert whole.untyped_storage().data_ptr() == shared.untyped_storage().data_ptr()  # read once, as stored once
    before = path.read_bytes()
    whole.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("zipped", [True, False])
def test_old_checkpoints_may_hold_options_and_numpy_values(zipped, tmp_path):
    options = argparse.Namespace(
        lr=np.float64(0.5),
        path=pathlib.PurePosixPath("/models/x"),
        folder=pathlib.PureWindowsPath("C:\\models"),
        device=torch.device("cuda:0"),
        size=torch.Size([1, 2]),
        lists=collections.defaultdict(list, {"k": [1]}),
        counts=collections.Counter("aab"),
        last=collections.deque([1, 2], maxlen=3),
        names={"a"},
        raw=b"\x00\xff",
        dtype=torch.float16,
        none=None,
        inner=argparse.Namespace(yes=True),
        big=10**20,
    )
    arrays = {
        "matrix": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "other_order": np.arange(3, dtype=">f4"),
        "text": np.array(["a", "bc"]),
        "flag": np.bool_(True),
    }
    path = tmp_path / "old.pt"
    torch.save({"opts": options, "arrays": arrays}, path, _use_new_zipfile_serialization=zipped)
    content = read_published(path).content
    assert content["opts"] == {
        "lr": 0.5,
        "path": "/models/x",
        "folder": "C:\\models",
        "device": "cuda:0",
        "size": (1, 2),
        "lists": {"k": [1]},
        "counts": {"a": 2, "b": 1},
        "last": [1, 2],
        "names": {"a"},
        "raw": b"\x00\xff",
        "dtype": torch.float16,
        "none": None,
        "inner": {"yes": True},
        "big": 10**20,
    }
    assert type(content["opts"]["lr"]) is float and content["arrays"]["flag"] is True
    assert content["arrays"]["text"] == ["a", "bc"]
    for name in ("matrix", "columns", "other_order"):
        np.testing.assert_array_equal(content["arrays"][name].numpy(), arrays[name])


def python_2_checkpoint(numbers: bytes) -> bytes:
    """The older torch format as Python 2 wrote it: text as bytes, __builtin__, a NumPy number with raw bytes."""
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}(U\rlittle_endian\x88U\x10protocol_versionM\xe9\x03u."
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x0294U\x06cuda:0K\x04NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x02K\x02\x86K\x02K\x01\x86tR"
    number = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff"
    number += b"\xff\xff\xffK\x00tbU\x04\x00\x00\xc0\xbf\x86R"
    body = b"\x80\x02}(U\x01w" + tensor + b"U\x02lr" + number + b"U\x01sc__builtin__\nset\n(]K\x01atRu."
    return head + system + body + b"\x80\x02]U\x0294a." + (4).to_bytes(8, "little") + numbers


def test_a_checkpoint_written_by_python_2(tmp_path):
    path = tmp_path / "model_ir_se50.pth"
    path.write_bytes(python_2_checkpoint(np.arange(4, dtype="<f4").tobytes()))
    content = read_published(path).content
    assert torch.equal(content["w"], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert content["lr"] == -1.5 and content["s"] == {1}


def test_storages_that_are_parts_of_others(tmp_path):
    """Files of PyTorch 0.4 and older tell views of one storage by their place in it."""
    numbers = np.arange(4, dtype="<f4").tobytes()
    whole = python_2_checkpoint(numbers)
    view = whole.replace(b"K\x04NtQ", b"K\x04(U\x05view0K\x01K\x03ttQ").replace(
        b"K\x02K\x02\x86K\x02K\x01", b"K\x01K\x03\x86K\x03K\x01"
    )
    path = tmp_path / "view.pth"
    path.write_bytes(view)
    assert torch.equal(read_published(path).content["w"], torch.tensor([[1.0, 2.0, 3.0]]))
    path.write_bytes(view.replace(b"view0K\x01K\x03", b"view0K\x02K\x03"))
    with pytest.raises(UserError, match="lies outside"):
        read_published(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_nvidia_pickle_gives_states_in_order_and_arguments_without_its_code(protocol, tmp_path):
    torch.manual_seed(0)
    generator = Generator(resolution=16, z_dim=8, w_dim=8, channel_base=256, channel_max=16, mapping_layers=2)
    discriminator = Discriminator(resolution=16, channel_base=256, channel_max=16)
    ema = nested({key: value + 1 for key, value in generator.state_dict().items()})
    kwargs = {
        "z_dim": 8,
        "img_resolution": 16,
        "mapping_kwargs": EasyDict(num_layers=2),
        "synthesis_kwargs": EasyDict(channel_base=np.int64(256), conv_clamp=None, resample_filter=[1, 3, 3, 1]),
    }
    networks = {"G": nested(generator.state_dict()), "D": nested(discriminator.state_dict()), "G_ema": ema}
    content = {
        name: Stored(network, "Discriminator" if name == "D" else "Generator", kwargs)
        for name, network in networks.items()
    }
    pipe = nn.Module()
    pipe.register_buffer("p", torch.ones([]))
    pipe.register_buffer("scratch", torch.ones(3), persistent=False)
    pipe.gain = np.sqrt(0.5)
    pipe.bias = None
    pipe.register_parameter("absent", None)
    content |= {"training_set_kwargs": EasyDict(path="/data", use_labels=False), "augment_pipe": Stored(pipe, "Aug")}
    file = read_published(save_nvidia(tmp_path / "network.bin", content, protocol))
    assert file.container == "nvidia_pkl" and list(file.content) == list(content)
    for name, network in networks.items():
        stub = file.content[name]
        assert isinstance(stub, NetworkStub) and stub.class_name == content[name].class_name and stub.init_args == []
        same(stub.state, network.state_dict())
        assert stub.init_kwargs == kwargs and type(stub.init_kwargs["synthesis_kwargs"]["channel_base"]) is int
    same(file.content["augment_pipe"].state, {"p": torch.ones([])})
    assert file.content["training_set_kwargs"] == {"path": "/data", "use_labels": False}


def test_a_pickle_of_plain_arrays_is_read_too(tmp_path):
    path = tmp_path / "arrays.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"w": np.ones((2, 3), np.float32)}, protocol))
        file = read_published(path)
        assert file.container == "pickle" and torch.equal(file.content["w"], torch.ones(2, 3))


def test_safetensors_and_their_text(tmp_path, tiny_model):
    tensors = {"a": torch.randn(2, 3), "b": torch.ones(4, dtype=torch.float16)}
    save_file(tensors, tmp_path / "weights.pt", metadata={"licence": "MIT"})
    file = read_published(tmp_path / "weights.pt")
    assert file.container == "safetensors" and file.metadata == {"licence": "MIT"}
    same(dict(sorted(file.content.items())), tensors)
    ours = read_published(tiny_model / "generator.safetensors")
    assert ours.metadata["kind"] == "generator"
    assert set(ours.content) == set(read_model(tiny_model / "generator.safetensors").state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_head_whose_length_begins_as_a_pickle_does_is_one_of_safetensors(tmp_path, protocol):
    """80 04 00 00 00 00 00 00 is the length 1152; a pickle of protocol 4 begins with 80 04 too."""
    length = 0x80 + 256 * protocol
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    (tmp_path / "w.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    assert torch.equal(read_published(tmp_path / "w.safetensors").content["w"], torch.zeros(1))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_and_npy(save, tmp_path):
    arrays = {
        "a": np.random.default_rng(0).normal(size=(3, 4)),
        "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b": np.arange(3, dtype=">i4"),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "text": np.array([["x", "yz"]]),
    }
    save(tmp_path / "a.npz", **arrays)
    file = read_published(tmp_path / "a.npz")
    assert file.container == "npz" and file.content.pop("text") == [["x", "yz"]]
    for name, value in file.content.items():
        np.testing.assert_array_equal(value.numpy(), arrays[name])
    np.save(tmp_path / "b.npy", arrays["a"])
    file = read_published(tmp_path / "b.npy")
    assert file.container == "npy" and file.content.dtype == torch.float64
    np.testing.assert_array_equal(file.content.numpy(), arrays["a"])


def test_arrays_of_anything_are_read_as_pickles_are(tmp_path):
    table = np.empty((2, 2), object)
    table[:] = [["a", {"w": np.ones(3, np.float32)}], [None, 4]]
    np.savez(tmp_path / "a.npz", table=table, one=np.array({"x": [1, 2]}), none=np.empty((0, 3), object))
    content = read_published(tmp_path / "a.npz").content
    assert content["one"] == {"x": [1, 2]} and content["none"] == []
    (a, w), last = content["table"]
    assert a == "a" and torch.equal(w["w"], torch.ones(3)) and last == [None, 4]
    np.save(tmp_path / "columns.npy", np.asfortranarray(table))
    with pytest.raises(UserError, match="by columns; save it as float32"):
        read_published(tmp_path / "columns.npy")


def test_direction_files_as_published(tmp_path):
    """InterFaceGAN's are one row; GANSpace's hold mean, components and deviations, one in each torch format."""
    direction = torch.nn.functional.normalize(torch.randn(1, 16))
    torch.save(direction, tmp_path / "age.pt")
    torch.testing.assert_close(load_direction(tmp_path / "age.pt").vector, direction[0])
    components = torch.randn(16, 1, 5).permute(2, 1, 0)  # a view, as in the file for faces
    pca = {"mean": torch.randn(1, 16), "comp": components, "std": torch.rand(5)}
    for name, zipped in (("ffhq_pca.pt", True), ("church_pca.pt", False)):
        torch.save(pca, tmp_path / name, _use_new_zipfile_serialization=zipped)
        same(read_published(tmp_path / name).content, pca)


def page(title, body):
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>".encode()


def packed(name, data):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, data)
    return stream.getvalue()


NOT_WEIGHTS = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "quota": (page("Google Drive - Quota exceeded", "Too many users have viewed"), r"quota is exceeded.*mirror"),
    "virus": (page("Google Drive - Virus scan warning", "Download anyway"), r"virus scan.*Download anyway"),
    "private": (page("Sign in", "https://drive.google.com"), r"page of Google Drive \(Sign in\)"),
    "page": (b"\n " + page("Not\n Found", ""), r"web page \(Not Found\)"),
    "s3": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r"XML answer.*accessdenied"),
    "text": (b'{"error": "rate limit"}', r"text of 23 bytes.*rate limit"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 381\n", r"LFS pointer to a file of 381"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), r"gzip-compressed; unpack"),
    "tar": (b"x" * 257 + b"ustar" + bytes(300), r"tar archive; unpack"),
    "zip": (packed("net/weights.pt", b"1"), r"zip archive of 1 files \(net/weights.pt\); unpack"),
    "script": (packed("net/constants.pkl", b"1"), r"TorchScript program"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(9), r"PNG image, not weights"),
    "webp": (b"RIFF\0\0\0\0WEBP", r"WebP image"),
    "zeros": (bytes(5000), r"zeros only"),
    "unknown": (bytes(range(1, 200)), r"no known kind \(199 bytes"),
    "tensorflow": (b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81.", r"for TensorFlow.*legacy\.py.*--source"),
}


@pytest.mark.parametrize("name", NOT_WEIGHTS)
def test_what_is_no_weights_file_is_named_for_what_it_is(name, tmp_path):
    data, message = NOT_WEIGHTS[name]
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read_published(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        read_published(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_published(tmp_path / "absent.pt")


def test_a_download_that_was_cut_short_is_named_so(state, tmp_path):
    torch.save(dict(state), tmp_path / "zip")
    torch.save(dict(state), tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_nvidia(tmp_path / "nvidia", {"G": Stored(nested({"a.weight": torch.randn(30, 30)}), "Generator")})
    save_file({"a": torch.randn(30, 30)}, tmp_path / "safetensors")
    np.save(tmp_path / "a.npy", np.ones(300))
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        read_published(path)
        for part in (0.3, 0.6, 0.97):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(UserError, match=r"cut short.*fetch it again"):
                read_published(path)


def test_damage_inside_a_zip_is_noticed(tmp_path):
    torch.save({"a": torch.ones(100)}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.find(np.ones(100, "<f4").tobytes()) + 2] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UserError, match=r"damaged \(checksum\)"):
        read_published(tmp_path / "a.pt")


def test_a_zip_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(100)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_published(tmp_path / "a.pt").content["a"], torch.ones(100))
