"""Sources: every kind of root, what counts as an image, and errors that say what to do."""

import contextlib
import io
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.data.sampler import split_by_name
from hyperinverter.data.sources import check_images, open_source
from hyperinverter.utils.decode import BadImageError
from hyperinverter.utils.errors import UserError


def image_bytes(value: int, image_format: str = "PNG", size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, image_format)
    return buffer.getvalue()


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes(value, "JPEG" if path.suffix.lower() != ".png" else "PNG"))


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def first_level(source, index: int) -> int:
    return source.read(index).getpixel((0, 0))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, value in {"b.png": 20, "a.PNG": 10, "deep/er/c.jpg": 30, ".hidden.png": 0, "__MACOSX/d.png": 0}.items():
        write(root / name, value)
    (root / "notes.txt").write_text("not an image")
    return root


def test_folder_is_read_recursively_in_name_order_and_other_files_are_listed_once(folder, caplog):
    check_images(str(folder), "folder")
    assert not caplog.records  # a zip's were named three times: by the checks before the networks are loaded, too
    source = open_source(folder)
    assert "left out, no image by its extension: 3 files: .hidden.png, __MACOSX/d.png" in caplog.text
    assert source.names == ["a.PNG", "b.png", "deep/er/c.jpg"]
    assert [first_level(source, i) for i in range(3)] == [10, 20, 30]
    assert source.ignored == [".hidden.png", "__MACOSX/d.png", "notes.txt"]


def test_zip_reads_like_the_folder_it_was_made_from(folder, tmp_path):
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    source, same = open_source(make_zip(tmp_path / "photos.zip", members)), open_source(folder)
    assert source.names == same.names and source.ignored == same.ignored
    assert all(source.read(i).tobytes() == same.read(i).tobytes() for i in range(3))


def test_single_file_glob_and_list(folder, tmp_path):
    assert open_source(folder / "b.png").names == ["b.png"]
    assert open_source(str(folder / "**/*.jpg")).names == ["c.jpg"]
    make_zip(tmp_path / "part_0.zip", {"x.png": image_bytes(1)})
    make_zip(tmp_path / "part_1.zip", {"x.png": image_bytes(2), "y.png": image_bytes(3)})
    source = open_source(str(tmp_path / "part_*.zip"))
    assert source.names == ["part_0/x.png", "part_1/x.png", "y.png"]  # only the name that occurs twice is lengthened
    assert source.split_keys == ["x.png", "x.png", "y.png"]
    assert [first_level(source, i) for i in range(3)] == [1, 2, 3]
    both = open_source([str(folder), str(tmp_path / "part_1.zip")], max_images=4)
    assert both.names == ["a.PNG", "b.png", "deep/er/c.jpg", "x.png"]


def test_folders_linked_in_a_circle_or_twice_are_read_once(folder):
    """A link to a folder above gave every image some forty times, at ever longer paths."""
    (folder / "deep" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "elsewhere").symlink_to(folder / "deep", target_is_directory=True)
    assert open_source(folder).names == ["a.PNG", "b.png", "deep/er/c.jpg"]


def test_an_image_named_twice_is_read_once_and_counted(folder, tmp_path, caplog):
    (tmp_path / "same").symlink_to(folder, target_is_directory=True)
    archive = make_zip(tmp_path / "a.zip", {"x.png": image_bytes(1), "y.png": image_bytes(2)})
    source = open_source([str(folder / "b.png"), str(folder), str(archive), str(tmp_path / "same"), str(archive)])
    assert source.names == ["b.png", "a.PNG", "deep/er/c.jpg", "x.png", "y.png"]
    assert [first_level(source, i) for i in range(5)] == [20, 10, 30, 1, 2]
    assert "6 images are named more than once in data.root and are read once" in caplog.text
    assert open_source([str(folder / "*.png"), str(folder / "b.png")]).names == ["b.png"]


