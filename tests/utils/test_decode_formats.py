"""Files of phones and of the web: HEIC, AVIF, GIF, files without a suffix; and no raw warnings about any."""

import io
import logging
import lzma
import os
import shutil
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image, features

from hyperinverter.data.sources import open_source
from hyperinverter.utils import decode
from hyperinverter.utils.decode import BadImageError, decode_image, looks_like_image

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
AVIF_HEAD = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(40)


def picture() -> Image.Image:
    """Smooth, red at the left, blue at the bottom, so that lossy formats keep it and turns show."""
    across, down = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
    return Image.fromarray(np.stack([255 - across, 0 * across, down], axis=-1).astype(np.uint8))


def encoded(image_format: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, image_format, **options)
    return buffer.getvalue()


def heif(**options) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener(thumbnails=False)
    return encoded("HEIF", quality=90, **options)


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def assert_is_picture(image: Image.Image) -> None:
    assert image.mode == "RGB" and image.size == (48, 32)
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).mean() < 8


@needs_avif
def test_avif():
    assert_is_picture(decode_image(encoded("AVIF"), "a.avif"))


def test_heic():
    assert_is_picture(decode_image(heif(), "a.heic"))


def test_photos_of_phones_are_turned_upright():
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    lying = picture().transpose(Image.Transpose.ROTATE_90)
    pytest.importorskip("pillow_heif").register_heif_opener(thumbnails=False)
    assert_is_picture(decode_image(encoded("HEIF", lying, quality=90, exif=exif.tobytes()), "a.heic"))
    if features.check("avif"):
        assert_is_picture(decode_image(encoded("AVIF", lying, exif=exif.tobytes()), "a.avif"))


def test_gif_shows_its_first_picture_over_white():
    frames = [picture().quantize(64), Image.new("P", (48, 32))]
    data = encoded("GIF", frames[0], save_all=True, append_images=frames[1:])
    assert_is_picture(decode_image(data, "a.gif"))
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([1, 2, 3])
    assert decode_image(encoded("GIF", clear, transparency=0), "a.gif").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("image_format", decode.ONE_OF)
def test_only_the_first_of_several_pictures_is_used_and_it_is_said(image_format: str, caplog):
    """It was taken silently."""
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot read AVIF")
    other = Image.new("RGB", picture().size, "green")
    several = encoded(image_format, save_all=True, append_images=[other, other])
    decode._warn_of_several.cache_clear()
    alone = decode_image(encoded(image_format), "one")
    assert not caplog.messages and decode.SEVERAL not in alone.info
    for _ in range(2):
        first = decode_image(several, "three")
        assert first.info[decode.SEVERAL] and np.abs(np.int16(first) - np.int16(alone)).mean() < 3
    (told,) = caplog.messages
    assert told.startswith(f"of a {image_format} that holds several pictures only the first is used; films")


@pytest.mark.parametrize("image_format", ["GIF", "TIFF"])
def test_damage_behind_the_first_picture_does_not_matter(image_format: str):
    other = Image.new("RGB", picture().size, "green")
    several = encoded(image_format, save_all=True, append_images=[other, other])
    alone = decode_image(several, "whole")
    cut = len(encoded(image_format)) + 12
    assert np.array_equal(decode_image(several[:cut] + b"\xff" * 20, "cut"), alone)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(decode, "_can_read", lambda kind: False)
    with pytest.raises(BadImageError, match=r"IMG_1\.jpg: a HEIC.*'hyperinverter\[heic\]', or convert it to JPEG"):
        decode_image(HEIC_HEAD, "IMG_1.jpg")
    with pytest.raises(BadImageError, match=r"a\.avif: an AVIF image.*update Pillow, or convert it to JPEG"):
        decode_image(AVIF_HEAD, "a.avif")


@pytest.mark.parametrize("head", [HEIC_HEAD, AVIF_HEAD, b"GIF89a\1\0\1\0"])
def test_damaged_ones_are_one_error(head):
    with pytest.raises(BadImageError, match="photo: "):
        decode_image(head + bytes(100), "photo")


