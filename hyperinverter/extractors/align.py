"""FFHQ alignment: a raw photo -> the square, upright face crop that face generators were trained on.

Faces are found by YuNet, or by dlib where OpenCV is absent, at any angle: a face is looked at again in a crop that
stands upright, until it does. Where dlib's 68-point model is there (extra `faces`), the crop follows its landmarks, as
FFHQ's own did; that model was trained on iBUG 300-W, whose terms exclude commercial use. Else it follows the points
that the detector gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hyperinverter.extractors.crop import crop_quad, ffhq_quad, from_crop, glimpse, outside, quad_of, square, turned
from hyperinverter.extractors.face_finder import DLIB_ALONE, FaceFinder, dlib_models, face_finder, has_landmark_model
from hyperinverter.utils.decode import BadImageError
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import counted

ALIGNED_SIZE = 256  # px; crops for smaller domains are made at this size and then reduced by the one resize policy
LOOKED_AT = 320  # px, side of the crops in which a face is looked at again
WIDER = 1.4  # those crops' sides over FFHQ's: a face that is not upright yet must lie inside
TURNED_PX = 640  # and, at least, of a whole photo that is turned
MOST_PX = 1024  # of a crop in which landmarks are taken
MIDDLE = 0.25  # of such a crop's side: so near its middle must the face be
ROUNDS = 6  # of looking again
UPRIGHT = 2.0  # degrees of tilt that may remain
TURNS = range(30, 360, 30)  # degrees to try where a face is not surely upright
DOUBTED = 0.92  # of YuNet's score: upright faces have 0.92 and more, turned ones 0.6 to 0.93
BETTER = 0.02  # by which the score of another turn must win
AGREES = 0.2  # of the side: so near must the corners by landmarks and by the detector's points be
TOLD_OUTSIDE = 0.2  # of a crop, outside the photo: where more is, it is said
TOLD_SMALL_PX = 128  # a crop whose side is less than this in the photo, and than half of what is wanted
SMALLEST = 0.25  # width of a face over the widest one's, from which on it counts
# side in px of the crop square of the smallest face that is surely seen; dlib is too slow to look for more of them
SEEN = {"yunet": 24, "dlib": 0}
# score of an upright face that counts; churches reach 0.872, FFHQ has 0.915 and more
SURE_SCORE = {"yunet": 0.88, "dlib": 0.0}
# FFHQ's crop follows dlib's points. From YuNet's it comes out right with these: least squares on crops of FFHQ.
YUNET_SIDE, YUNET_DOWN = 0.986, 0.031
# scales over FFHQ's square and degrees of the crops whose points are averaged
GLANCES = [(scale, degrees) for scale in (1.2, 1.4, 1.65) for degrees in (-8.0, 0.0, 8.0)]
FILM_GLANCES = [(1.4, 0.0), (1.2, -8.0), (1.65, 8.0)]  # the same for a frame of a film, whose neighbours help
ALL_FACES = "all"
WHOSE = "the face's"  # crop, where a note is of the only face or the one that was chosen


class NoFaceError(BadImageError):
    """No face was found in an image, or not so many; `name` is the photo, `reason` one line."""


@dataclass(frozen=True)
class AlignedFace:
    """A face crop and where it came from, so that an edited crop can be put back.

    `quad` [4, 2] holds the crop's corners in pixels of the upright photo, in the order top-left, bottom-left,
    bottom-right, top-right of the upright face; they may lie outside the photo. `landmarks` [68, 2] are in pixels too,
    None without dlib's model. `note` says which face was taken where there are several, and how much of the crop lies
    outside the photo where that is much; None: nothing of these. `number` is its place by size, 1 is the largest.
    """

    image: Image.Image
    quad: np.ndarray
    landmarks: np.ndarray | None = None
    note: str | None = None
    number: int = 1


def align_face(image: Image.Image, size: int, name: str = "the image") -> Image.Image:
    """Crop the largest face as FFHQ does; see `align`."""
    return align(image, size, name).image


def align(
    image: Image.Image, size: int, name: str = "the image", number: int = 1, drawn_px: int | None = None
) -> AlignedFace:
    """Crop one face as FFHQ does.

    Args:
        image: upright RGB photo of any size (`utils.decode.read_image` gives one).
        size: side of the crop, px.
        number: which face, 1 is the largest.
        drawn_px: side of what will be drawn of the crop, if smaller: only a face that is too small for it is told.
    Raises:
        NoFaceError: no face was found, or not so many; names the photo.
        UserError: no face detector is installed.
    """
    faces = find_faces(image, name)
    if number > len(faces):
        raise NoFaceError(name, f"has {counted(len(faces), 'face')}, so there is no face number {number}")
    note = None
    if len(faces) > 1:
        x, y = faces[number - 1][0].mean(axis=0).round().astype(int)
        which = "the largest" if number == 1 else f"number {number} by size"
        note = f"{len(faces)} faces; {which} was taken, {x} px from the left and {y} from the top"
    return _cut(image, faces[number - 1], size, note, number, drawn_px=drawn_px)


def align_faces(
    image: Image.Image, size: int, name: str = "the image", which: int | str = 1, drawn_px: int | None = None
) -> list[AlignedFace]:
    """Crop the face of that number, or with "all" every one, the largest first; arguments and errors as of `align`."""
    if which != ALL_FACES:
        return [align(image, size, name, int(which), drawn_px)]
    faces = find_faces(image, name)
    whose = [f"face {number}'s" if len(faces) > 1 else WHOSE for number in range(1, len(faces) + 1)]
    return [_cut(image, face, size, None, number, whose[number - 1], drawn_px) for number, face in enumerate(faces, 1)]


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two squares are of two faces."""
    return np.hypot(*(one.mean(axis=0) - other.mean(axis=0))) > 0.3 * min(_side(one), _side(other))


