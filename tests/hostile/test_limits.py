"""Sizes declared in small files: memory within three times the file and 200 MB, 20 seconds, and one plain refusal.

Each file asks for a hundred times its size or more; behind # what reading it once took.
(More than 350 lines because the corpus is one list: a new file is one short function more.)
"""

import bz2
import functools
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import readings
import torch
from limits import outcome_of
from PIL import Image
from tiny_model import make_tiny_domain, save_tiny_model

from hyperinverter.checkpoint import read_model, save_model, save_training_state
from hyperinverter.inverters.inversion_file import INVERSION_FORMAT
from hyperinverter.utils.safetensors_io import write_tensors

SIDE = 13_000  # px; 169 megapixels, of which Pillow only warns
FILES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], bool]] = {}  # name -> make, read, is refused
SLOW: set[str] = set()


def hostile(read: Callable[[Path], object], *, slow: bool = False, refused: bool = True) -> Callable:
    def note(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        FILES[make.__name__] = (make, read, refused)
        if slow:
            SLOW.add(make.__name__)
        return make

    return note


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def zeros_gz(count: int, piece: bytes = bytes(1_000_000)) -> bytes:
    """A gzip stream of `count` pieces, made at once: its members may follow one another."""
    return gzip.compress(piece) * count


# ------------------------------------------------------------------------------------------------------- weights


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


@hostile(readings.weights)
def npy_of_empty_texts(folder: Path) -> Path:  # 4.9 GB
    head = "{'descr': '<U4', 'fortran_order': False, 'shape': (15000000, 0), }"
    return written(folder / "x.npy", npy(head))


@hostile(readings.weights)
def npy_of_nested_empty_texts(folder: Path) -> Path:
    head = "{'descr': '<U0', 'fortran_order': False, 'shape': (30, 1000, 1000, 1), }"
    return written(folder / "x.npy", npy(head))


@hostile(readings.direction, refused=True)
def direction_of_empty_texts(folder: Path) -> Path:
    return npy_of_empty_texts(folder)


def many_names(path: Path, names: list[str], data: bytes, others: dict[str, bytes] | None = None) -> Path:
    """A zip whose every name stands for the same stored entry, with `others` before it."""
    body, directory = b"", []
    for group, content in [*(([name], content) for name, content in (others or {}).items()), (names, data)]:
        sizes, at = (zlib.crc32(content), len(content), len(content)), len(body)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, *sizes, 1, 0) + b"x" + content
        directory += [
            struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, at)
            + name.encode()
            for name in group
        ]
    count, listed = len(directory) & 0xFFFF, b"".join(directory)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(listed), len(body), 0)
    return written(path, body + listed + end)


