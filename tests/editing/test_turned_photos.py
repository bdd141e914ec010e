"""Real photos, turned by any angle: aligned, inverted, edited and pasted back, or a plain message."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.config.schema import EditConfig, PhotosConfig
from hyperinverter.editing.inputs import Inputs, Photo
from hyperinverter.editing.paste_back import paste_back
from hyperinverter.extractors.face_finder import face_finder
from hyperinverter.inverters import Inverter, load
from hyperinverter.utils.decode import read_image
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import to_pil

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
ANGLES = (0, 20, 45, 90, 180)  # degrees, counter-clockwise
SIDE = 512  # to which photos are reduced before they are turned: detection takes most of the time
CUT = ("face_cut_by_edge",)  # whose landmarks outside the photo are guessed


def turned_quad(quad: np.ndarray, size: tuple[int, int], turned: tuple[int, int], degrees: int) -> np.ndarray:
    """Where a quad lies in the photo that was turned about its middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (quad - np.array(size) / 2) @ np.array([[cos, -sin], [sin, cos]]) + np.array(turned) / 2


@pytest.fixture(scope="module")
def model():
    return load("faces64", "w_encoder")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # ten minutes of one core
@pytest.mark.skipif(face_finder() is None, reason="no face detector is installed")
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos of ../shared are not here")
def test_photos_turned_by_any_angle_come_back_edited_or_with_a_message(model, tmp_path):
    files = [file for part in ("unaligned", "hard") for file in sorted((PHOTOS / part).iterdir())]
    assert len(files) > 20
    for file in files:
        upright = read_image(file)
        upright.thumbnail((SIDE, SIDE))
        data = PhotosConfig(turned(upright, tmp_path))
        inputs = Inputs(EditConfig(domain=model.domain, align=True, face="all", data=data), model)
        if file.stem.startswith("not_a_face"):
            with pytest.raises(UserError, match="all 5 were skipped"):
                list(inputs)
        else:
            upright_quads: list[np.ndarray] = []
            for photo in inputs:
                degrees = int(Path(photo.source).stem)
                upright_quads += [photo.quad] if degrees == 0 else []
                size = photo.whole().size
                moved = [turned_quad(quad, upright.size, size, degrees) for quad in upright_quads]
                nearest = min(moved, key=lambda quad: np.abs(quad - photo.quad).max())
                check(photo, nearest, model, 0.12 if file.stem in CUT else 0.03)
        assert not inputs.skipped or file.stem.startswith(("not_a_face", "tiny")), (file.name, inputs.skipped)
        assert all("give a photo with a whole face" in reason for reason in inputs.skipped.values()), inputs.skipped


def turned(upright: Image.Image, folder: Path) -> list[str]:
    """Files of the photo, turned."""
    for degrees in ANGLES:
        photo = upright.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
        photo.save(folder / f"{degrees}.png", compress_level=1)
    return [str(folder / f"{degrees}.png") for degrees in ANGLES]


def check(photo: Photo, expected: np.ndarray, model: Inverter, bound: float) -> None:
    """The crop is where the face is, up to `bound` of its side; the edit is in the photo, and nothing else changed."""
    assert photo.quad is not None and photo.whole is not None and photo.image is not None
    side = float(np.linalg.norm(photo.quad[2] - photo.quad[1]))
    assert np.abs(photo.quad - expected).max() < bound * side, (photo.source, photo.quad, expected)
    inversion = photo.inversion
    edited = model.render(model.edit(inversion, smile=2))[0].clamp(-1, 1)
    assert (edited - photo.image).square().mean() < 0.15  # of [-1, 1]; another person's differs by 0.3
    whole = photo.whole()
    before, after = (np.asarray(each).astype(int) for each in (whole, paste_back(whole, photo.quad, to_pil(edited))))
    assert before.shape == after.shape
    changed = np.abs(after - before).max(axis=2) > 0
    y, x = np.nonzero(changed)
    middle = np.abs(np.stack([x, y], axis=1) - expected.mean(axis=0)).max(axis=1)
    assert 0.3 < changed.sum() / side**2 < 1 and middle.max() < side
