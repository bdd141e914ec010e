"""Image tensors <-> files, and pictures of many images: contact sheets, difference maps, animations.

Inside the package images are float32 RGB in [-1, 1]; uint8 exists only at files. Conversion rounds (truncation would
darken by half a level). N images, R pixels, H and W any height and width. Files are written whole or not at all.
"""

import io
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hyperinverter.utils.decode import read_image
from hyperinverter.utils.files import write_atomically
from hyperinverter.utils.provenance import DRAWN, said
from hyperinverter.utils.resize import to_tensor

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the second where Pillow lacks FreeType
LARGEST_BYTES = 1_000_000  # of a PNG that a page shows as it is
WIDEST_PX = 1600  # of the sheets that it does not, which may be twice as high
BEYOND = 8.0  # what a network draws may leave [-1, 1], never so far; of 0..255 only what is almost black stays below
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8 0..255 of the same shape, rounded, values outside clamped.

    Raises ValueError: a value is NaN (it would silently become black).
    """
    if not images.is_floating_point():
        raise ValueError(f"expected floating-point images in [-1, 1], got {images.dtype}")
    if torch.isnan(images).any():
        raise ValueError("the images hold NaN values: the network that made them has diverged")
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1] of the same shape."""
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_pil(image: Tensor) -> Image.Image:
    """One image [3, H, W] or [1, 3, H, W], float in [-1, 1] or uint8 -> Pillow RGB."""
    if image.dim() == 4 and image.shape[0] == 1:
        image = image[0]
    if image.dim() != 3 or image.shape[0] != 3:
        one = "; of several write each alone, images[0]" if image.dim() == 4 and image.shape[1] == 3 else ""
        raise ValueError(f"expected one image [3, H, W], got shape {list(image.shape)}{one}")
    pixels = image if image.dtype == torch.uint8 else to_uint8(image)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def load_image(path: str | Path, resolution: int) -> Tensor:
    """Read an image file as network input: float32 [3, R, R] in [-1, 1], by the one resize policy (`utils.resize`).

    Raises FileNotFoundError: no such file. BadImageError: the file is no readable image; names it.
    """
    return from_uint8(to_tensor(read_image(path), resolution))


def resized_as_files(images: Tensor, resolution: int) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1] as `load_image` would read them from lossless files: 8 bits, before and after."""
    small = [to_tensor(to_pil(image), resolution) for image in to_uint8(images).cpu()]
    return from_uint8(torch.stack(small).to(images.device))


def save_image(image: Tensor | Image.Image, path: str | Path, provenance: bool = True) -> Path:
    """Write one image; the suffix chooses PNG, JPEG (quality 95) or WebP.

    Args:
        image: a tensor ([3, H, W] in [-1, 1], or uint8), which is taken to be what a network drew, or Pillow.
        provenance: a tensor's file says in its metadata that a network drew it; False leaves that out.
    Raises ValueError: it is no image, or lies in 0..255 as floats; the suffix is of no format written here.
    """
    path = Path(path)
    if not isinstance(image, Tensor | Image.Image):
        of = "; of an Inversion its images" if hasattr(image, "images") else ""
        raise ValueError(f"image is {type(image).__name__}; give a tensor [3, H, W] in [-1, 1] or a PIL image{of}")
    if isinstance(image, Tensor) and image.is_floating_point() and image.numel():
        low, high = image.aminmax()
        if low >= 0 and high > BEYOND:
            raise ValueError(
                f"image lies in [{low:.3g}, {high:.3g}]; expected [-1, 1]: divide by 127.5 and subtract 1, or use uint8"
            )
    made = DRAWN if provenance and isinstance(image, Tensor) else None
    picture = to_pil(image) if isinstance(image, Tensor) else image
    write_picture(picture, path, made, format=_format_of(path), quality=95)
    return path


def write_picture(picture: Image.Image, path: str | Path, made: str | None = None, **options: Any) -> None:
    """Encode in memory, then write: of a full disk Pillow says "encoder error -2", and not which file.

    Args:
        made: what the file says of its origin, a kind of `utils.provenance`; None: nothing.
        options: of Pillow's `save`.
    """
    if made is not None:
        options = said(made, options.get("format")) | options
    data = file_bytes(picture, **options)
    with write_atomically(path) as temporary:
        temporary.write_bytes(data)


def file_bytes(picture: Image.Image, **options: Any) -> bytes:
    """What a file of the picture holds; `options` of Pillow's `save`, `format` among them."""
    encoded = io.BytesIO()
    picture.save(encoded, **options)
    return encoded.getvalue()


