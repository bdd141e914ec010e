"""Flicker: how much consecutive frames differ at the faces, after an edit against before it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from hyperinverter.editing.video.tracks import FacePath
from hyperinverter.extractors.crop import glimpse

CROP_PX = 128


class Flicker:
    """Takes a film's frames before and after, in order.

    `flicker` compares the frames' pixels around the faces as they stand in the film, motion included; `flicker_in_crop`
    the faces' crops, in which they stand still, so that little but what flickers differs.
    """

    def __init__(self, paths: Sequence[FacePath]) -> None:
        self.paths = paths
        self._sums = np.zeros((2, 2))  # [in film or in crop, before or after], mean absolute differences, levels
        self._last: tuple[Image.Image, Image.Image] | None = None

    def take(self, number: int, before: Image.Image, after: Image.Image) -> None:
        if self._last is not None:
            for path in self.paths:
                quad, last = path.at(number), path.at(number - 1)
                if quad is not None and last is not None:
                    for side, (old, new) in enumerate(zip(self._last, (before, after), strict=True)):
                        box = _box(quad, new.size)
                        self._sums[0, side] += _difference(old.crop(box), new.crop(box))
                        crops = glimpse(old, last, CROP_PX), glimpse(new, quad, CROP_PX)
                        self._sums[1, side] += _difference(*crops)
        self._last = before, after

    def figures(self) -> dict[str, float | None]:
        """After over before; None where nothing moved before."""
        names = ("flicker", "flicker_in_crop")
        return {
            name: round(after / before, 3) if before else None
            for name, (before, after) in zip(names, self._sums.tolist(), strict=True)
        }


def _box(quad: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top = np.maximum(np.floor(quad.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(quad.max(axis=0)).astype(int), size)
    return int(left), int(top), int(max(right, left + 1)), int(max(bottom, top + 1))


def _difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())