def _cut(
    image: Image.Image,
    face: tuple[np.ndarray, np.ndarray | None],
    size: int,
    note: str | None,
    number: int,
    whose: str = WHOSE,
    drawn_px: int | None = None,
) -> AlignedFace:
    quad, landmarks = face
    drawn_px = min(drawn_px or size, size)
    notes = [] if note is None else [note]
    if (share := outside(quad, image.size)) > TOLD_OUTSIDE:
        notes.append(
            f"{100 * share:.0f} % of {whose} crop lies outside the photo, and what is drawn there is a guess: give a "
            "photo with more around the face"
        )
    if (side := float(np.linalg.norm(quad[1] - quad[0]))) < min(TOLD_SMALL_PX, drawn_px / 2):
        notes.append(
            f"{whose} crop is {side:.0f} px wide in the photo and is enlarged to {drawn_px} px, so that details are a "
            "guess: give a larger photo"
        )
    return AlignedFace(crop_quad(image, quad, size), quad, landmarks, "; ".join(notes) or None, number)


def find_faces(image: Image.Image, name: str = "the image") -> list[tuple[np.ndarray, np.ndarray | None]]:
    """FFHQ's crop square [4, 2] of every face, the largest first, and dlib's landmarks [68, 2] or None."""
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}; decode files with read_image")
    finder = face_finder()
    if finder is None:
        raise UserError("aligning photos needs OpenCV for its face detector: pip install opencv-python-headless")
    squares: list[np.ndarray] = []
    for degrees in (0, 90, 270, 180):  # faces that lie on their side may not be seen at all
        for px, quads in _first_looks(finder, image, degrees):
            for quad in quads:
                upright = _upright(finder, image, quad) if _is_new(quad, squares) else None
                if upright is not None and all(_apart(upright, other) for other in squares):
                    squares.append(upright)
            if squares and SMALLEST * max(map(_side, squares)) * px / max(image.size) >= SEEN[finder.name]:
                break  # a smaller face that counts would have been seen
        if squares:
            break
    squares.sort(key=_side, reverse=True)
    squares = [quad for quad in squares if _side(quad) >= SMALLEST * _side(squares[0])]
    if not squares:
        raise NoFaceError(
            name,
            f"no face found ({image.width} x {image.height} px): give a photo with a whole face of at least 80 px; a "
            "crop that is aligned already is used without align",
        )
    return [_by_landmarks(finder, image, quad) for quad in squares]