def for_page(path: Path) -> Image.Image | None:
    """A PNG of many bytes at a size that a page can show, to be kept as JPEG; None: the file may be shown as it is."""
    if path.suffix.lower() != ".png" or path.stat().st_size <= LARGEST_BYTES:
        return None
    with Image.open(path, formats=["PNG"]) as sheet:
        small = sheet.convert("RGB")
    small.thumbnail((WIDEST_PX, 2 * WIDEST_PX), Image.Resampling.LANCZOS)
    return small


def save_gif(
    frames: Sequence[Tensor | Image.Image],
    path: str | Path,
    frame_ms: int = 80,
    there_and_back: bool = True,
) -> Path:
    """Write an endless animation.

    Args:
        frames: images [3, H, W] in [-1, 1], or Pillow images, all of one size.
            Of tensors the file says that a network drew them.
        there_and_back: play the inner frames backwards after the last one, so that the loop has no jump.
    """
    path = Path(path)
    made = DRAWN if any(isinstance(frame, Tensor) for frame in frames) else None
    pictures = [to_pil(frame) if isinstance(frame, Tensor) else frame for frame in frames]
    if not pictures:
        raise ValueError("expected at least one frame, got none")
    if there_and_back:
        pictures += pictures[-2:0:-1]
    more = {"save_all": True, "append_images": pictures[1:], "duration": frame_ms, "loop": 0, "disposal": 2}
    write_picture(pictures[0], path, made, format="GIF", **more)
    return path


# Dark blue, blue, cyan, yellow, red: equally spaced from no difference to the stated maximum.
_DIFFERENCE_COLOURS = ((0, 0, 96), (0, 64, 255), (0, 224, 224), (255, 232, 0), (224, 0, 0))


def difference_map(a: Tensor, b: Tensor, maximum: float = 0.5) -> Tensor:
    """Where two images differ, as colours from dark blue (equal) to red (mean absolute difference >= maximum).

    Args:
        a: images [N, 3, H, W] or one [3, H, W], in [-1, 1]; b: the same shape.
        maximum: difference shown as red, in units of [-1, 1] (the full range is 2). One fixed scale for every image,
            so that maps can be compared; say it in the heading.
    Returns:
        Float images of the same shape in [-1, 1].
    """
    if a.shape != b.shape or a.dim() not in (3, 4) or a.shape[-3] != 3:
        raise ValueError(f"expected two images of one shape [N, 3, H, W], got {list(a.shape)} and {list(b.shape)}")
    difference = (a.detach().float() - b.detach().float()).abs().mean(dim=-3)  # [N, H, W]
    place = (difference / maximum).clamp(0, 1) * (len(_DIFFERENCE_COLOURS) - 1)
    colours = torch.tensor(_DIFFERENCE_COLOURS, dtype=torch.float32, device=a.device) / 127.5 - 1
    lower = place.floor().long().clamp(max=len(_DIFFERENCE_COLOURS) - 2)
    blend = (place - lower).unsqueeze(-1)
    mixed = colours[lower] * (1 - blend) + colours[lower + 1] * blend  # [N, H, W, 3]
    return mixed.movedim(-1, -3)


