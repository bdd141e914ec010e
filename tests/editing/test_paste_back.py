"""Paste-back: the photo outside the crop stays bit for bit, the crop comes back where it was, and seams match."""

import numpy as np
import pytest
from PIL import Image

from hyperinverter.editing.paste_back import paste_back
from hyperinverter.extractors.crop import crop_quad, square


def photo() -> Image.Image:
    """Smooth colours with some detail, 300 x 200."""
    across, down = np.meshgrid(np.arange(300), np.arange(200))
    waves = [128 + 60 * np.sin(across / 17 + i) + 40 * np.cos(down / 11 - i) for i in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8))


QUADS = {
    "upright": square(np.array([150.0, 100]), np.array([60.0, 0])),
    "tilted": square(np.array([150.0, 100]), np.array([45.0, 35])),
    "beyond the edge": square(np.array([30.0, 40]), np.array([60.0, 10])),
}


@pytest.mark.parametrize("quad", QUADS.values(), ids=QUADS)
def test_an_unchanged_crop_leaves_the_photo_as_it_is(quad):
    whole = photo()
    pasted = paste_back(whole, quad, crop_quad(whole, quad, 240))
    off = np.abs(np.asarray(pasted, int) - np.asarray(whole, int))
    assert off.mean() < 0.5 and off.max() < 12
    misplaced = paste_back(whole, quad + 4, crop_quad(whole, quad, 240))
    assert np.abs(np.asarray(misplaced, int) - np.asarray(whole, int)).max() > 25


@pytest.mark.parametrize("quad", QUADS.values(), ids=QUADS)
def test_outside_the_crop_not_a_bit_changes(quad):
    whole = photo()
    before = np.asarray(whole).copy()
    after = np.asarray(paste_back(whole, quad, Image.new("RGB", (64, 64), (255, 0, 255))))
    changed = (after != before).any(axis=2)
    down, across = np.nonzero(changed)
    right = (quad[3] - quad[0]) / 2
    offset = np.stack([across, down], axis=1) - quad.mean(axis=0)
    along = offset @ np.stack([right, right[::-1] * [-1, 1]], axis=1) / (right @ right)  # in halves of the side
    assert changed.any() and np.abs(along).max() <= 1 and np.array_equal(np.asarray(whole), before)


def test_colours_match_at_the_seam_and_are_the_edits_own_in_the_middle():
    whole, quad = Image.new("RGB", (200, 200), (100, 120, 140)), square(np.array([100.0, 100]), np.array([80.0, 0]))
    after = np.asarray(paste_back(whole, quad, Image.new("RGB", (64, 64), (140, 120, 100))), int)
    assert after[100, 100].tolist() == [140, 120, 100]
    steps = np.abs(np.diff(after[100, :, 0]))
    assert steps.max() <= 6, "no edge"
    assert np.abs(after[100, 25] - [100, 120, 140]).max() <= 8


def test_a_crop_that_lies_outside_changes_nothing():
    whole = photo()
    after = paste_back(whole, square(np.array([900.0, 900]), np.array([20.0, 0])), Image.new("RGB", (8, 8)))
    assert np.array_equal(np.asarray(after), np.asarray(whole))
