"""Runs a script as the command line would, but in this process: importing torch once for all of them."""

import csv
import io
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def run_script(name: str, words: Sequence[str], folder: Path) -> None:
    """`python scripts/NAME.py WORDS` in `folder`; a refusal fails the test with its exit code (see stderr)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(ROOT / "scripts" / f"{name}.py"), *map(str, words)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stopped:
            assert stopped.code in (None, 0), f"scripts/{name}.py {' '.join(words)} stopped with code {stopped.code}"


def astronaut() -> Image.Image:
    """The one real face that comes with an installed package (scikit-image), 512 px, not aligned."""
    import skimage

    return Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")


def bomb() -> bytes:
    """A small PNG of 200 megapixels."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


def write_photos(folder: Path, count: int, size: int) -> list[Path]:
    """Small photos that differ: the astronaut's head, moved and dimmed a little more each time."""
    folder.mkdir(parents=True, exist_ok=True)
    portrait, files = astronaut(), []
    for number in range(count):
        left, top = 120 + 4 * (number % 4), 4 * (number // 4)
        crop = portrait.crop((left, top, left + 200, top + 200)).resize((size, size), Image.Resampling.BOX)
        dimmed = (np.asarray(crop) * (1 - 0.5 * number / count)).astype(np.uint8)
        files.append(folder / f"photo_{number:02d}.png")
        Image.fromarray(dimmed).save(files[-1])
    return files


def write_labels(path: Path, photos: Sequence[Path]) -> None:
    """Every second photo smiles; the last third is held out."""
    head = ["file", "split", "Smiling"]
    rows = [[photo.name, "train" if 3 * i < 2 * len(photos) else "test", i % 2] for i, photo in enumerate(photos)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