def test_missing_and_empty_roots_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere.*data\.root"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no file matches the pattern"):
        open_source(str(tmp_path / "*.zip"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images in .*empty: put files there that end in \.jpg"):
        open_source(tmp_path / "empty")
    (tmp_path / "empty" / "readme.md").write_text("")
    with pytest.raises(UserError, match=r"1 other file, such as readme\.md"):
        open_source(tmp_path / "empty")
    with pytest.raises(UserError, match="no images in"):
        open_source(make_zip(tmp_path / "texts.zip", {"a.txt": b"text"}))
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="no readable zip file"):
        open_source(tmp_path / "broken.zip")
    (tmp_path / "weights.bin").write_bytes(b"123")
    with pytest.raises(UserError, match="neither a folder, a zip"):
        open_source(tmp_path / "weights.bin")


def test_stated_kind_must_fit(folder):
    assert len(open_source(folder, kind="folder")) == 3
    with pytest.raises(UserError, match="looks like kind folder"):
        open_source(folder, kind="zip")
    with pytest.raises(ValueError, match="unknown kind"):
        open_source(folder, kind="tar")


def test_zip_survives_pickling_threads_and_fork(tmp_path):
    """A ZipFile opened before a fork gives 'Bad CRC-32' in the child unless it is read by place."""
    members = {f"{i:03d}.png": image_bytes(i) for i in range(40)}
    source = open_source(make_zip(tmp_path / "many.zip", members))
    assert first_level(source, 3) == 3
    assert first_level(pickle.loads(pickle.dumps(source)), 7) == 7
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: first_level(source, i), range(40))) == list(range(40))
    if "fork" in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context("fork").Pool(2) as processes:
            assert processes.starmap(first_level, [(source, i) for i in range(40)]) == list(range(40))


def test_damaged_zip_member_names_itself(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"good.png": image_bytes(1), "hurt.png": image_bytes(2)})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\x89PNG") + 20] ^= 0xFF  # inside the stored second member: its checksum no longer fits
    path.write_bytes(data)
    source = open_source(path)
    assert first_level(source, 0) == 1
    with pytest.raises(BadImageError, match=r"hurt\.png: cannot be read: Bad CRC-32"):
        source.read(1)


def test_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb", reason="the lmdb package, which writes databases, is not installed")
    path = tmp_path / "church_outdoor_train_lmdb"
    path.parent.mkdir(exist_ok=True)
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for i in range(6):
            transaction.put(bytes(f"{i:040x}", "ascii"), image_bytes(10 * i, "WEBP"))
        transaction.put(b"\xff\x00key", b"no image at all")
    source = open_source(path)
    assert len(source) == 7 and source.names[1] == f"{1:040x}" and source.names[-1] == "ff006b6579"
    assert abs(first_level(source, 5) - 50) <= 1
    assert len(open_source(path, kind="lmdb", max_images=2)) == 2  # a second source of an open database
    with pytest.raises(BadImageError, match="ff006b6579: not an image"):
        source.read(6)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(2).tobytes() == source.read(2).tobytes()
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]  # nothing written beside it
    if "fork" in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context("fork").Pool(2) as processes:
            levels = processes.starmap(first_level, [(source, i) for i in range(6)])
        assert levels == [first_level(source, i) for i in range(6)]


def write_lmdb(path: Path, entries: dict[str, bytes], **options) -> Path:
    lmdb = pytest.importorskip("lmdb", reason="the lmdb package, which writes databases, is not installed")
    path.parent.mkdir(exist_ok=True)
    with lmdb.open(str(path), map_size=2**24, **options) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return path


def photos_in_sizes(sizes: tuple[int, ...], count: int, digits: int = 5) -> dict[str, bytes]:
    """As rosinality's prepare_data writes them, without `length`."""
    pairs = [(size, number) for number in range(count) for size in sizes]
    return {f"{s}-{n:0{digits}d}": image_bytes(10 * n + sizes.index(s), "PNG", (s, s)) for s, n in pairs}


