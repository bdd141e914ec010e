"""Decoding: every file type a user may bring becomes upright RGB or an error that names it; the one resize policy."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.utils import decode
from hyperinverter.utils.decode import BadImageError, decode_image, read_image
from hyperinverter.utils.resize import centre_crop, to_tensor


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def levels(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = decode_image(data, "x")
    assert image.mode == "RGB"
    return image.getpixel(at)


def test_pixel_types():
    assert levels(encode(Image.new("L", (8, 8), 77), "PNG")) == (77, 77, 77)
    assert levels(encode(Image.new("1", (8, 8), 1), "PNG")) == (255, 255, 255)
    assert levels(encode(Image.new("L", (8, 8), 77), "JPEG")) == (77, 77, 77)
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4)
    assert palette.mode == "P" and levels(encode(palette, "PNG")) == (10, 200, 30)
    cmyk = levels(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk[0] > 240 and max(cmyk[1:]) < 15  # red
    deep = Image.fromarray(np.full((8, 8), 257 * 77, np.uint16))
    assert levels(encode(deep, "PNG")) == (77, 77, 77)
    assert levels(encode(deep, "TIFF")) == (77, 77, 77)


def test_transparency_is_laid_over_white():
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert levels(encode(half, "PNG")) == pytest.approx((127, 127, 127), abs=1)
    assert levels(encode(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG")) == (255, 255, 255)
    assert levels(encode(Image.new("LA", (8, 8), (0, 0)), "PNG")) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([1, 2, 3, 4, 5, 6])
    assert levels(encode(palette, "PNG", transparency=0)) == (255, 255, 255)
    assert levels(encode(palette, "PNG")) == (1, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("red", (0, 0, 16, 8))  # top left
    turn_back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turn_back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encode(stored, "JPEG", quality=95, exif=exif), "x")
    assert image.size == (32, 16)
    red = np.asarray(image)[:, :, 0]
    assert red[:6, :14].min() > 200 and red[10:].max() < 60 and red[:, 18:].max() < 60


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_named(image_format):
    data = encode(noise(), image_format)
    with pytest.raises(BadImageError, match=r"photo\.x: ") as error:
        decode_image(data[: len(data) * 2 // 3], "photo.x")
    assert error.value.name == "photo.x" and "\n" not in error.value.reason


def test_what_is_no_image_is_named():
    with pytest.raises(BadImageError, match=r"a\.jpg: the file is empty"):
        decode_image(b"", "a.jpg")
    with pytest.raises(BadImageError, match=r"b\.jpg: not an image"):
        decode_image(b"<html>404 not found</html>", "b.jpg")
    with pytest.raises(BadImageError, match="no stated range"):
        decode_image(encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "c.tif")
    damaged = bytearray(encode(noise(), "PNG"))
    damaged[200:220] = bytes(20)
    with pytest.raises(BadImageError, match=r"d\.png"):
        decode_image(bytes(damaged), "d.png")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image file at .*none\.png"):
        read_image(tmp_path / "none.png")


def test_resize_is_the_published_one_for_square_images():
    """Resize((R, R)) of a PIL image is Pillow's own bilinear resize; torchvision itself is asked in the slow test."""
    photo = noise(100)
    assert torch.equal(to_tensor(photo, 32), as_tensor(photo.resize((32, 32), Image.Resampling.BILINEAR)))
    assert torch.equal(to_tensor(photo, 100), as_tensor(photo))


@pytest.mark.slow  # importing torchvision takes longer than all tests here
def test_resize_equals_torchvision():
    from torchvision.transforms import InterpolationMode, v2

    photo = noise(100)
    for resolution in (32, 64, 128):
        published = v2.Resize((resolution, resolution), InterpolationMode.BILINEAR, antialias=True)(photo)
        assert torch.equal(to_tensor(photo, resolution), as_tensor(published))