class Numbers:
    """A tensor in a torch file whose million numbers are the entry `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple:
        return torch._utils._rebuild_tensor_v2, (Stored(self.name), 0, (1,), (1,), False, OrderedDict())


class Stored(str):
    pass


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> tuple | None:
        if isinstance(value, Stored):
            return "storage", torch.FloatStorage, str(value), "cpu", 1_000_000
        return None


@hostile(readings.weights, slow=True)
def pt_of_many_names_for_one_entry(folder: Path) -> Path:  # minutes
    pickled = io.BytesIO()
    Pickler(pickled, 2).dump({str(number): Numbers(str(number)) for number in range(60_000)})
    return many_names(folder / "x.pt", [f"a/data/{number}" for number in range(60_000)], bytes(4_000_000),
                      {"a/data.pkl": pickled.getvalue()})  # fmt: skip


@hostile(readings.weights)
def npz_of_names_for_one_entry(folder: Path) -> Path:
    return many_names(folder / "x.npz", [f"{number}.npy" for number in range(2_000)], bytes(1_000_000))


@hostile(readings.weights)
def npz_that_unpacks_to_much(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        head = "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000,), }"
        archive.writestr("a.npy", npy(head, bytes(400_000_000)))
    return folder / "x.npz"


@hostile(readings.weights, slow=True)
def safetensors_of_empty_tensors(folder: Path) -> Path:  # minutes
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({str(number): entry for number in range(900_000)}).encode()
    return written(folder / "x.safetensors", struct.pack("<Q", len(text)) + text)


@hostile(readings.w_encoder)
def published_encoder_with_an_endless_empty_layer(folder: Path) -> Path:  # a terabyte asked for
    trunk = make_tiny_domain().w_encoder
    from hyperinverter.models.encoders import WEncoder

    state = WEncoder(trunk, w_dim=16).state_dict()
    state |= {"linear.weight": torch.empty(2**39, 0), "linear.bias": torch.empty(0)}
    torch.save(state, folder / "x.pt")
    return folder / "x.pt"


# --------------------------------------------------------------------------------------------------- own model files


def with_config(folder: Path, part: str, change: Callable[[dict], None]) -> Path:
    save_tiny_model(folder / "model", make_tiny_domain())
    path = folder / "model" / f"{part}.safetensors"
    file = read_model(path)
    change(file.config)
    save_model(path, file.state, kind=file.kind, config=file.config, requires=file.requires, info=file.info)
    return path


@hostile(readings.model)
def generator_with_ten_million_classes(folder: Path) -> Path:  # 3.1 GB
    return with_config(folder, "generator", lambda config: config["generator"].update(c_dim=10_000_000))


@hostile(readings.model)
def generator_of_wide_layers(folder: Path) -> Path:  # a terabyte asked for
    sizes = {"channel_base": 2**30, "channel_max": 2**18, "w_dim": 2**18}
    return with_config(folder, "generator", lambda config: config["generator"].update(sizes))


@hostile(readings.model)
def generator_of_very_many_layers(folder: Path) -> Path:
    return with_config(folder, "generator", lambda config: config["generator"].update(mapping_layers=2**30))


@hostile(readings.generator)
def generator_of_a_huge_image(folder: Path) -> Path:
    return with_config(folder, "generator", lambda config: config.update(resolution=2**24))


@hostile(readings.model)
def encoder_of_very_many_layers(folder: Path) -> Path:
    return with_config(folder, "w_encoder", lambda config: config["w_encoder"].update(depths=[2**30, 1, 1, 1]))


@hostile(readings.model)
def encoder_of_wide_layers(folder: Path) -> Path:
    return with_config(folder, "w_encoder", lambda config: config["w_encoder"].update(widths=[8, 8, 16, 2**20]))


@hostile(readings.model)
def hypernetwork_of_large_tokens(folder: Path) -> Path:
    return with_config(folder, "hyperinverter", lambda c: c["hypernetwork"].update(hidden_size=2**24))


@hostile(readings.inversion)
def inversion_of_thirty_million_styles(folder: Path) -> Path:  # 4.3 GB
    metadata = {"format": INVERSION_FORMAT, "num_ws": "30000000"}
    write_tensors(folder / "x.safetensors", {"w": torch.zeros(1, 36)}, metadata)
    return folder / "x.safetensors"


@hostile(readings.inversion, refused=False)
def inversion_of_many_images(folder: Path) -> Path:
    """99 styles of each, from one code: 99 times the file when written out."""
    metadata = {"format": INVERSION_FORMAT, "num_ws": "99"}
    write_tensors(folder / "x.safetensors", {"w": torch.zeros(10_000, 512)}, metadata)
    return folder / "x.safetensors"


@hostile(readings.checkpoint)
def checkpoint_that_unpacks_to_much(folder: Path) -> Path:  # 4.1 GB from 4 MB
    path = save_training_state(folder, 1, {"a": torch.zeros(75_000_000)})
    with (
        zipfile.ZipFile(path) as whole,
        zipfile.ZipFile(folder / "x", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    return (folder / "x").rename(path)


@hostile(readings.checkpoint)
def checkpoint_of_names_for_one_entry(folder: Path) -> Path:
    names = ["a/data.pkl", *(f"a/data/{number}" for number in range(20_000))]
    return many_names(folder / "step_00000001.pt", names, bytes(4_000_000))


@hostile(readings.checkpoint)
def checkpoint_that_asks_for_zeros(folder: Path) -> Path:  # 1.2 GB from 40 bytes
    with zipfile.ZipFile(folder / "step_00000001.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02cbuiltins\nbytearray\nJ\0\x94\x35\x47\x85R.")
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    return folder / "step_00000001.pt"


# -------------------------------------------------------------------------------------------------------------- HDF5


def h5(path: Path, fill: Callable) -> Path:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path, "w") as file:
        fill(h5py, file)
    return path


@hostile(readings.keras)
def h5_of_packed_zeros(folder: Path) -> Path:  # 4.6 GB
    options = {"shape": (400_000_000,), "dtype": "u1", "chunks": (40_000_000,), "compression": "gzip"}

    def fill(h5py, file) -> None:
        dataset = file.create_dataset("a/a/kernel:0", **options)
        for chunk in range(10):
            dataset.id.write_direct_chunk((chunk * 40_000_000,), zlib.compress(bytes(40_000_000)))

    return h5(folder / "x.h5", fill)


@hostile(readings.keras)
def h5_of_groups_in_groups(folder: Path) -> Path:  # minutes
    def fill(h5py, file) -> None:
        for _ in range(3000):
            file = file.create_group("a")

    return h5(folder / "x.h5", fill)


@hostile(readings.keras)
def h5_that_is_virtual(folder: Path) -> Path:  # 4.8 GB from 2.4 KB
    def fill(h5py, file) -> None:
        source = file.create_dataset("s/s/bias:0", data=np.zeros(4, np.float32))
        layout = h5py.VirtualLayout(shape=(300_000_000,), dtype="f4")
        layout[:4] = h5py.VirtualSource(source)
        file.create_virtual_dataset("a/a/kernel:0", layout)

    return h5(folder / "x.h5", fill)


@hostile(readings.keras)
def h5_of_unwritten_numbers(folder: Path) -> Path:
    return h5(folder / "x.h5", lambda h5py, file: file.create_dataset("a/a/kernel:0", (500_000_000,), "f4"))


# -------------------------------------------------------------------------------------------------------------- text


@hostile(readings.config)
def yaml_of_laughs(folder: Path) -> Path:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return written(folder / "x.yaml", "\n".join([*lines, "directions: *a9"]).encode())


@hostile(readings.override)
def override_of_laughs(folder: Path) -> Path:
    inner = "&a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"
    lines = [inner, *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]
    return written(folder / "x.txt", f"[{', '.join(lines)}]".encode())


@hostile(readings.config)
def yaml_of_many_aliases(folder: Path) -> Path:
    return written(folder / "x.yaml", b"output: &a x\ndirections: [" + b"*a, " * 300_000 + b"x]")


@hostile(readings.config)
def yaml_of_an_alias_inside_itself(folder: Path) -> Path:
    return written(folder / "x.yaml", b"directions: &a [*a, *a]")


@hostile(readings.config)
def yaml_nested_without_end(folder: Path) -> Path:
    return written(folder / "x.yaml", b"directions: " + b"[" * 90_000)


@hostile(readings.config)
def yaml_that_is_long(folder: Path) -> Path:
    return written(folder / "x.yaml", b"directions: [" + b"x, " * 3_000_000 + b"x]")


@hostile(readings.config)
def yaml_of_values_that_are_none(folder: Path) -> Path:  # AttributeError, IndexError
    return written(folder / "x.yaml", b"output: !!timestamp x\nbatch_size: !!int ''\n")


@hostile(readings.config)
def yaml_of_a_base_that_no_file_system_takes(folder: Path) -> Path:
    return written(folder / "x.yaml", b"base: " + b"a" * 5000 + b".yaml\n")


@hostile(readings.config)
def yaml_of_a_base_of_nobody(folder: Path) -> Path:
    return written(folder / "x.yaml", b"base: ~nobody_is_called_so/a.yaml\n")


@hostile(readings.labels)
def labels_that_unpack_to_much(folder: Path) -> Path:  # 10 GB from 2 MB
    return written(folder / "x.csv.gz", gzip.compress(b"file,Smiling\n") + zeros_gz(1000, b"a.png,1\n" * 100_000))


@hostile(readings.labels)
def labels_of_one_endless_line(folder: Path) -> Path:
    return written(folder / "x.csv.gz", gzip.compress(b"file,Smiling\n") + zeros_gz(800, b"a" * 1_000_000))


@hostile(readings.labels)
def labels_of_empty_lines(folder: Path) -> Path:
    return written(folder / "x.csv.gz", gzip.compress(b"file,Smiling\n") + zeros_gz(3000, b"\n" * 1_000_000))


@hostile(readings.labels)
def labels_of_many_columns(folder: Path) -> Path:
    return written(folder / "x.csv", b"file" + b",x" * 500_000 + b"\n" + b"a\n" * 50_000)


# ------------------------------------------------------------------------------------------------------------ images


def picture(image_format: str, mode: str = "RGB", side: int = SIDE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, image_format, **options)
    return buffer.getvalue()


def png_of_zeros(side: int, depth: int, colour: int) -> bytes:
    """A whole PNG of zeros, packed row by row, so that nothing large is held to make it."""
    row = bytes(1 + side * {0: 1, 2: 3, 6: 4}[colour] * depth // 8)
    packer, body = zlib.compressobj(9), io.BytesIO()
    for _ in range(side):
        body.write(packer.compress(row))
    body.write(packer.flush())

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body.getvalue()) + chunk(b"IEND", b"")


@hostile(readings.image)
def png_of_16_bits(folder: Path) -> Path:  # 4.6 GB
    return written(folder / "x.png", png_of_zeros(SIDE, 16, 0))


@hostile(readings.image, refused=False, slow=True)
def png_of_16_bits_that_is_just_allowed(folder: Path) -> Path:
    return written(folder / "x.png", png_of_zeros(4_949, 16, 0))


@hostile(readings.tensor, refused=False, slow=True)
def png_with_alpha_that_is_just_allowed(folder: Path) -> Path:
    return written(folder / "x.png", png_of_zeros(4_949, 8, 6))


@hostile(readings.tensor, refused=False, slow=True)
def jpeg_that_is_just_allowed(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(folder / "x.jpg", picture("JPEG", side=4_949, exif=exif))


@hostile(readings.tensor, refused=False, slow=True)
def jpeg_that_is_reduced(folder: Path) -> Path:
    return written(folder / "x.jpg", picture("JPEG", side=9_900))


@hostile(readings.tensor, refused=False, slow=True)
def progressive_jpeg_that_is_just_allowed(folder: Path) -> Path:
    return written(folder / "x.jpg", picture("JPEG", side=4_427, progressive=True, subsampling=0))


@hostile(readings.tensor, refused=False, slow=True)
def webp_that_is_just_allowed(folder: Path) -> Path:
    return written(folder / "x.webp", picture("WEBP", side=3_500, method=0, lossless=True))


@hostile(readings.tensor, refused=False, slow=True)
def tiff_that_is_just_allowed(folder: Path) -> Path:
    options = {"compression": "tiff_adobe_deflate", "strip_size": 2**31}
    return written(folder / "x.tif", picture("TIFF", "RGBA", side=4_949, **options))


@hostile(readings.archive, refused=False)
def zip_of_a_bz2_member_that_unpacks_to_much(folder: Path) -> Path:  # 3.1 GB from 2.6 KB
    data = bz2.compress(bytes(300_000_000))
    path = many_names(folder / "x.zip", ["a.png"], data)
    text = bytearray(path.read_bytes())
    at = text.rindex(b"PK\1\2")
    struct.pack_into("<H", text, at + 10, zipfile.ZIP_BZIP2)
    struct.pack_into("<L", text, at + 24, 50_000)
    return written(path, bytes(text))


@hostile(readings.archive, refused=False)
def zip_of_a_member_that_declares_much(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.png", bytes(600_000_000))
    return folder / "x.zip"


@hostile(readings.archive)
def zip_of_names_for_one_image(folder: Path) -> Path:
    return many_names(folder / "x.zip", [f"{number}.png" for number in range(60_000)], bytes(1_000_000))


def tar_of_a_long_name(size: int) -> bytes:
    """The first block of a tar archive whose first name has so many characters."""
    record = tarfile.TarInfo("././@LongLink")
    record.type, record.size = tarfile.GNUTYPE_LONGNAME, size
    return record.tobuf(tarfile.USTAR_FORMAT)


@hostile(readings.archive)
def photo_that_is_a_packed_tar_of_a_long_name(folder: Path) -> Path:  # 2 GB from 2 MB
    head, zeros, many = tar_of_a_long_name(2_000_000_000), bytes(10_000_000), 200
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself wherever it is put
    end = packer.flush()[:-8]  # without sum and length
    total = functools.reduce(lambda sum_, _: zlib.crc32(zeros, sum_), range(many), zlib.crc32(head))
    about = struct.pack("<LL", total, len(head) + many * len(zeros))
    data = packed + once * many + end + about
    return written(folder / "photo", data)


@hostile(readings.archive)
def photo_that_is_a_cut_gzip_file(folder: Path) -> Path:  # EOFError
    return written(folder / "photo", gzip.compress(bytes(5000))[:20])


@hostile(readings.archive)
def photo_that_is_a_zip_of_two_disks(folder: Path) -> Path:  # BadZipFile
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    return written(folder / "photo", bytes(60) + struct.pack("<4sLQL", b"PK\6\7", 5, 0, 7) + end)


@hostile(readings.archive, refused=False)
def folder_with_a_photo_without_end(folder: Path) -> Path:
    written(folder / "a.png", picture("PNG", side=8))
    (folder / "b.png").symlink_to("/dev/zero")
    return folder


@hostile(readings.archive, refused=False)
def folder_with_a_photo_that_waits(folder: Path) -> Path:
    written(folder / "a.png", picture("PNG", side=8))
    os.mkfifo(folder / "b.png")
    return folder


@hostile(readings.archive)
def photo_that_waits(folder: Path) -> Path:
    os.mkfifo(folder / "b.png")
    return folder / "b.png"


@hostile(readings.archive, refused=False)
def folder_with_a_photo_of_holes(folder: Path) -> Path:
    written(folder / "a.png", picture("PNG", side=8))
    with open(folder / "b.png", "wb") as file:
        file.truncate(2**40)
    return folder


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FILES])
def test_a_small_file_takes_little_memory_and_time(name, tmp_path):
    make, read, is_refused = FILES[name]
    path = make(tmp_path)
    outcome = outcome_of(read, path)
    outcome.check(path.stat().st_size)
    assert bool(outcome.error) == is_refused, outcome
    if outcome.error:
        assert "MemoryError" not in outcome.error and len(outcome.error) < 1500, outcome.error[:300]