@pytest.mark.parametrize(
    ("sizes", "resolution", "read"),
    [((32, 64), 64, 64), ((32, 64), 16, 32), ((32, 64), 48, 64), ((32, 64), 256, 64), ((48,), 64, 48),
     ((128, 256, 512, 1024), 256, 256), ((32, 64), None, 64)],
)  # fmt: skip
@pytest.mark.parametrize("digits", [5, 7])
def test_every_photo_of_a_database_in_several_sizes_is_read_once(tmp_path, sizes, resolution, read, digits):
    path = write_lmdb(tmp_path / "faces", photos_in_sizes(sizes, 6, digits) | {"length": b"6"})
    source = open_source(path, resolution=resolution)
    assert source.names == [f"{number:0{digits}d}" for number in range(6)] and not source.ignored
    assert source.split_keys == source.names, "the same photo goes the same way in every size"
    assert [first_level(source, i) for i in range(6)] == [10 * i + sizes.index(read) for i in range(6)]
    assert source.read(3).size == (read, read)


def test_the_split_of_a_database_shares_no_photo_and_does_not_hang_on_the_size(tmp_path):
    path = write_lmdb(tmp_path / "faces", photos_in_sizes((32, 64), 12) | {"length": b"12"})
    splits = [[set(part.names) for part in split_by_name(open_source(path, resolution=size), 0.3)] for size in (32, 64)]
    assert splits[0] == splits[1] and not splits[0][0] & splits[0][1] and len(splits[0][0] | splits[0][1]) == 12


def test_other_databases_keep_their_keys_and_lose_their_bookkeeping(tmp_path):
    stopped = open_source(write_lmdb(tmp_path / "stopped", photos_in_sizes((32, 64), 3)))  # before `length` is written
    assert stopped.names == ["00000", "00001", "00002"]
    subjects = write_lmdb(tmp_path / "subjects", {f"{s}-{n}": image_bytes(s) for s in (7, 12) for n in range(3)})
    assert len(open_source(subjects)) == 6, "no sizes: people and their photos"
    text = write_lmdb(tmp_path / "text", {f"image-{n:09d}": image_bytes(n) for n in range(3)} | {"num-samples": b"3"})
    assert open_source(text).names == [f"image-{n:09d}" for n in range(3)]
    alone = write_lmdb(tmp_path / "one.lmdb", {"a": image_bytes(5), "__len__": b"1"}, subdir=False)
    assert open_source(alone).names == ["a"] and first_level(open_source(alone), 0) == 5


def test_what_holds_images_in_another_way_names_the_path_to_give(tmp_path):
    path = write_lmdb(tmp_path / "lsun" / "church_outdoor_val_lmdb", {"a": image_bytes(1)})
    with tarfile.open(tmp_path / "faces.tar.gz", "w:gz") as archive:
        archive.add(path / "data.mdb", "a.png")
    shutil.copy(tmp_path / "faces.tar.gz", tmp_path / "faces")  # without an ending, by content
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "ffhq-r10.tfrecords").write_bytes(b"x")
    (tmp_path / "zips" / "deep").mkdir(parents=True)
    make_zip(tmp_path / "zips" / "deep" / "a.zip", {"a.png": image_bytes(1)})
    (tmp_path / "tables").mkdir()
    for name in ("train-00000.parquet", "tables/a.parquet", "clip.mp4", "celeba.h5"):
        (tmp_path / name).write_bytes(b"PAR1")
    (tmp_path / "IMG_1.CR3").write_bytes(b"\0\0\0\x18ftypcrx ")
    nested = make_zip(tmp_path / "nested.zip", {"inner.zip": (tmp_path / "zips" / "deep" / "a.zip").read_bytes()})
    packed = make_zip(tmp_path / "lsun.zip", {"church_lmdb/data.mdb": b"x", "church_lmdb/lock.mdb": b"x"})
    for root, told in (
        (path / "data.mdb", f"is the file of an LMDB database: give its folder, {path}"),
        (tmp_path / "lsun", f"it holds LMDB databases: give {path}"),
        (packed, "it is a packed LMDB database: unpack it (unzip lsun.zip -d FOLDER) and give FOLDER/church_lmdb"),
        (nested, "it holds zip archives: unpack it (unzip nested.zip -d FOLDER) and give 'FOLDER/*.zip'"),
        (tmp_path / "records", "it holds TensorFlow's records of images: unpack them to images with"),
        (tmp_path / "records" / "ffhq-r10.tfrecords", "holds TensorFlow's records of images: unpack them"),
        (tmp_path / "faces.tar.gz", "is a tar archive: unpack it (tar -xf faces.tar.gz -C FOLDER)"),
        (tmp_path / "faces", "is packed, as tar archives are: unpack it (tar -xf faces -C FOLDER)"),
        (tmp_path / "train-00000.parquet", "is a table of images: write them out as files"),
        (tmp_path / "tables", "it holds tables of images: write them out as files"),
        (tmp_path / "clip.mp4", "is a video: take pictures out (ffmpeg -i VIDEO FOLDER/%05d.png)"),
        (tmp_path / "celeba.h5", "is an HDF5 file: write its images out"),
        (tmp_path / "zips", f"it holds zip archives: give '{tmp_path}/zips/deep/*.zip'"),
    ):
        with pytest.raises(UserError) as error:
            open_source(root)
        assert told in str(error.value), error.value


