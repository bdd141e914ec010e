"""Bytes of an image file -> 8-bit RGB -> square uint8 tensor: the one decoding; `utils.resize` has the resize policy.

Only the formats of FORMATS are decoded, whatever a file is called: Pillow knows forty more, among them EPS, for which
it starts another program. How many pixels a file declares is checked before any is decoded.
"""

import contextlib
import ctypes
import functools
import io
import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, features

from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.files import ordinary_bytes
from hyperinverter.utils.resize import to_tensor

if TYPE_CHECKING:  # files are looked at without PyTorch, which takes seconds to load
    from torch import Tensor

# Pillow's name -> suffixes; the one list of what counts as an image
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),  # what phones write; by the package pillow-heif
}
# Of files without a suffix: how each format begins. AVIF and HEIF are recognised by the brands in their first box.
SIGNATURES = (
    rb"\xff\xd8\xff|\x89PNG\r\n|II\*\0|MM\0\*|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|P[56]\s(?:#[^\n]*\n)*\s*\d+\s+\d+\s"
)
BRANDS = {"AVIF": (b"avif", b"avis"), "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")}
HEAD_BYTES = 64  # that tell what a file is
ABSENT = {  # what to do where a format's decoder is not installed
    "AVIF": "an AVIF image, which this Pillow cannot read: update Pillow, or convert it to JPEG",
    "HEIF": "a HEIC photo, which needs pillow-heif: pip install 'hyperinverter[heic]', or convert it to JPEG",
}
OTHER_PICTURES = (  # what cameras, editors and browsers write besides; nothing here reads it
    ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".jp2", ".jxl", ".psd", ".svg", ".ico", ".tga",
)  # fmt: skip
CONVERT = "is a picture of a format that is not read here: convert it to JPEG or PNG"
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MAX_MEGAPIXELS = 24.5  # data.max_megapixels: what is decoded unless the user asks for more; 8 bytes a pixel are 200 MB
JPEG_STEPS = (2, 4, 8)  # a JPEG can be decoded at a half, a quarter or an eighth of its sides
FAST_MEGAPIXELS = 16  # of a JPEG for simplejpeg, whose pixels are copied once more than Pillow's
MOST_SCANS = 200  # of a progressive JPEG; usual are 10, and each takes the time of a whole image
FULL_SIZE = "full_size"  # in the `info` of an image that was reduced while decoding: (width, height) before, upright
ONE_OF = ("GIF", "WEBP", "TIFF", "PNG", "AVIF")  # that may be animated or have pages; beside a phone's photo are others
SEVERAL = "several"  # in the `info` of an image that is the first of its file's pictures

ORIENTATION = 0x0112  # EXIF
TURNED = range(2, 9)  # its values that change an image
BAND_PIXELS = 1 << 17  # what is converted at a time

# What Pillow's decoders raise on damaged files (it has no common base class for them).
_DECODE_ERRORS = (OSError, *DAMAGED, Image.DecompressionBombError)

# Pillow warns of its own limit (ours is lower, and told), odd EXIF, palettes, and logs what it raises: of no use here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
logger = logging.getLogger(__name__)