def contact_sheet(
    rows: Sequence[Sequence[Tensor | Image.Image | str | None]],
    headings: Sequence[str] | None,
    path: str | Path | None,
    captions: Sequence[str] | None = None,
    cell: int | None = None,
    made: str | None = None,
) -> Image.Image:
    """Draw rows of images with headings above the columns and a caption left of each row.

    Args:
        rows: per row its cells: an image [3, H, W] (or [1, 3, H, W]) in [-1, 1], a Pillow image, text, or None (empty).
        headings: one per column, or None.
        path: where to write it; None writes nothing.
        captions: one per row, or None.
        cell: side of a cell in pixels; None: the largest image's side, doubled, tripled, ... until it reaches 96 so
            that headings can be read. Smaller images are enlarged by whole pixels where that fits, else by Lanczos.
    Raises:
        ValueError: no rows, or headings or captions of another number than columns or rows.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("expected at least one row with one cell, got none")
    if headings is not None and len(headings) != columns:
        raise ValueError(f"expected {columns} headings, one per column, got {len(headings)}: {list(headings)}")
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"expected {len(rows)} captions, one per row, got {len(captions)}")
    pictures = [[to_pil(item) if isinstance(item, Tensor) else item for item in row] for row in rows]
    sides = [max(item.size) for row in pictures for item in row if isinstance(item, Image.Image)]
    largest = max(sides, default=96)
    cell = cell or largest * -(-96 // largest)
    font = _font(max(11, cell // 11))
    line = max(14, cell // 8)
    gap = max(2, cell // 48)
    room = cell - 3 * gap  # of a heading, so that two of them do not read as one
    head = max((len(_wrap(text, font, room)) for text in headings), default=1) * line + gap if headings else 0
    widths = [font.getlength(part) for text in captions or () for part in text.split("\n")]
    margin = round(min(max(widths), 3 * cell)) + 3 * gap if captions else 0
    sheet = Image.new("RGB", (margin + columns * (cell + gap) + gap, head + len(rows) * (cell + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(headings or ()):
        _write(draw, text, font, (margin + gap + column * (cell + gap), gap), room, line)
    for row, items in enumerate(pictures):
        top = head + gap + row * (cell + gap)
        if captions:
            lines = _wrap(captions[row], font, margin - 2 * gap)
            _write(draw, captions[row], font, (gap, top + (cell - line * len(lines)) // 2), margin - 2 * gap, line)
        for column, item in enumerate(items):
            left = margin + gap + column * (cell + gap)
            if isinstance(item, str):
                _write(draw, item, font, (left, top), cell, line)
            elif item is not None:
                picture = _fit(item, cell)
                sheet.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))
    if path is not None:
        write_picture(sheet, path, made, format=_format_of(Path(path)), quality=95)
    return sheet


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    """Scale into a cell x cell square, keeping the shape; enlarging by a whole factor keeps pixels crisp."""
    largest = max(picture.size)
    if largest == cell:
        return picture
    width, height = (max(1, round(side * cell / largest)) for side in picture.size)
    whole = cell % largest == 0
    return picture.resize((width, height), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> Font:
    """DejaVu Sans, which matplotlib carries: names in most alphabets; Pillow's own has English letters alone."""
    spec = find_spec("matplotlib")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size=size)


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Break text at its line breaks and between words so that lines fit `width` pixels; a longer word is cut."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        current = ""
        for word in paragraph.split():
            joined = f"{current} {word}".strip()
            if font.getlength(joined) <= width or not current:
                current = joined
            else:
                lines.append(current)
                current = word
        lines.append(current)
    shortened = []
    for one in lines:
        while len(one) > 1 and font.getlength(one) > width:
            one = one[:-2] + "…"
        shortened.append(one)
    return shortened


def _write(draw: ImageDraw.ImageDraw, text: str, font: Font, corner: tuple[int, int], width: int, line: int) -> None:
    for number, words in enumerate(_wrap(text, font, width)):
        draw.text((corner[0], corner[1] + number * line), words, fill="black", font=font)


def _format_of(path: Path) -> str:
    image_format = _FORMATS.get(path.suffix.lower())
    if image_format is None:
        raise ValueError(f"cannot write {path}: the name must end in one of {', '.join(_FORMATS)}")
    return image_format
