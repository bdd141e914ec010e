"""Bytes of an image file -> 8-bit RGB -> square uint8 tensor: the one decoding and the one resize policy.

Resize: Pillow's antialiased bilinear to (R, R), which is what the published `Resize((R, R))` does to a PIL image. An
image whose sides differ by more than 1 % is centre-cropped to a square first instead of being squashed; callers count
and report those, and the images smaller than R, which are enlarged.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hyperinverter.utils.errors import UserError

ORIENTATION = 0x0112  # EXIF
RGB = 3  # torchvision's number of this mode
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


def decode_tensor(data: bytes, name: str, resolution: int) -> tuple[Tensor, tuple[int, int]]:
    """`to_tensor(decode_image(...))` and the (width, height) before the resize, px; the same numbers, sooner.

    A plain JPEG is decoded by torchvision in two thirds of Pillow's time, bit for bit equal. Everything else goes
    Pillow's way: torchvision's PNG decoder crashes the process on damaged files, its WebP decoder takes some that
    Pillow refuses, and torch's resize differs by one level here and there.

    Raises:
        BadImageError: as `decode_image`.
    """
    pixels = _decode_plain_jpeg(data)  # [3, H, W], in memory [H, W, 3]
    if pixels is not None and pixels.shape[1:] == (resolution, resolution):
        return pixels.contiguous(), (resolution, resolution)
    image = decode_image(data, name) if pixels is None else Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return to_tensor(image, resolution), image.size


def _decode_plain_jpeg(data: bytes) -> Tensor | None:
    """An upright RGB JPEG, uint8 [3, H, W]; None for every other file, and for a damaged one."""
    if data[:2] != b"\xff\xd8" or (decode := _torchvision_jpeg()) is None:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:  # reads what stands before the pixels
            if image.mode != "RGB" or image.getexif().get(ORIENTATION, 1) != 1:
                return None
    except (*_DECODE_ERRORS, Image.UnidentifiedImageError):
        return None
    try:
        return decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), RGB, False)
    except RuntimeError:
        return None  # Pillow says what is wrong with it


@functools.cache
def _torchvision_jpeg() -> Callable[[Tensor, int, bool], Tensor] | None:
    """bytes, mode, whether to turn by EXIF -> pixels; None from the torchvision on that leaves decoding to others."""
    try:
        import torchvision.io  # noqa: F401 (brings the operator)

        return torch.ops.image.decode_jpeg
    except (ImportError, AttributeError):
        return None


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