class BadImageError(UserError, ValueError):
    """One file that cannot be read as an image; `name` is the file, `reason` one line."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self):  # two arguments, so that it survives pickling between processes
        return type(self), (self.name, self.reason)


def decode_image(data: bytes, name: str, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """Decode an image file completely into 8-bit RGB, upright.

    Of an animation, or of pages, it is the first. EXIF orientation is applied; grayscale, palette, CMYK, YCbCr become
    RGB; transparency is laid over white; 16-bit grayscale is scaled to 8 bits. Colour profiles are ignored, as the
    published code does.

    Args:
        name: what to call the file in errors.
        max_megapixels: larger JPEGs are decoded at a half, a quarter or an eighth of their sides (`info["full_size"]`
            then has the size before); larger files of other formats are refused.
    Raises:
        BadImageError: empty, truncated, not an image, too large, or of a pixel type without a stated range; names the
            file.
    """
    if not data:
        raise BadImageError(name, "the file is empty (0 bytes)")
    _silence_libtiff()
    if Image.MAX_IMAGE_PIXELS is not None and max_megapixels * 1e6 > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1e6)  # Pillow's own limit, which is not above the user's
    try:
        with Image.open(io.BytesIO(data), formats=_decoders(data)) as image:
            full = _reduced_from(image, data, name, max_megapixels)
            image.load()  # open reads the header only; a truncated file shows here
            ImageOps.exif_transpose(image, in_place=True)
            upright = _to_rgb(image, name)
            if _is_one_of_several(image):
                upright.info[SEVERAL] = True
                _warn_of_several(image.format or "image")
    except Image.UnidentifiedImageError:
        raise BadImageError(name, _why_unidentified(data, name)) from None
    except Image.DecompressionBombError as error:  # of Pillow, before the size is known here
        match = re.search(r"\d+", str(error))
        raise _too_large(name, f"{int(match[0]) / 1e6:.4g} megapixels" if match else "it", max_megapixels) from None
    except BadImageError:
        raise
    except _DECODE_ERRORS as error:
        reason = re.sub(r"decoder error -?\d+", "its pixels cannot be decoded", reason_of(error))
        raise BadImageError(name, f"damaged or unsupported: {reason}") from error
    if full is not None:
        turned = (upright.width > upright.height) != (full[0] > full[1])
        upright.info[FULL_SIZE] = full[::-1] if turned else full
    return upright


def looks_like_image(head: bytes) -> bool:
    """Whether the first HEAD_BYTES of a file are those of an image of FORMATS; for files whose name says nothing."""
    return re.match(SIGNATURES, head, re.DOTALL) is not None or _kind_by_brand(head) is not None


def _why_unidentified(data: bytes, name: str) -> str:
    kind = _kind_by_brand(data)
    if name.lower().endswith(OTHER_PICTURES):
        return CONVERT
    if kind is not None and not _can_read(kind):
        return ABSENT[kind]
    if looks_like_image(data[:HEAD_BYTES]):
        return f"damaged ({len(data)} bytes that begin as an image's do)"
    return f"not an image ({len(data)} bytes that are none of {', '.join(FORMATS)})"


def _kind_by_brand(data: bytes) -> str | None:
    """AVIF or HEIF by the brands that an ISO media file names in its first box; None for other files."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), HEAD_BYTES)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    return next((kind for kind, known in BRANDS.items() if brands & set(known)), None)


def _decoders(data: bytes) -> list[str]:
    """Names in Pillow of the formats that may be tried; AVIF's and HEIF's only for such files, where they are there."""
    kind = _kind_by_brand(data)
    if kind is not None:
        return [kind] if _can_read(kind) else []
    return [name for name in FORMATS if name not in BRANDS]


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff's own lines about a damaged file off the terminal; Pillow raises the same.

    Pillow's module is linked to libtiff. In its wheels for Windows it holds it, out of reach, and the lines appear.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


