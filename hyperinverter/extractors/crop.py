"""The crop square of FFHQ: where it lies for the points of a face, and how it is cut out of a photo.

Source: Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks" (CVPR 2019),
appendix C, with the constants of the FFHQ dataset's own recreation tool.
"""

import numpy as np
from PIL import Image

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)  # of dlib's 68 points; left as seen in the image
MOUTH_LEFT, MOUTH_RIGHT = 48, 54  # outer corners


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Corners of FFHQ's oriented crop square from the 68 landmarks, [4, 2], in the order of `quad_of`."""
    if landmarks.shape != (68, 2):
        raise ValueError(f"expected 68 landmarks [68, 2], got shape {list(landmarks.shape)}")
    left_eye, right_eye = landmarks[LEFT_EYE].mean(axis=0), landmarks[RIGHT_EYE].mean(axis=0)
    return quad_of(np.stack([left_eye, right_eye, (landmarks[MOUTH_LEFT] + landmarks[MOUTH_RIGHT]) / 2]))


def quad_of(points: np.ndarray, scale: float = 1.0, down: float = 0.0) -> np.ndarray:
    """Corners [4, 2] of FFHQ's crop square, in pixels of the photo.

    Top-left, bottom-left, bottom-right, top-right of the upright face.

    Args:
        points: eyes and mouth of a face, [3, 2].
        scale: enlarges the square about its centre.
        down: moves it by a part of the way from the eyes to the mouth.
    """
    centre, right = _crop_of(*points)
    return square(centre + (points[2] - points[:2].mean(axis=0)) * down, right * scale)


def square(centre: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Corners [4, 2] of a square, from its centre [2] and half its side as a vector to the right [2]."""
    down = right[::-1] * [-1, 1]
    return np.stack([centre - right - down, centre - right + down, centre + right + down, centre + right - down])


def turned(quad: np.ndarray, degrees: float) -> np.ndarray:
    """A square [4, 2] turned about its centre, clockwise on screen."""
    centre, angle = quad.mean(axis=0), np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return (quad - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre


def from_crop(points: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Points [n, 2] of a crop of `quad`, in parts of its side, as points of the photo."""
    return quad[0] + points[:, :1] * (quad[3] - quad[0]) + points[:, 1:] * (quad[1] - quad[0])


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


def outside(quad: np.ndarray, size: tuple[int, int]) -> float:
    """How much of a square [4, 2] lies outside a photo of (width, height) px: 0 to 1, to a hundredth."""
    line = (np.arange(100) + 0.5) / 100
    points = from_crop(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), quad)
    return float(((points < 0) | (points > size)).any(axis=1).mean())


def glimpse(image: Image.Image, quad: np.ndarray, size: int) -> Image.Image:
    """A square [4, 2] of a photo at `size` px, quickly: for detectors. What lies outside is black."""
    lowest = np.maximum(np.floor(quad.min(axis=0)).astype(int) - 1, 0)
    highest = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + 1, image.size)
    if (lowest >= highest).any():
        return Image.new("RGB", (size, size))
    region = image.crop((*lowest, *highest))
    factor = max(1, min(int(np.hypot(*(quad[3] - quad[0])) / size), *region.size))
    corners = tuple(((quad - lowest) / factor).flatten())
    return region.reduce(factor).transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def crop_quad(image: Image.Image, quad: np.ndarray, size: int) -> Image.Image:
    """Cut an oriented square out of a photo as FFHQ does; what lies outside is mirrored and blurred.

    `quad`: corners [4, 2] in the order of `quad_of`.
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