def _first_looks(finder: FaceFinder, image: Image.Image, degrees: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """At every size in px, coarse to fine, squares [4, 2] around what may be faces, upright or not.

    The photo is turned counter-clockwise by `degrees`.
    """
    whole = turned(square(np.array(image.size) / 2, np.array([max(image.size) / 2, 0.0])), degrees)
    for px in finder.sizes:
        side = max(px, TURNED_PX)
        seen = [face.points for face in finder.find_at(glimpse(image, whole, side) if degrees else image, px)]
        yield px, [_around(from_crop(points / side, whole) if degrees else points) for points in seen]


def _is_new(quad: np.ndarray, squares: list[np.ndarray]) -> bool:
    """Whether a closer look may show a face that counts beside those found; spares the many of a crowd."""
    widest = max(map(_side, squares), default=0.0)
    return _side(quad) >= SMALLEST * widest and all(_apart(quad, other) for other in squares)


def _upright(finder: FaceFinder, image: Image.Image, quad: np.ndarray) -> np.ndarray | None:
    """FFHQ's square of the face inside a square [4, 2]; None: on a closer look there is none."""
    score, best = _settled(finder, image, quad)
    if score < DOUBTED:
        for degrees in TURNS:
            seen = _look(finder, image, turned(quad, degrees))
            if seen is not None and seen[0] > score + BETTER:
                again = _settled(finder, image, _around(seen[1]))
                if again[0] > score + BETTER:
                    score, best = again
    return best if score >= SURE_SCORE[finder.name] else None


def _settled(finder: FaceFinder, image: Image.Image, quad: np.ndarray) -> tuple[float, np.ndarray | None]:
    """Score and FFHQ's square of the face in a square [4, 2], after looking until it stands upright; 0, None: none."""
    score, best = 0.0, None
    for _ in range(ROUNDS):
        seen = _look(finder, image, quad)
        if seen is None:
            break
        score, points = seen
        best = _square_of(finder, points)
        turn = _angle(best) - _angle(quad)
        quad = _around(points)
        if abs((turn + 180) % 360 - 180) < UPRIGHT:
            break
    return score, best


def _look(finder: FaceFinder, image: Image.Image, quad: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Score and points [3, 2] of the face in the middle of a square of the photo, which is taken to stand upright."""
    middle = LOOKED_AT / 2
    faces = finder.find(glimpse(image, quad, LOOKED_AT))
    faces = [face for face in faces if np.hypot(*(face.points.mean(axis=0) - middle)) < MIDDLE * LOOKED_AT]
    if not faces:
        return None
    face = min(faces, key=lambda face: float(np.hypot(*(face.points.mean(axis=0) - middle))))
    return face.score, from_crop(face.points / LOOKED_AT, quad)


def _by_landmarks(finder: FaceFinder, image: Image.Image, quad: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The square by dlib's landmarks, and these; what was given and None where dlib finds no face there."""
    if not has_landmark_model():
        return _steadied(finder, image, quad), None
    wide = quad.mean(axis=0) + (quad - quad.mean(axis=0)) * WIDER
    px = int(min(max(_side(wide), LOOKED_AT), MOST_PX))
    crop = glimpse(image, wide, px)
    small = np.asarray(crop.resize((LOOKED_AT, LOOKED_AT), Image.Resampling.BILINEAR))
    shapes = []
    with DLIB_ALONE:
        _, detector, predictor = dlib_models()
        for box in detector.run(small, 0, 0.0)[0]:
            edges = (round(edge * px / LOOKED_AT) for edge in (box.left(), box.top(), box.right(), box.bottom()))
            shapes.append(predictor(np.asarray(crop), type(box)(*edges)))
    for shape in shapes:
        landmarks = from_crop(np.array([(shape.part(i).x, shape.part(i).y) for i in range(68)]) / px, wide)
        own = ffhq_quad(landmarks)
        if np.abs(own - quad).max() < AGREES * _side(quad):
            return own, landmarks
    return _steadied(finder, image, quad), None


def _steadied(finder: FaceFinder, image: Image.Image, quad: np.ndarray) -> np.ndarray:
    """The square by the mean of points seen in slightly different crops: a detector's scatter by some degrees."""
    centre = quad.mean(axis=0)
    crops = [turned(centre + (quad - centre) * scale, degrees) for scale, degrees in GLANCES]
    seen = filter(None, (_look(finder, image, crop) for crop in crops))
    points = [each for _, each in seen]
    return _square_of(finder, np.mean(points, axis=0)) if points else quad


def follow(image: Image.Image, quad: np.ndarray) -> np.ndarray | None:
    """Eyes and mouth [3, 2] of the face that was in FFHQ's square [4, 2] one frame ago; None: it is not seen there."""
    finder = face_finder()
    assert finder is not None, "the square came from a finder"
    centre = quad.mean(axis=0)
    looks = [turned(centre + (quad - centre) * scale, degrees) for scale, degrees in FILM_GLANCES]
    first = _look(finder, image, looks[0])
    if first is None:
        return None
    seen = [first, *filter(None, (_look(finder, image, crop) for crop in looks[1:]))]
    return np.mean([points for _, points in seen], axis=0)


def square_around(points: np.ndarray) -> np.ndarray:
    """FFHQ's square [4, 2] of a face by its eyes and mouth [3, 2] as `follow` gives them."""
    finder = face_finder()
    assert finder is not None, "the points came from a finder"
    return _square_of(finder, points)


def _square_of(finder: FaceFinder, points: np.ndarray) -> np.ndarray:
    return quad_of(points, scale=YUNET_SIDE, down=YUNET_DOWN) if finder.name == "yunet" else quad_of(points)


def _around(points: np.ndarray) -> np.ndarray:
    return quad_of(points, scale=WIDER)


def _angle(quad: np.ndarray) -> float:
    """Degrees by which a square is turned clockwise."""
    return float(np.degrees(np.arctan2(*(quad[3] - quad[0])[::-1])))


def _side(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))