@functools.cache
def _can_read(kind: str) -> bool:
    if kind == "AVIF":
        return bool(features.check("avif"))
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _reduced_from(image: Image.Image, data: bytes, name: str, max_megapixels: float) -> tuple[int, int] | None:
    """Refuse what takes too much memory or time before pixels are touched; the size of a JPEG that will be reduced."""
    jpeg = image.format in ("JPEG", "MPO")
    progressive = jpeg and "progressive" in image.info
    if progressive and data.count(b"\xff\xda") > MOST_SCANS:
        raise BadImageError(name, f"a JPEG of more than {MOST_SCANS} scans; save it again without progressive scans")
    # memory while decoding, in units of 8 bytes per pixel (RGB and its turned copy): a progressive JPEG's coefficients
    # and WebP's canvases are held beside the pixels
    weight = 2.0 if image.format == "WEBP" else (4 + 2 * len(image.getbands())) / 8 if progressive else 1.0
    (width, height), most = image.size, max_megapixels * 1e6 / max(weight, 1.0)
    if width * height <= most:
        return None
    for step in JPEG_STEPS if jpeg and not progressive else ():
        if -(-width // step) * -(-height // step) <= most:
            image.draft(None, (width // step, height // step))
            break
    if image.width * image.height > most:
        raise _too_large(name, f"{width} x {height} px", most / 1e6)
    _warn_of_reduced(max_megapixels)
    return width, height


def _too_large(name: str, what: str, max_megapixels: float) -> BadImageError:
    side = int((max_megapixels * 1e6) ** 0.5)
    return BadImageError(
        name,
        f"{what}, more than the limit of {max_megapixels:g} megapixels: reduce it to at most {side} x {side} px, or "
        f"raise data.max_megapixels",
    )


@functools.cache
def _warn_of_reduced(max_megapixels: float) -> None:
    logger.warning("JPEGs of more than %g megapixels are reduced while they are decoded; to keep them as they are, "
                   "raise data.max_megapixels", max_megapixels)  # fmt: skip


def _is_one_of_several(image: Image.Image) -> bool:
    """Whether the file of an image that was decoded holds more; one more is looked for, as counting all takes long."""
    with contextlib.suppress(*_DECODE_ERRORS):  # of the second one
        return image.format in ONE_OF and bool(getattr(image, "is_animated", False))
    return False


@functools.cache
def _warn_of_several(kind: str) -> None:
    logger.warning("of a %s that holds several pictures only the first is used; films (.mp4) are for %s", kind,
                   command_of("edit_video"))  # fmt: skip


def upright_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Any Pillow image as upright 8-bit RGB, by the rules of `decode_image`; may be the same object.

    Raises BadImageError: a pixel type without a stated range; names the image.
    """
    is_turned = image.getexif().get(ORIENTATION) in TURNED
    return _to_rgb(ImageOps.exif_transpose(image) if is_turned else image, name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """RGB of the same size, converted band by band, so that nothing of another kind is held twice."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise BadImageError(name, "floating-point pixels have no stated range; save it with 8 or 16 bits per channel")
    deep, clear = image.mode.startswith("I"), image.has_transparency_data
    rgb = Image.new("RGB", image.size)
    rows = max(BAND_PIXELS // max(image.width, 1), 1)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_levels(band, name) if deep else _over_white(band) if clear else band.convert("RGB"), (0, top))
    return rgb


def _levels(band: Image.Image, name: str) -> Image.Image:
    """16-bit grayscale ("I;16", "I;16B"), or 32-bit integers holding it."""
    values = np.asarray(band).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(name, f"integer pixels from {values.min()} to {values.max()}; expected 0 to 65535")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")  # 65535 / 255 = 257


def _over_white(band: Image.Image) -> Image.Image:
    """RGBA, LA, PA, and palettes or RGB with a transparent colour."""
    rgba = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def decode_tensor(
    data: bytes, name: str, resolution: int, max_megapixels: float = MAX_MEGAPIXELS
) -> "tuple[Tensor, tuple[int, int]]":
    """`to_tensor(decode_image(...))` and the (width, height) before the resize, px; the same numbers, sooner.

    A plain JPEG is decoded by simplejpeg in three quarters of Pillow's time, bit for bit equal. What that doubts at all
    goes Pillow's way, like every other file: Pillow says which damage it refuses. torchvision's decoders do not serve:
    libjpeg's warnings reach the terminal, and a damaged PNG ends the process.

    Raises BadImageError: as `decode_image`.
    """
    pixels = _decode_plain_jpeg(data, min(max_megapixels, FAST_MEGAPIXELS))  # [H, W, 3]
    image = decode_image(data, name, max_megapixels) if pixels is None else Image.fromarray(pixels)
    return to_tensor(image, resolution), image.size


def _decode_plain_jpeg(data: bytes, max_megapixels: float = FAST_MEGAPIXELS) -> np.ndarray | None:
    """An upright RGB JPEG, uint8 [H, W, 3]; None for every other file, a large one, and one with any damage."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:  # reads what stands before the pixels
            many_scans = "progressive" in image.info and data.count(b"\xff\xda") > MOST_SCANS
            if many_scans or image.width * image.height > max_megapixels * 1e6:
                return None
            if image.mode != "RGB" or image.getexif().get(ORIENTATION, 1) != 1:
                return None
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except _DECODE_ERRORS:
        return None


def read_image(path: str | Path) -> Image.Image:
    """Read one image file as upright 8-bit RGB.

    Raises FileNotFoundError: no such file. BadImageError: the file is no readable image; names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}: give the path of a JPEG, PNG or WebP file")
    return decode_image(ordinary_bytes(path), str(path))
