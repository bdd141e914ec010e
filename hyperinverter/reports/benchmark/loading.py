"""Images per second from disk, as the trainers read them, to stand beside what a training step consumes.

The images are synthetic photos of the domain's resolution with the detail of real ones, so that their files have about
a photo's size: JPEG (quality 95) and PNG in a folder, JPEG in a stored zip, WebP in an LMDB, as LSUN is distributed.
The files have just been written, so the disk's own speed is not in these numbers.
"""

import importlib.util
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.utils.images import file_bytes

CASES = (("folder", "JPEG"), ("folder", "PNG"), ("zip", "JPEG"), ("lmdb", "WEBP"))
BATCH = 8
DISTINCT = 8  # photos; every file is one of them


def measure_loading(
    resolution: int,
    workers: Iterable[int] = (0, 2),
    *,
    device: torch.device | str = "cpu",
    images: int = 64,
    seconds: float = 3.0,
) -> list[dict[str, Any]]:
    """Read batches of eight of every kind of source.

    Args:
        workers: numbers of decoding threads to measure with.
        images: files of a source.
        seconds: of a measurement; at least two batches are read.
    Returns:
        One entry for each case and number of workers: "source", "format", "kib" (of a file), "workers", "images_per_s".
        A case whose package is not installed is left out.
    """
    photos = [_photo(resolution, seed) for seed in range(min(DISTINCT, images))]
    result = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, image_format in CASES:
            if kind == "lmdb" and importlib.util.find_spec("lmdb") is None:
                continue
            files = [file_bytes(photo, format=image_format, quality=95) for photo in photos]
            root = _write(Path(folder) / f"{kind}_{image_format.lower()}", kind, image_format, files, images)
            for count in workers:
                rate = _images_per_s(root, resolution, count, device, seconds)
                entry = {"source": kind, "format": image_format, "kib": sum(map(len, files)) / len(files) / 1024}
                result.append({**entry, "workers": count, "images_per_s": rate})
    return result


def loading_rows(loading: list[dict[str, Any]], steps: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table.

    Args:
        loading: what `measure_loading` gave.
        steps: name of a training step -> images per second that it consumes.
    """
    heads = ["source", "file", "workers", "images/s", *(f"times what {name} consumes" for name in steps)]
    rows = []
    for entry in loading:
        rate, file = entry["images_per_s"], f"{entry['format']}, {entry['kib']:,.0f} KiB"
        ratios = (f"{rate / used:,.1f}" for used in steps.values())
        rows.append([entry["source"], file, str(entry["workers"]), f"{rate:,.0f}", *ratios])
    return heads, rows


def _images_per_s(root: Path, resolution: int, workers: int, device: torch.device | str, seconds: float) -> float:
    """After a first batch, for which decoders are loaded and workers started."""
    batches = Batches(
        open_source(root, resolution=resolution), resolution, flip=True, cache_mib=0, workers=workers, device=device
    )
    batches.get(0, BATCH)
    begin, ahead, position = time.perf_counter(), _read_ahead(batches), BATCH
    while position < 3 * BATCH or time.perf_counter() - begin < seconds:
        images, _ = batches.get(position, BATCH)
        position += BATCH
    float(images[0, 0, 0, 0])  # wait for the device
    return (position - BATCH + _read_ahead(batches) - ahead) / (time.perf_counter() - begin)


def _read_ahead(batches: Batches) -> int:
    """Images of later batches that the workers have read already."""
    return sum(row.done() for batch in batches._ahead.values() for row in batch.rows)


def _photo(resolution: int, seed: int) -> Image.Image:
    """Smooth shapes with noise of a camera's strength."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (max(resolution // 32, 2),) * 2 + (3,), dtype=np.uint8)
    shapes = np.asarray(Image.fromarray(coarse).resize((resolution, resolution), Image.Resampling.BICUBIC), float)
    noise = draw.normal(0, 4, (resolution, resolution, 3))
    return Image.fromarray(np.clip(shapes + noise, 0, 255).astype(np.uint8))


def _write(root: Path, kind: str, image_format: str, files: list[bytes], images: int) -> Path:
    named = ((f"{i:06d}.{image_format.lower()}", files[i % len(files)]) for i in range(images))
    if kind == "folder":
        root.mkdir()
        for name, data in named:
            (root / name).write_bytes(data)
    elif kind == "zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, data in named:
                archive.writestr(name, data)
    else:
        import lmdb

        size = 2 * images * (max(map(len, files)) + 8192)
        with lmdb.open(str(root), map_size=size) as environment, environment.begin(write=True) as transaction:
            for name, data in named:
                transaction.put(name.encode(), data)
    return root