def test_other_shapes_are_centre_cropped_not_squashed():
    assert centre_crop((1000, 990), (1, 1)) is None and centre_crop((1000, 985), (1, 1)) == (7, 0, 992, 985)
    wide = Image.new("RGB", (90, 30), "blue")
    wide.paste("red", (30, 0, 60, 30))
    pixels = to_tensor(wide, 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8
    assert (pixels == torch.tensor([255, 0, 0])[:, None, None]).all()
    assert to_tensor(Image.new("RGB", (3, 2)), 16).shape == (3, 16, 16)
    high = to_tensor(wide.transpose(Image.Transpose.ROTATE_90), (8, 16))  # a wide part of a high image
    assert high.shape == (3, 8, 16) and (high == torch.tensor([255, 0, 0])[:, None, None]).all()
    assert torch.equal(to_tensor(wide, (10, 30)), as_tensor(wide.resize((30, 10), Image.Resampling.BILINEAR)))
    with pytest.raises(ValueError, match="RGB image, got mode L"):
        to_tensor(Image.new("L", (16, 16)), 16)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), box=(0, 0, width / 2, height / 2))


def assert_decodes_as_pillow(data: bytes, resolution: int = 32) -> None:
    image = decode.decode_image(data, "x")
    pixels, size = decode.decode_tensor(data, "x", resolution)
    assert size == image.size and torch.equal(pixels, to_tensor(image, resolution))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 95}, {"quality": 85, "progressive": True}])
def test_the_fast_jpeg_decoder_gives_pillows_bits(subsampling, options):
    for size in ((32, 32), (64, 64), (37, 53), (128, 127), (7, 90)):
        data = encode(photo(*size), "JPEG", subsampling=subsampling, **options)
        assert decode._decode_plain_jpeg(data) is not None
        assert_decodes_as_pillow(data)


def test_whatever_is_not_a_plain_jpeg_goes_pillows_way():
    image, turned = photo(48, 32), Image.Exif()
    turned[decode.ORIENTATION] = 6
    files = [
        encode(image, "JPEG", exif=turned),
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "PNG"),
        encode(image.convert("RGBA"), "PNG"),
        encode(image, "WEBP"),
    ]
    for data in files:
        assert decode._decode_plain_jpeg(data) is None
        assert_decodes_as_pillow(data)
    assert decode._decode_plain_jpeg(encode(image, "JPEG", exif=Image.Exif())) is not None


def test_damaged_jpegs_end_as_with_pillow(capfd):
    """The same pixels or the same refusal, whatever is cut off or changed; and no word of libjpeg on the terminal."""
    whole, draw = encode(photo(40, 40), "JPEG", quality=90), np.random.default_rng(0)
    accepted = 0
    for trial in range(150):
        data = bytearray(whole[: draw.integers(4, len(whole))] if trial % 2 else whole)
        for at in draw.integers(2, len(data), 3):
            data[at] = draw.integers(256)
        try:
            decode.decode_image(bytes(data), "x")
        except decode.BadImageError as error:
            with pytest.raises(decode.BadImageError) as refusal:
                decode.decode_tensor(bytes(data), "x", 16)
            assert str(refusal.value) == str(error)
        else:
            accepted += 1
            assert_decodes_as_pillow(bytes(data), 16)
    assert accepted > 10, "damage that Pillow does not mind was tried too"
    assert capfd.readouterr() == ("", "")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touched) print\nshowpage\n%%EOF\n"


