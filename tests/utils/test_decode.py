"""Decoding: every file type a user may bring becomes upright RGB or an error that names it; the one resize policy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.utils import decode
from hyperinverter.utils.decode import BadImageError, decode_image, is_square, read_image, to_tensor


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
    assert is_square((1000, 990)) and not is_square((1000, 985))
    wide = Image.new("RGB", (90, 30), "blue")
    wide.paste("red", (30, 0, 60, 30))
    pixels = to_tensor(wide, 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8
    assert (pixels == torch.tensor([255, 0, 0])[:, None, None]).all()
    assert to_tensor(Image.new("RGB", (3, 2)), 16).shape == (3, 16, 16)
    with pytest.raises(ValueError, match="RGB image, got mode L"):
        to_tensor(Image.new("L", (16, 16)), 16)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), box=(0, 0, width / 2, height / 2))


def assert_decodes_as_pillow(data: bytes, resolution: int = 32) -> None:
    image = decode.decode_image(data, "x")
    pixels, size = decode.decode_tensor(data, "x", resolution)
    assert size == image.size and torch.equal(pixels, decode.to_tensor(image, resolution))


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


def test_damaged_jpegs_end_as_with_pillow():
    """The same pixels or the same refusal, whatever is cut off or changed."""
    whole, draw = encode(photo(40, 40), "JPEG", quality=90), np.random.default_rng(0)
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
            assert_decodes_as_pillow(bytes(data), 16)


def test_without_torchvisions_decoder_pillow_decodes(monkeypatch):
    monkeypatch.setattr(decode, "_torchvision_jpeg", lambda: None)
    assert_decodes_as_pillow(encode(photo(32, 32), "JPEG"))
