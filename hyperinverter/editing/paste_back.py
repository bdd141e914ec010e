"""Put an edited face crop back into the photo that it was cut from.

The crop lies in the photo as a turned square. A soft mask keeps its middle and fades to nothing before its border, so
that pixels outside are the photo's own, bit for bit. Colours are matched where it fades: what the crop is off by there
is smoothed (normalised convolution: Knutsson and Westin, CVPR 1993) and taken away, less and less towards the middle.
Letters: S pixels of the crop's side in the photo.
"""

import numpy as np
from PIL import Image, ImageFilter

FULL, NOTHING = 0.34, 0.49  # distance from the crop's middle, in sides, up to which the mask is 1, from which it is 0
ROUNDNESS = 4  # of the mask: 2 is a circle, more is nearer to the square
SMOOTH = 0.04  # of the side: how smooth the match of colours is
MATCHED_PX = 128  # side at which colours are matched; they are smooth


def paste_back(photo: Image.Image, quad: np.ndarray, edited: Image.Image) -> Image.Image:
    """The photo with the edited crop in its place.

    Args:
        photo: upright RGB photo.
        quad: where the crop was cut, as of `AlignedFace.quad`, [4, 2].
        edited: the crop as it is to appear, RGB, square, of any size.
    """
    quad = quad + 0.5  # crops are cut so
    side = max(1, round(float(np.hypot(*(quad[3] - quad[0])))))
    left, top = np.maximum(np.floor(quad.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(quad.max(axis=0)).astype(int) + 1, photo.size)
    if left >= right or top >= bottom:
        return photo.copy()
    region = np.asarray(photo.crop((left, top, right, bottom)), np.float32)  # [H, W, 3]
    edited = edited.resize((side, side), Image.Resampling.LANCZOS)
    to_crop = _to_crop(quad, side, np.array([left, top]))
    mask = _placed(_mask(side), to_crop, region.shape[1::-1])[..., None] / 255.0
    under = _cut(region, quad - [left, top])
    matched = Image.fromarray(_match(np.asarray(edited, np.float32), under))
    pasted = _placed(matched, to_crop, region.shape[1::-1])
    mixed = np.where(mask > 0, region + (pasted - region) * mask, region)
    result = photo.copy()
    result.paste(Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8)), (int(left), int(top)))
    return result


def _mask(side: int) -> Image.Image:
    """[side, side], 255 in the middle and 0 at the border, with a smooth step between."""
    at = np.abs((np.arange(side) + 0.5) / side - 0.5)
    distance = (at[:, None] ** ROUNDNESS + at[None] ** ROUNDNESS) ** (1 / ROUNDNESS)
    part = np.clip((NOTHING - distance) / (NOTHING - FULL), 0, 1)
    return Image.fromarray(np.rint(255 * part * part * (3 - 2 * part)).astype(np.uint8))


def _match(edited: np.ndarray, under: np.ndarray) -> np.ndarray:
    """The edited crop [S, S, 3] with the colours of the photo's crop `under` where the mask fades, uint8."""
    size = (MATCHED_PX, MATCHED_PX)
    small = [np.asarray(Image.fromarray(np.rint(x).clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BOX),
                        np.float32) for x in (edited, under)]  # fmt: skip
    mask = np.asarray(_mask(MATCHED_PX), np.float32)[..., None] / 255
    weight = 4 * mask * (1 - mask) + 1e-4  # where the crop fades
    off = (1 - mask) * _smooth((small[1] - small[0]) * weight) / _smooth(weight)
    bands, shape = off.astype(np.float32).transpose(2, 0, 1), edited.shape[1::-1]
    large = [Image.fromarray(band).resize(shape, Image.Resampling.BICUBIC) for band in bands]
    return np.rint(edited + np.stack([np.asarray(band) for band in large], axis=-1)).clip(0, 255).astype(np.uint8)


def _smooth(values: np.ndarray) -> np.ndarray:
    """[H, W, C] under a Gaussian of SMOOTH of the side."""
    from scipy.ndimage import gaussian_filter  # comes with scikit-image

    sigma = SMOOTH * MATCHED_PX
    return gaussian_filter(values.astype(np.float32), (sigma, sigma, 0), mode="nearest")


def _to_crop(quad: np.ndarray, side: int, corner: np.ndarray) -> tuple[float, ...]:
    """Pillow's six numbers that lead from pixels of the photo's region at `corner` to pixels of the crop."""
    across, down = (quad[3] - quad[0]) / side, (quad[1] - quad[0]) / side
    back = np.linalg.inv(np.stack([across, down], axis=1))  # photo -> crop
    shift = back @ (corner - quad[0])
    return (*back[0], shift[0], *back[1], shift[1])


def _placed(crop: Image.Image, to_crop: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """The crop where it lies in a region of the photo of `size`, 0 elsewhere, float32."""
    return np.asarray(crop.transform(size, Image.Transform.AFFINE, to_crop, Image.Resampling.BICUBIC), np.float32)


def _cut(region: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """What lies in the photo under the crop, [MATCHED_PX, MATCHED_PX, 3]; its border is continued outwards."""
    cells = (np.arange(MATCHED_PX) + 0.5) / MATCHED_PX
    points = quad[0] + cells[None, :, None] * (quad[3] - quad[0]) + cells[:, None, None] * (quad[1] - quad[0])
    x, y = (np.clip(points[..., i].astype(int), 0, region.shape[1 - i] - 1) for i in (0, 1))
    blurred = np.asarray(Image.fromarray(region.astype(np.uint8)).filter(ImageFilter.BoxBlur(len(region) // 200)))
    return blurred[y, x].astype(np.float32)
