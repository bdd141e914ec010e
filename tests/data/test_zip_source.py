"""Zip archives read by their table of contents, beside what `zipfile` reads from them."""

import pickle
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperinverter.data.sources import open_source
from hyperinverter.data.zip_source import ZipSource
from hyperinverter.utils.decode import BadImageError
from hyperinverter.utils.errors import UserError


def write(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED, **options) -> Path:
    with zipfile.ZipFile(path, "w", method, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def assert_reads_as_zipfile(path: Path) -> None:
    source = ZipSource(path)
    with zipfile.ZipFile(path) as archive:
        wanted = sorted(n for n in set(archive.namelist()) if n.endswith(".png"))
        assert source.names == wanted
        assert [source.read_bytes(i) for i in range(len(source))] == [archive.read(name) for name in wanted]


MEMBERS = {"b/2.png": b"two" * 500, "a.png": b"", "b/1.png": bytes(range(256)), "notes.txt": b"x", "ä/日本.png": b"utf"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_packing(method, tmp_path):
    path = write(tmp_path / "a.zip", MEMBERS, method)
    assert_reads_as_zipfile(path)
    source = pickle.loads(pickle.dumps(ZipSource(path)))
    assert source.ignored == ["notes.txt"] and source.read_bytes(2) == MEMBERS["b/2.png"]


def test_comments_folders_old_names_and_what_stands_before_the_archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"a comment of some length"
        archive.mkdir("folder.png")
        archive.writestr("folder.png/x.png", b"inside")
        info = zipfile.ZipInfo("caf\xe9.png")  # written as UTF-8 by Python; below as CP437
        archive.writestr(info, b"accent")
    data = path.read_bytes().replace("café".encode(), b"caf\x82x").replace(b"\x00\x08", b"\x00\x00")
    path.write_bytes(data)
    assert_reads_as_zipfile(path)
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())
    assert_reads_as_zipfile(path)
    path.write_bytes(path.read_bytes().replace(b"a comment of some length", b"PK\5\6 marks an end record"))
    assert ZipSource(path).read_bytes(1) == b"inside"  # zipfile takes the comment for the end


def test_of_two_members_of_one_name_the_later_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for data in (b"old", b"new", b"newest"):
            archive.writestr("x.png", data)
        archive.writestr("a.png", b"other")
    assert_reads_as_zipfile(tmp_path / "a.zip")
    assert ZipSource(tmp_path / "a.zip").read_bytes(1) == b"newest"


def test_numbers_beyond_32_bits(tmp_path, monkeypatch):
    """More members than 16 bits count, and every size and place in the 64-bit fields, as in archives above 4 GiB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    members = {f"{i}.png": bytes([i]) * (150 + i) for i in range(5)}
    path = write(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED)
    assert b"PK\6\6" in path.read_bytes()
    assert_reads_as_zipfile(path)
    table = ZipSource(path)._table
    assert [int(size) for size in table["size"]] == [150, 151, 152, 153, 154]


def test_many_threads_read_at_once(tmp_path):
    source = ZipSource(write(tmp_path / "a.zip", {f"{i:03d}.png": bytes([i]) * 999 for i in range(200)}))
    with ThreadPoolExecutor(8) as pool:
        assert all(data == bytes([i]) * 999 for i, data in enumerate(pool.map(source.read_bytes, range(200))))


def test_members_that_cannot_be_read_are_named(tmp_path):
    path = write(tmp_path / "a.zip", {"a.png": b"first" * 9, "b.png": b"second" * 9}, zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()

    def damaged(old: bytes, new: bytes, last: bool = False) -> ZipSource:
        at = whole.rindex(old) if last else whole.index(old)
        path.write_bytes(whole[:at] + new + whole[at + len(old) :])
        return open_source(path)

    with pytest.raises(BadImageError, match=r"a\.png: cannot be read: no member begins where"):
        damaged(b"PK\3\4", b"PK\3\5").read(0)
    entry = whole[whole.index(b"PK\1\2") :][:46]
    encrypted = entry[:8] + struct.pack("<H", 1) + entry[10:]
    with pytest.raises(BadImageError, match=r"a\.png: cannot be read: it is encrypted; unpack the archive"):
        damaged(entry, encrypted).read(0)
    unknown = entry[:10] + struct.pack("<H", 99) + entry[12:]
    with pytest.raises(BadImageError, match=r"a\.png: cannot be read: .*compression"):
        damaged(entry, unknown).read(0)
    longer = entry[:24] + struct.pack("<L", 46) + entry[28:]
    with pytest.raises(BadImageError, match=r"a\.png: cannot be read: Bad CRC-32"):
        damaged(entry, longer).read(0)


@pytest.mark.parametrize("count", [2**40, 2**62, 2**63])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_of_impossible_size_is_one_bad_image(method, count, tmp_path):
    """Its bytes were asked for as declared: a MemoryError or an OverflowError ended the run."""
    path = write(tmp_path / "a.zip", {"a.png": b"first" * 9, "b.png": b"second" * 9}, method)
    whole = path.read_bytes()
    at, end = whole.rindex(b"PK\1\2"), whole.rindex(b"PK\5\6")
    entry = bytearray(whole[at:end])
    extra = struct.pack("<2H2Q", 1, 16, count, count)  # size and packed size beyond 32 bits
    struct.pack_into("<2L", entry, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", entry, 30, len(extra))
    tail = bytearray(whole[end:])
    struct.pack_into("<L", tail, 12, struct.unpack_from("<L", tail, 12)[0] + len(extra))
    path.write_bytes(whole[:at] + entry + extra + tail)
    source = open_source(path)
    assert source.read_bytes(0) == b"first" * 9
    with pytest.raises(BadImageError, match=r"b\.png: cannot be read: "):
        source.read(1)


def test_an_archive_that_is_cut_or_damaged_is_refused_as_a_whole(tmp_path):
    path = write(tmp_path / "a.zip", MEMBERS)
    whole = path.read_bytes()
    for broken in (whole[:-10], whole[: len(whole) // 2], b"PK\3\4", whole.replace(b"PK\1\2", b"PK\1\3"), whole[200:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.zip is no readable zip file .*copy or download it again"):
            ZipSource(path)
    with zipfile.ZipFile(path, "w"):
        pass
    assert len(ZipSource(path)) == 0
