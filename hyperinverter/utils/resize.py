"""An RGB image of any size -> square uint8 tensor: the one resize policy.

Pillow's antialiased bilinear to (R, R), which is what the published `Resize((R, R))` does to a PIL image. An image
whose sides differ by more than 1 % is centre-cropped to a square first instead of being squashed; callers count and
report those, and the images smaller than R, which are enlarged.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # files are looked at without PyTorch, which takes seconds to load
    from torch import Tensor

SQUARE_TOLERANCE = 0.01  # sides that differ by at most this part of the longer one count as square


def centre_crop(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the largest centred part of an image that has the proportions of `shape`.

    Args:
        size: width and height of the image, px.
        shape: height and width, of which only the proportions count.
    Returns:
        px; None where the image has them already, within SQUARE_TOLERANCE.
    """
    (width, height), (high, wide) = size, shape
    if abs(width * high - height * wide) <= SQUARE_TOLERANCE * max(width * high, height * wide):
        return None
    if width * high > height * wide:
        width = height * wide // high
    else:
        height = width * high // wide
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def to_tensor(image: Image.Image, size: int | tuple[int, int]) -> "Tensor":
    """The one resize policy (see the head of this file): RGB image of any size -> uint8 [3, R, R].

    Args:
        image: RGB.
        size: R, or height and width of a network that takes images which are not square.
    """
    import torch

    shape = (size, size) if isinstance(size, int) else size
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}; decode files with decode_image")
    if box := centre_crop(image.size, shape):
        image = image.crop(box)  # resize(box=...) would let the rest bleed in
    if image.size != shape[::-1]:
        image = image.resize(shape[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # [3, R, R]
