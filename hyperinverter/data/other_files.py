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
TABLES = (".parquet", ".arrow")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
SHOWN = 3
UNPACK_RECORDS = (
    "unpack them to images with the tool that made them (NVlabs/stylegan2-ada: dataset_tool.py unpack "
    "--tfrecord_dir=FOLDER --output_dir=IMAGES) and give that folder"
)
# endings -> one such file, several, and what to do
FOREIGN = {
    TFRECORDS: ("holds TensorFlow's records of images", "holds TensorFlow's records of images", UNPACK_RECORDS),
    TABLES: ("is a table of images", "holds tables of images",
             "write them out as files, as the package `datasets` can, and give that folder"),
    (".h5", ".hdf5"): ("is an HDF5 file", "holds HDF5 files", "write its images out as files and give that folder"),
    VIDEOS: ("is a video", "holds videos", "take pictures out (ffmpeg -i VIDEO FOLDER/%05d.png) and give that folder"),
}  # fmt: skip


def is_lmdb_file(path: Path) -> bool:
    """Whether a file is an LMDB database."""
    with open(path, "rb") as file:
        return file.read(20)[16:] == LMDB_MAGIC


def what_else(path: Path) -> str | None:
    """What a file is that cannot be read as images, and what to give; None: not known."""
    name = path.name.lower()
    if path.name == LMDB_FILE or is_lmdb_file(path):
        return f"is the file of an LMDB database: give its folder, {path.absolute().parent}"
    for endings, (is_one, _, remedy) in FOREIGN.items():
        if name.endswith(endings) or (endings is TFRECORDS and ".tfrecord" in name):
            return f"{is_one}: {remedy}"
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
    """What a folder or zip without images holds, and what to give; None: nothing that is known."""
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
    for endings, message in (
        *((endings, f"{several}: {remedy}") for endings, (_, several, remedy) in FOREIGN.items()),
        (TARS, "holds tar archives: unpack them (tar -xf FILE -C FOLDER) and give that folder"),
        (PACKED, "holds packed archives: unpack them and give the folder"),
    ):
        if any(name.lower().endswith(endings) for name in files):
            return message
    zips = sorted({Path(name).parent for name in files if name.lower().endswith(".zip")})
    if zips and path.is_dir():
        return f"holds zip archives: give {_some(repr(str(path / name / '*.zip')) for name in zips)}"
    if zips:
        return f"holds zip archives: unpack it (unzip {path.name} -d FOLDER) and give 'FOLDER/*.zip'"
    return None


def _some(paths: Iterable[object]) -> str:
    texts = list(map(str, paths))
    return " or ".join(texts[:SHOWN]) + (f" ({len(texts)} in all)" if len(texts) > SHOWN else "")