@needs_avif
def test_damage_inside_an_avif_is_one_error():
    """Its decoder raises a RuntimeError of its own, which once ended the run."""
    whole, refused = encoded("AVIF"), 0
    for at in range(0, len(whole), 7):
        try:
            decode_image(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :], "a.avif")
        except BadImageError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "raised", [RuntimeError, SystemError, MemoryError, OverflowError, lzma.LZMAError, RecursionError]
)
def test_whatever_a_library_raises_of_one_file_stays_that_file_s(raised, monkeypatch, tmp_path):
    def fail(*_):
        raise raised("tile cannot extend outside image")

    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    source = open_source(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(source, "read_bytes", fail)
        with pytest.raises(BadImageError, match=r"a\.png: cannot be read: "):
            source.read(0)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(BadImageError, match=r"a\.png: damaged or unsupported: "):
        source.read(0)


def test_large_photos_of_other_formats_than_jpeg_are_refused_with_the_size_to_reduce_to():
    for data in (heif(), encoded("GIF")):
        with pytest.raises(BadImageError, match=r"48 x 32 px, more than the limit .* at most 31 x 31 px"):
            decode_image(data, "a", max_megapixels=0.001)


def test_content_tells_images_from_other_files():
    for image_format in ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"):
        assert looks_like_image(encoded(image_format)[: decode.HEAD_BYTES]), image_format
    assert looks_like_image(HEIC_HEAD) and looks_like_image(AVIF_HEAD)
    for other in (b"", b"P6x", b"%PDF-1.7", b"PK\3\4", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypisom\0\0\0\0mp42", b"text"):
        assert not looks_like_image(other)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    (root / "portrait").write_bytes(encoded("JPEG"))
    (root / "b.png").write_bytes(encoded("PNG"))
    (root / "LICENSE").write_text("P6 is no picture")
    (root / ".hidden").write_bytes(encoded("JPEG"))
    (root / "empty").touch()
    return root


def test_files_without_a_suffix_are_judged_by_their_content(folder, tmp_path):
    source = open_source(folder)
    assert list(source.names) == ["b.png", "portrait"] and "LICENSE" in source.ignored
    assert source.read(1).size == (48, 32)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    assert list(open_source(packed).names) == ["b.png", "portrait"]
    assert open_source(packed).read(1).size == (48, 32)


@pytest.mark.parametrize("name", ["portrait", "portrait.jpg_large", "portrait.JPG~", "portrait.download"])
def test_a_named_file_is_judged_by_its_content(folder, name, tmp_path):
    path = folder / "portrait"
    path = path.rename(tmp_path / name)
    assert list(open_source(path).names) == [name]


def test_a_damaged_member_without_a_suffix_is_a_bad_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.png", encoded("PNG"))
        archive.writestr("photo", encoded("JPEG"))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.index(b"\xff\xd8\xff")
    data[at + 40] ^= 1  # its checksum fails
    (tmp_path / "a.zip").write_bytes(data)
    source = open_source(tmp_path / "a.zip")
    assert list(source.names) == ["b.png", "photo"] and source.read(0).size == (48, 32)
    with pytest.raises(BadImageError):
        source.read(1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_folder_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    assert list(open_source(folder).names) == ["b.png", "portrait"]


ODD = """
import io, sys, warnings
from PIL import Image
from hyperinverter.utils.decode import decode_image
exif = Image.Exif(); exif[0x0112] = 1
buffer = io.BytesIO(); Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
data = buffer.getvalue().replace(exif.tobytes()[6:], exif.tobytes()[6:][:-9] + b"\\xff" * 9)
decode_image(data, "odd exif")
buffer = io.BytesIO(); p = Image.new("P", (8, 8)); p.putpalette([1, 2, 3])
p.save(buffer, "PNG", transparency=b"\\0\\1")
decode_image(buffer.getvalue(), "palette")
decode_image(open(sys.argv[1], "rb").read(), "large")
"""


def test_odd_files_write_no_raw_warning(tmp_path):
    """Pillow warns of odd EXIF, palettes with transparency and large pictures; nobody can mend that here."""
    Image.new("L", (9600, 9600)).save(tmp_path / "large.jpg", quality=10)
    command = [sys.executable, "-c", ODD, str(tmp_path / "large.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if line]
    assert all(line.startswith("JPEGs of more than") for line in told), told


TIFFS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd", "group4")
CODECS = [("TIFF", {"compression": kind}) for kind in TIFFS]
CODECS += [("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("BMP", {}),
           ("PPM", {}), ("GIF", {}), ("AVIF", {}), ("HEIF", {})]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow; the package filters them, pytest undoes it
@pytest.mark.parametrize(("image_format", "options"), CODECS, ids=lambda each: str(each))
def test_a_damaged_file_is_one_error_and_no_line_on_the_terminal(image_format, options, capfd, caplog):
    """libtiff wrote "tempfile.tif: Using code not yet in table." itself, and Pillow logged what it raises too."""
    mode = {"GIF": "P", "PPM": "L"}.get(image_format, "1" if options == {"compression": "group4"} else "RGB")
    if image_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener(thumbnails=False)
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    whole, draw, refused = encoded(image_format, picture().convert(mode), **options), np.random.default_rng(0), 0
    for trial in range(150):
        data = bytearray(whole[: draw.integers(4, len(whole))] if trial % 3 == 0 else whole)
        for at in draw.integers(4 if trial % 2 else len(data) // 3, len(data), 4):
            data[at] = draw.integers(256)
        try:
            decode_image(bytes(data), "photo.x")
        except BadImageError as error:
            refused += 1
            assert str(error).startswith("photo.x: ") and "decoder error" not in str(error)
            assert "\n" not in str(error) and "update Pillow" not in str(error)
    assert refused > 25 and capfd.readouterr() == ("", "") and not caplog.records


def test_no_filter_hides_warnings_of_others():
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("mine", UserWarning)
    assert [str(one.message) for one in caught] == ["mine"]
    assert logging.getLogger("hyperinverter").level == logging.NOTSET


def test_a_camera_s_raw_photo_is_to_be_converted():
    with pytest.raises(BadImageError, match=r"IMG_1\.CR2: is a picture of a format .*: convert it to JPEG"):
        decode_image(b"II*\0\x10\0\0\0CR\x02\0" + bytes(200), "IMG_1.CR2")  # begins as a TIFF does