@pytest.fixture
def database(tmp_path):
    """A database of two transactions with values inside pages and on pages of their own; its folder and content."""
    lmdb = pytest.importorskip("lmdb", reason="the lmdb package, which writes databases, is not installed")
    draw, content = random.Random(0), {}
    with lmdb.open(str(tmp_path / "db"), map_size=2**24) as environment:
        for part in range(2):
            with environment.begin(write=True) as transaction:
                for i in range(part, 600, 2):
                    content[f"{i:040x}"] = draw.randbytes(draw.choice((0, 10, 500, 2500, 9000)))
                    transaction.put(f"{i:040x}".encode(), content[f"{i:040x}"])
        with environment.begin(write=True) as transaction:
            for i in range(0, 600, 7):
                transaction.delete(f"{i:040x}".encode())
                del content[f"{i:040x}"]
    return tmp_path / "db", content


def test_a_database_is_read_without_its_package(database, monkeypatch):
    path, content = database
    monkeypatch.setitem(sys.modules, "lmdb", None)
    source = open_source(path)
    assert list(source.names) == sorted(content)
    assert [source.read_bytes(i) for i in range(len(source))] == [content[name] for name in source.names]


def test_a_database_that_is_cut_or_damaged_ends_no_process(database):
    path, _ = database
    data, draw, endings = path / "data.mdb", random.Random(0), set()
    whole = data.read_bytes()
    used = len(whole)
    hurt = [whole[: draw.randrange(used)] for _ in range(20)] + [b"", whole[:4096], bytes(used), b"x" * used]
    for _ in range(150):
        page = bytearray(whole)
        at = draw.randrange(0, used, 4096) + draw.randrange(60)
        page[at : at + draw.choice((1, 2, 4, 8))] = draw.choice((b"\0", b"\xff", b"\x7f\xff")) * 4
        hurt.append(bytes(page[:used]))
    for content in hurt:
        data.write_bytes(content)
        try:
            source = open_source(path)
            endings.add("read")
            for index in range(len(source)):
                with contextlib.suppress(BadImageError):
                    source.checked_bytes(index)
        except UserError as error:
            endings.add("refused")
            assert str(path) in str(error)
    assert endings == {"read", "refused"}


def test_a_database_cut_while_it_is_read_spoils_only_what_is_gone(database):
    path, content = database
    source = open_source(path)
    os.truncate(path / "data.mdb", 8192)
    long = next(i for i, name in enumerate(source.names) if len(content[name]) == 9000)
    with pytest.raises(BadImageError, match="bytes too early"):
        source.read(long)


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_one_bad_image_however_it_is_packed(packing, tmp_path):
    path, draw = tmp_path / "a.zip", random.Random(1)
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("a.png", image_bytes(10, "PNG") * 20)
    whole = path.read_bytes()
    begin, end, refused = 30 + len("a.png"), whole.index(b"PK\1\2"), 0
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(begin, end)] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            open_source(path).read(0)  # some bits of the packing's head mean nothing
        except BadImageError as error:
            refused += error.name == "a.png"
    assert refused > 40


def test_reading_logs_nothing_for_good_files(folder, caplog):
    (folder / "notes.txt").unlink(), (folder / ".hidden.png").unlink(), (folder / "__MACOSX/d.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert np.asarray(open_source(folder).read(0)).shape == (16, 16, 3)
    assert not caplog.records
