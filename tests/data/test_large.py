"""LSUN-sized data: what a process holds of it does not grow while it reads."""

import io
import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.loader import Batches
from hyperinverter.data.sampler import split_by_name
from hyperinverter.data.sources import open_source

IMAGES = 200_000
KEY_BYTES = 40  # of an LSUN key


def anonymous_mib() -> float:
    """Memory of this process that is no file's: a database's pages are the system's, shared and given back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def read_an_epoch(source: ImageSource, report) -> None:
    """Every image once in a shuffled order; the memory held after each fifth."""
    order = np.random.default_rng(0).permutation(len(source))
    held = []
    for part in np.array_split(order, 5):
        for index in part:
            source.read_bytes(int(index))
        held.append(anonymous_mib())
    report.put(held)


@pytest.fixture(scope="module")
def image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (90, 60, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module", params=["lmdb", "zip"])
def root(request, image, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / f"{request.param}.zip"
    if request.param == "lmdb":
        lmdb = pytest.importorskip("lmdb", reason="the lmdb package, which writes databases, is not installed")
        with lmdb.open(str(path), map_size=2**30) as environment, environment.begin(write=True) as transaction:
            for i in range(IMAGES):
                transaction.put(f"{i * 2654435761:0{KEY_BYTES}x}".encode(), image)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(IMAGES):
                archive.writestr(f"part_{i % 100:02d}/{i:08d}.jpg", image)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_hold_nothing_that_grows(root, method):
    before = anonymous_mib()
    training, validation = split_by_name(open_source(root), 0.02)
    assert len(training) + len(validation) == IMAGES and 0.01 < len(validation) / IMAGES < 0.03
    assert anonymous_mib() - before < 60, "names, places and the split; a list of strings alone takes 20 MiB"
    context = multiprocessing.get_context(method)
    report = context.Queue()
    worker = context.Process(target=read_an_epoch, args=(training, report))
    worker.start()
    held = report.get(timeout=300)
    worker.join()
    assert max(held) - held[0] < 3, held


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of a process's memory")
def test_a_loader_holds_nothing_that_grows(root):
    """Threads that decode ahead, over an eighth of an epoch; no image is square, as in LSUN."""
    batches = Batches(open_source(root), 16, seed=1, flip=True, cache_mib=0, workers=2)
    held = []
    for start in range(0, IMAGES // 8, IMAGES // 40):
        for position in range(start, start + IMAGES // 40, 50):
            batches.get(position, 50)
        held.append(anonymous_mib())
    assert max(held[1:]) - held[1] < 5, held
