"""Packages and OpenVINO graphs read as data: hostile ones end in one message, memory bounded."""

import gzip
import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from packages import Ir, tar, write_wheel
from safetensors.torch import save

from hyperinverter.published.reading import IrNetwork, openvino_ir, read_published
from hyperinverter.utils.errors import UserError

STEM = "pack/net"
MEMBERS = (f"{STEM}.xml", f"{STEM}.bin")


def small_ir() -> Ir:
    ir = Ir()
    x = ir.add("Parameter", name="x")
    weight = ir.constant(np.arange(6, dtype=np.float32).reshape(2, 3), "m.weight")
    ir.constant(np.array([0, -1]), "axes")
    ir.add("MatMul", x, weight, name="product", data='<data transpose_a="false" transpose_b="true"/>')
    return ir


def read(folder: Path, files: dict[str, bytes], members=MEMBERS):
    return read_published(write_wheel(folder, "pack", "1", files), members)


def test_a_graph_is_layers_edges_and_constants(tmp_path):
    file = read(tmp_path, small_ir().files(STEM))
    graph = file.content
    assert isinstance(graph, IrNetwork) and file.container == "package" and graph.name == "small"
    product = graph.of_kind("MatMul")[0]
    assert product.attributes["transpose_b"] == "true" and graph.source(product, 0).kind == "Parameter"
    weight = graph.source(product, 1)
    assert weight.name == "m.weight" and weight.tensor.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert graph.users(weight) == [product] and graph.source(product, 2) is None
    assert graph.layers[2].tensor.tolist() == [0, -1]
    with pytest.raises(UserError, match="it is a zip archive of 5 files"):
        read_published(file.path)


def changed(old: str, new: str, count: int = 1):
    def files() -> dict[str, bytes]:
        made = small_ir().files(STEM)
        text = made[f"{STEM}.xml"].decode()
        assert old in text
        return made | {f"{STEM}.xml": text.replace(old, new, count).encode()}

    return files


def with_constant(values: np.ndarray, **attributes):
    def files() -> dict[str, bytes]:
        ir = small_ir()
        ir.constant(values, "odd", **attributes)
        return ir.files(STEM)

    return files


def with_xml(xml: bytes):
    return lambda: {f"{STEM}.xml": xml, f"{STEM}.bin": b""}


