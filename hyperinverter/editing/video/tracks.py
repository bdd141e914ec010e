"""Faces followed through a film: where each one is in every frame, smoothed in time, and how much it flickers.

Letters: F frames of one chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from hyperinverter.extractors.align import ALL_FACES, NoFaceError, find_faces, follow, square_around
from hyperinverter.extractors.crop import glimpse

LOST_S = 0.5  # a face that is hidden for less than this is the same one afterwards; between, its place is interpolated
LOOK_S = 0.2  # how often a face is looked for while there is none
LOOK_ALL_S = 1.0  # how often for others beside those that are followed, with face=all
SAME = 0.5  # of the side: a face found so near to one that is followed is that one
CUT_PX, CUT = 32, 45.0  # side of the pictures, and mean difference in levels of 255, from which a new scene begins
CROP_PX = 128


@dataclass
class Track:
    """One face. `points`: frame -> eyes and mouth, [3, 2] px. `quad`: FFHQ's square where it was last seen, [4, 2]."""

    points: dict[int, np.ndarray] = field(default_factory=dict)
    quad: np.ndarray = field(default_factory=lambda: np.zeros((4, 2)))

    @property
    def last(self) -> int:
        return max(self.points, default=-1)


class Tracker:
    """Follows faces, frame by frame.

    Args:
        fps: frames a second.
        which: as of `align_faces`: 1 is the largest face when it is first seen, or all.
    """

    def __init__(self, fps: float, which: int | str) -> None:
        self.fps, self.which = fps, which
        self.tracks: list[Track] = []
        self._thumbnail: np.ndarray | None = None
        self._from = 0  # tracks that ended before this frame are over

    def take(self, number: int, frame: Image.Image) -> None:
        """Look at the next frame."""
        thumbnail = np.asarray(frame.reduce(max(1, min(frame.size) // CUT_PX)).convert("L"), np.float32)
        if self._thumbnail is not None and np.abs(thumbnail - self._thumbnail).mean() > CUT:
            self._from = number
        self._thumbnail = thumbnail
        live = [track for track in self.tracks if track.last >= max(self._from, number - LOST_S * self.fps)]
        for track in live:
            points = follow(frame, track.quad)
            if points is not None:
                track.points[number], track.quad = points, square_around(points)
        seen = [track for track in live if track.last == number]
        wanted = LOOK_ALL_S if seen else LOOK_S
        due = number == self._from or number % max(1, round(wanted * self.fps)) == 0
        if due and (not seen or self.which == ALL_FACES):
            self._look(number, frame, live)

    def _look(self, number: int, frame: Image.Image, live: list[Track]) -> None:
        """Find faces that are not followed yet."""
        try:
            quads = [quad for quad, _ in find_faces(frame)]
        except NoFaceError:
            return
        if self.which != ALL_FACES:
            if live:  # hidden for a moment: the one that it was, if it is there
                near = [quad for quad in quads if _near(quad, live[-1].quad)]
            quads = near[:1] if live and near else quads[int(self.which) - 1 : int(self.which)]
        for quad in quads:
            track = next((each for each in live if _near(quad, each.quad)), None)
            if track is not None and track.last == number:
                continue
            points = follow(frame, quad)
            if points is None:
                continue
            if track is None:
                track = Track()
                self.tracks.append(track)
            track.points[number], track.quad = points, square_around(points)

    def state(self, first: int) -> dict[str, Any]:
        """What a later start needs, as JSON: points from frame `first` on, and where to go on from."""
        points = [
            {number: found.tolist() for number, found in track.points.items() if number >= first}
            for track in self.tracks
        ]
        thumbnail = [] if self._thumbnail is None else self._thumbnail.tolist()
        return {"points": points, "thumbnail": thumbnail, "from": self._from}

    def resume(self, state: dict[str, Any]) -> None:
        """Take over the states of all chunks, one after the other."""
        for index, points in enumerate(state["points"]):
            if index == len(self.tracks):
                self.tracks.append(Track())
            track = self.tracks[index]
            track.points |= {int(number): np.array(found) for number, found in points.items()}
            if points:
                track.quad = square_around(track.points[track.last])
        self._thumbnail, self._from = np.array(state["thumbnail"], np.float32), state["from"]


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    side = float(np.hypot(*(other[3] - other[0])))
    return float(np.hypot(*(one.mean(axis=0) - other.mean(axis=0)))) < SAME * side


@dataclass(frozen=True)
class FacePath:
    """One face's squares, from its first frame on, without a gap: [frames, 4, 2]."""

    start: int
    quads: np.ndarray

    @property
    def stop(self) -> int:
        return self.start + len(self.quads)

    def at(self, number: int) -> np.ndarray | None:
        """FFHQ's square [4, 2] in a frame; None where the face is not there."""
        return self.quads[number - self.start] if self.start <= number < self.stop else None


def smooth_paths(tracks: list[Track], sigma: float, shortest: int) -> list[FacePath]:
    """Squares by landmarks that are smoothed by a Gaussian of `sigma` frames, gaps filled in.

    Args:
        sigma: frames; 0 leaves them as they were seen.
        shortest: a face that is there for fewer frames is left alone.
    """
    paths = []
    for track in tracks:
        seen = sorted(track.points)
        if len(seen) < shortest:
            continue
        frames = np.arange(seen[0], seen[-1] + 1)
        points = np.stack([track.points[number] for number in seen]).reshape(len(seen), 6)
        filled = np.stack([np.interp(frames, seen, column) for column in points.T], axis=1)
        smooth = gaussian(filled, sigma)
        paths.append(FacePath(seen[0], np.stack([square_around(each) for each in smooth.reshape(-1, 3, 2)])))
    return paths


def gaussian(values: np.ndarray, sigma: float) -> np.ndarray:
    """[F, ...] under a Gaussian over frames; beyond the ends motion goes on as before them."""
    if sigma <= 0 or len(values) < 2:
        return values
    reach = min(int(np.ceil(3 * sigma)), len(values) - 1)
    padded = np.pad(values, [(reach, reach), *[(0, 0)] * (values.ndim - 1)], mode="reflect", reflect_type="odd")
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return sum(weight * padded[i : i + len(values)] for i, weight in enumerate(weights))


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
