"""Files around images that are no images themselves: each is named for what it is, with the path to give instead."""

from collections.abc import Iterable
from pathlib import Path

from hyperinverter.utils.decode import CONVERT, OTHER_PICTURES

LMDB_FILE = "data.mdb"
LMDB_MAGIC = bytes.fromhex("dec0efbe")  # little-endian, at byte 16 of an LMDB file's first page
TFRECORDS = (".tfrecords", ".tfrecord")
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
PACKED = (".7z", ".rar")
PACKINGS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, Zstandard
NUMBERS = (".pt", ".pth", ".pkl", ".npy", ".npz", ".ckpt", ".safetensors")
SHOWN = 3
UNPACK_RECORDS = (
    "unpack them to images with the tool that made them (NVlabs/stylegan2-ada: dataset_tool.py unpack "
    "--tfrecord_dir=FOLDER --output_dir=IMAGES) and give that folder"
)


def is_lmdb_file(path: Path) -> bool:
    """Whether a file is an LMDB database."""
    with open(path, "rb") as file:
        return file.read(20)[16:] == LMDB_MAGIC


def what_else(path: Path) -> str | None:
    """What a file is that cannot be read as images, and what to give; None: not known."""
    name = path.name.lower()
    if path.name == LMDB_FILE or is_lmdb_file(path):
        return f"is the file of an LMDB database: give its folder, {path.absolute().parent}"
    if name.endswith(TFRECORDS) or ".tfrecord" in name:
        return f"holds TensorFlow's records of images: {UNPACK_RECORDS}"
    with open(path, "rb") as file:  # tarfile.is_tarfile would unpack what may be a bomb
        head = file.read(512)
    if name.endswith(TARS) or head[257:262] == b"ustar":
        return f"is a tar archive: unpack it (tar -xf {path.name} -C FOLDER) and give that folder"
    if head.startswith(PACKINGS):
        return f"is packed, as tar archives are: unpack it (tar -xf {path.name} -C FOLDER) and give that folder"
    if name.endswith(PACKED):
        return "is a packed archive: unpack it and give the folder"
    if name.endswith(NUMBERS):
        return "holds weights, codes or other numbers, not images: give photos"
    return CONVERT if name.endswith(OTHER_PICTURES) else None


def what_is_inside(path: Path, files: Iterable[str]) -> str | None:
    """What a folder or zip without images holds, and what to give; None: nothing that is known.

    Args:
        path: of the folder or zip.
        files: names of the files in it.
    """
    files = list(files)
    databases = sorted({Path(name).parent for name in files if Path(name).name == LMDB_FILE})
    if path.is_file() and any(name.endswith(("/data.pkl", ".npy")) for name in files):
        return "holds weights, codes or other numbers, not images: give photos"
    if databases and path.is_file():
        inside = databases[0].as_posix()
        folder = "FOLDER" if inside == "." else f"FOLDER/{inside}"
        return f"is a packed LMDB database: unpack it (unzip {path.name} -d FOLDER) and give {folder}"
    if databases:
        several = " (several as a list, [a,b])" if len(databases) > 1 else ""
        return f"holds LMDB databases: give {_some(path / name for name in databases)}{several}"
    for endings, told in (
        (TFRECORDS, f"holds TensorFlow's records of images: {UNPACK_RECORDS}"),
        (TARS, "holds tar archives: unpack them (tar -xf FILE -C FOLDER) and give that folder"),
        (PACKED, "holds packed archives: unpack them and give the folder"),
    ):
        if any(name.lower().endswith(endings) for name in files):
            return told
    zips = sorted({Path(name).parent for name in files if name.lower().endswith(".zip")})
    if zips and path.is_dir():
        return f"holds zip archives: give {_some(repr(str(path / name / '*.zip')) for name in zips)}"
    if zips:
        return f"holds zip archives: unpack it (unzip {path.name} -d FOLDER) and give 'FOLDER/*.zip'"
    return None


def _some(paths: Iterable[object]) -> str:
    texts = list(map(str, paths))
    return " or ".join(texts[:SHOWN]) + (f" ({len(texts)} in all)" if len(texts) > SHOWN else "")