def test_no_other_program_is_started_on_a_file(tmp_path, monkeypatch):
    """An EPS called photo.jpg was handed to Ghostscript, whose failure ended the run."""
    program, mark = tmp_path / "gs", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it is looked for again
    with pytest.raises(BadImageError, match=r"photo\.jpg: not an image"):
        decode_image(EPS, "photo.jpg")
    with pytest.raises(BadImageError, match=r"photo\.jpg: not an image"):
        decode.decode_tensor(EPS, "photo.jpg", 16)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_the_named_formats_are_decoded():
    Image.init()
    refused = []
    for image_format in sorted(set(Image.SAVE) - set(decode.FORMATS) - {"PDF"}):
        for mode in ("RGB", "L", "1"):
            try:
                data = encode(Image.new(mode, (16, 16)), image_format)
                Image.open(io.BytesIO(data)).load()  # Pillow alone would take it
            except Exception:
                continue
            if Image.open(io.BytesIO(data)).format not in decode.FORMATS:
                with pytest.raises(BadImageError, match="not an image"):
                    decode_image(data, "photo.png")
                refused.append(image_format)
            break
    assert len(refused) > 8


def test_images_are_opened_in_one_place():
    package = Path(decode.__file__).parents[1]
    for path in package.rglob("*.py"):
        for line in path.read_text().splitlines():
            assert "Image.open(" not in line or "formats=" in line, f"{path}: {line.strip()}: use read_image"


def png_of(width: int, height: int) -> bytes:
    """A whole PNG's head that declares a size; its pixels are missing."""
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("size", [(5001, 5000), (13000, 13000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the package's own filter
def test_too_many_pixels_are_refused_before_they_are_decoded(size, monkeypatch):
    data = png_of(*size)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImageError, match=r"big\.png: .* 24\.5 megapixels: .*4949 x 4949.*data\.max_megapixels"):
        decode_image(data, "big.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_can_be_raised(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encode(Image.new("RGB", (100, 90), "red"), "PNG")
    with pytest.raises(BadImageError, match=r"limit of 0\.005 megapixels"):
        decode_image(data, "x", max_megapixels=0.005)
    assert decode_image(data, "x", max_megapixels=0.01).size == (100, 90)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_reduced_while_it_is_decoded(orientation):
    smooth = Image.radial_gradient("L").resize((402, 300)).convert("RGB")
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    data = encode(smooth, "JPEG", quality=95, exif=exif)
    whole = decode_image(data, "x")
    for limit, step in ((0.2, 1), (0.1, 2), (0.02, 4), (0.003, 8)):
        image = decode_image(data, "x", limit)
        assert image.size == tuple(-(-side // step) for side in whole.size)
        assert image.info.get(decode.FULL_SIZE, image.size) == whole.size
        small = whole.resize(image.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(small, int) - np.asarray(image)).mean() < 3
        assert decode.decode_tensor(data, "x", 16, limit)[1] == image.size
    with pytest.raises(BadImageError, match="402 x 300 px, more than"):
        decode_image(data, "x", 0.001)
    with pytest.raises(BadImageError, match="402 x 300 px, more than"):  # all its coefficients would be held
        decode_image(encode(smooth, "JPEG", progressive=True), "x", 0.1)


def test_a_jpeg_of_very_many_scans_is_refused():
    """Each scan costs the time of the whole image and takes a few bytes."""
    data = encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 300 + data[-2:]
    for decoding in (decode_image, lambda *given: decode.decode_tensor(*given, 16)):
        with pytest.raises(BadImageError, match="more than 200 scans"):
            decoding(many, "x")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "I"])
def test_bands_join_without_a_seam(mode, monkeypatch):
    """What is converted band by band equals what is converted at once, turned images too."""
    picture = noise(48).crop((0, 0, 48, 31))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16)[:, :, 0] * 250)
    elif mode == "I":
        picture = Image.fromarray(np.asarray(picture).astype(np.int32)[:, :, 0] * 250)
    elif mode == "RGBA":
        picture.putalpha(noise(48).convert("L").crop((0, 0, 48, 31)))
    else:
        picture = picture.convert(mode)
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 8
    data = encode(picture, "TIFF" if mode in ("CMYK", "I") else "PNG", exif=exif)
    whole = decode_image(data, "x")
    monkeypatch.setattr(decode, "BAND_PIXELS", 100)
    assert decode_image(data, "x").tobytes() == whole.tobytes() and whole.size == (31, 48)