ONE = np.ones(1, np.float32)
BOMB = b'<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
)
HOSTILE = {
    "entity bomb": (with_xml(BOMB + b"]><net name='&j;'/>"), "declares a document type or an entity"),
    "outer entity": (with_xml(b'<!DOCTYPE n SYSTEM "file:///etc/passwd"><net/>'), "declares a document type"),
    "doctype alone": (with_xml(b"<!DOCTYPE net><net/>"), "declares a document type"),
    "undefined entity": (with_xml(b"<net name='&x;'/>"), "no whole XML"),
    "no xml": (with_xml(b"\x80\x02}q\x00."), "no whole XML"),
    "nothing": (with_xml(b""), "no whole XML"),
    "another document": (with_xml(b"<svg/>"), "begins with <svg>"),
    "cut": (changed("</edges></net>", ""), "no whole XML"),
    "too deep": (with_xml(b"<net>" + b"<a>" * 1000 + b"</a>" * 1000 + b"</net>"), "16 levels"),
    "too many": (with_xml(b"<net>" + b"<a/>" * 250_000 + b"</net>"), "more than 200000 elements"),
    "too long": (with_xml(b"<net>" + b" " * 2**22 + b"</net>"), "more than the 4194304"),
    "layer twice": (changed('layer id="2"', 'layer id="1"'), "layer 1 twice"),
    "layer without a number": (changed('layer id="2"', 'layer id="-2"'), "id is '-2', expected a whole number"),
    "number of a thousand digits": (changed('layer id="2"', f'layer id="{"9" * 1000}"'), "expected a whole number"),
    "edge to nowhere": (changed('to-layer="3"', 'to-layer="9"'), "joins layer 0 to 9"),
    "two sources": (changed('to-port="1"', 'to-port="0"'), "has two sources"),
    "offset beyond the file": (with_constant(ONE, offset=10**9), "lies at bytes 1000000000 to 1000000004 of a .bin"),
    "end beyond the file": (with_constant(ONE, shape="1000", size=4000), "lies at bytes 40 to 4040"),
    "negative offset": (with_constant(ONE, offset=-4), "offset is '-4'"),
    "huge shape": (with_constant(ONE, shape="99999999999999, 99999999999999"), "which do not agree"),
    "shape and size differ": (with_constant(ONE, shape="2, 3"), "which do not agree"),
    "shape of words": (with_constant(ONE, shape="one"), "shape is 'one'"),
    "many dimensions": (with_constant(ONE, shape="1," * 9 + "1"), "10 dimensions"),
    "other numbers": (with_constant(np.ones(2, np.float16)), "is f16; expected f32, i64, i32"),
    "no type": (with_constant(ONE, element_type=""), "expected f32"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_ends_in_one_message(tmp_path, name):
    files, told = HOSTILE[name]
    with pytest.raises(UserError, match=re.escape(told)) as error:
        read(tmp_path, files())
    assert str(error.value).isprintable() and "; " in str(error.value) and len(str(error.value)) < 500


def test_constants_that_overlap_do_not_multiply(tmp_path):
    """A thousand constants over the same 4 MB: the same place is one tensor, shifted places end at the budget."""
    ir, numbers = Ir(), np.random.default_rng(0).random(2**20, dtype=np.float32)
    ir.constant(numbers, "first")
    for number in range(1000):
        ir.constant(np.ones(0, np.float32), f"again{number}", shape=str(2**20), offset=0, size=2**22)
    graph = read(tmp_path, ir.files(STEM)).content
    assert len({layer.tensor.data_ptr() for layer in graph.of_kind("Const")}) == 1
    for number in range(1, 1000):
        ir.constant(np.ones(0, np.float32), f"shifted{number}", shape="1000000", offset=4 * number, size=4_000_000)
    with pytest.raises(UserError, match="many times its own size in memory"):
        read(tmp_path, ir.files(STEM))


def test_a_package_without_its_members_is_another_one(tmp_path):
    with pytest.raises(UserError, match=r"another package than expected: it holds no pack/net.xml; take the version"):
        read(tmp_path, {"pack/other.bin": b"12"})


def test_zip_bombs_and_spoilt_zips_are_refused(tmp_path):
    path = write_wheel(tmp_path, "pack", "1", {f"{STEM}.xml": b"<net/>", f"{STEM}.bin": bytes(200_000_000)})
    with pytest.raises(UserError, match="many times its own size in memory"):
        read_published(path, MEMBERS)
    good = write_wheel(tmp_path, "pack", "2", small_ir().files(STEM)).read_bytes()
    for spoilt, told in (
        (good[:-60], "cut short"),
        (good[:200], "cut short"),
        (b"<html>no</html>", "a web page"),
        (b"\x80\x02}q.", "kind pickle"),
    ):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=told):
            read_published(path, MEMBERS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../" + MEMBERS[0], b"<net/>")
    with pytest.raises(UserError, match="leads out of its folder"):
        read_published(path, MEMBERS)


def test_tar_bombs_and_spoilt_tars_are_refused(tmp_path):
    path, inside = tmp_path / "pack-1.tar.gz", ("pack-1/w.ckpt",)

    def refused(content: bytes, told: str) -> None:
        path.write_bytes(content)
        with pytest.raises(UserError, match=told):
            read_published(path, inside)

    good = gzip.compress(tar({"pack-1/w.ckpt": bytes(2000)}))
    refused(gzip.compress(tar({"pack-1/big": bytes(100_000_000), "pack-1/w.ckpt": b"1"})), "it unpacks to more than")
    refused(gzip.compress(tar({"pack-1/w.ckpt": bytes(100_000_000)})), "many times its own size in memory")
    refused(good[: len(good) // 2], "cut short")
    refused(good[:-12] + struct.pack("<3I", 1, 2, 3), "cut short|damaged|no known kind|zeros")
    refused(gzip.compress(b"no tar at all"), "cut short")
    refused(gzip.compress(tar({"pack-1/other": b"1"})), "another package than expected")
    header = bytearray(tar({"pack-1/w.ckpt": b""})[:512])
    header[124:136] = b"77777777777\0"  # 8 GB in octal
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    refused(gzip.compress(bytes(header)), "many times its own size in memory")
    link = bytearray(header)
    link[156:157] = b"2"  # a symbolic link
    refused(gzip.compress(bytes(link)), "cut short|another package")


def test_the_limits_leave_room_for_the_published_graph():
    assert openvino_ir.MOST_XML_BYTES > 9 * 425_183 and openvino_ir.MOST_ELEMENTS > 10 * 10_915


def test_a_member_is_read_by_its_content(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")  # a zip within the zip
    with pytest.raises(UserError, match=r"w\.pth in it is a zip archive, but none of TorchScript"):
        read(tmp_path, {"pack/w.pth": (tmp_path / "w.pth").read_bytes()}, ("pack/w.pth",))
    with pytest.raises(UserError, match=r"of a kind that is not read out of packages \(safetensors\)"):
        read(tmp_path, {"pack/w.safetensors": save({"a": torch.ones(2)})}, ("pack/w.safetensors",))


def torchscript(arrays: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """As PyTorch writes one, with a pickle and code that must not be looked at."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(f"net/data/{name}", content)
        archive.writestr("net/data.pkl", b"cos\nsystem\n(S'touch canary'\ntR.")
        archive.writestr("net/code/__torch__/net.py", "raise SystemExit")
    return buffer.getvalue()


def test_the_numbers_of_a_torchscript_member_are_read_in_order(tmp_path):
    rows = {str(i): np.arange(i + 1, dtype="<f4").tobytes() for i in (2, 0, 11, 1)}
    found = read(tmp_path, {"pack/net.pt": torchscript(rows)}, ("pack/net.pt",)).content
    assert list(found) == ["0", "1", "2", "11"] and found["2"].tolist() == [0, 1, 2]
    member = {"pack/net.pt": torchscript({"0": b"1234", "1": b"12345"})}
    with pytest.raises(UserError, match=r"array 1 of pack/net\.pt in it is not of float32"):
        read(tmp_path, member, ("pack/net.pt",))
    with pytest.raises(UserError, match=r"is compressed, which torch\.save never does"):
        read(tmp_path, {"pack/net.pt": torchscript(rows, zipfile.ZIP_DEFLATED)}, ("pack/net.pt",))
    bomb = {"pack/net.pt": torchscript({str(i): bytes(2**22) for i in range(16)})}
    with pytest.raises(UserError, match="many times its own size"):
        read(tmp_path, bomb, ("pack/net.pt",))
