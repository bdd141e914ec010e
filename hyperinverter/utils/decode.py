"""Bytes of an image file -> 8-bit RGB -> square uint8 tensor: the one decoding and the one resize policy.

Resize: Pillow's antialiased bilinear to (R, R), which is what the published `Resize((R, R))` does to a PIL image. An
image whose sides differ by more than 1 % is centre-cropped to a square first instead of being squashed; callers count
and report those, and the images smaller than R, which are enlarged.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hyperinverter.utils.errors import UserError

SQUARE_TOLERANCE = 0.01  # sides that differ by at most this part of the longer one count as square

# What Pillow's decoders raise on damaged files (it has no common base class for them).
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, struct.error,
                  zlib.error, Image.DecompressionBombError)  # fmt: skip


class BadImageError(UserError, ValueError):
    """One file that cannot be read as an image; `name` is the file, `reason` one line."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self):  # two arguments, so that it survives pickling between processes
        return type(self), (self.name, self.reason)


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image file completely into 8-bit RGB, upright.

    EXIF orientation is applied; grayscale, palette, CMYK, YCbCr become RGB; transparency is laid over white; 16-bit
    grayscale is scaled to 8 bits. Colour profiles are ignored, as the published code does.

    Args:
        data: the file's bytes.
        name: what to call the file in errors.
    Raises:
        BadImageError: empty, truncated, not an image, or of a pixel type without a stated range; names the file.
    """
    if not data:
        raise BadImageError(name, "the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # open reads the header only; a truncated file shows here
            return upright_rgb(image, name)
    except Image.UnidentifiedImageError:
        raise BadImageError(name, f"not an image ({len(data)} bytes that no decoder recognises)") from None
    except BadImageError:
        raise
    except _DECODE_ERRORS as error:
        raise BadImageError(name, f"damaged or unsupported: {error}") from error


def upright_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Any Pillow image as upright 8-bit RGB, by the rules of `decode_image`.

    Raises:
        BadImageError: a pixel type without a stated range; names the image.
    """
    return _to_rgb(ImageOps.exif_transpose(image), name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grayscale ("I;16", "I;16B"), or 32-bit integers holding it
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError(name, f"integer pixels from {values.min()} to {values.max()}; expected 0 to 65535")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")  # 65535 / 255 = 257
    if image.mode == "F":
        raise BadImageError(name, "floating-point pixels have no stated range; save it with 8 or 16 bits per channel")
    if image.has_transparency_data:  # RGBA, LA, PA, and palettes or RGB with a transparent colour
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def is_square(size: tuple[int, int]) -> bool:
    """Whether an image of this (width, height) counts as square, i.e. is resized without a crop."""
    return abs(size[0] - size[1]) <= SQUARE_TOLERANCE * max(size)


def centre_square(size: tuple[int, int]) -> tuple[int, int, int]:
    """Left, top and side of the largest centred square in an image of this (width, height), px."""
    side = min(size)
    return (size[0] - side) // 2, (size[1] - side) // 2, side


def to_tensor(image: Image.Image, resolution: int) -> Tensor:
    """The one resize policy: RGB image of any size -> uint8 [3, R, R] (see the head of this file)."""
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}; decode files with decode_image")
    if not is_square(image.size):
        left, top, side = centre_square(image.size)
        image = image.crop((left, top, left + side, top + side))  # resize(box=...) would let the rest bleed in
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # [3, R, R]


def read_image(path: str | Path) -> Image.Image:
    """Read one image file as upright 8-bit RGB.

    Raises:
        FileNotFoundError: no such file.
        BadImageError: the file is no readable image; names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}: give the path of a JPEG, PNG or WebP file")
    return decode_image(path.read_bytes(), str(path))
