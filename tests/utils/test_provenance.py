"""Pictures say in standard metadata that a network made them, the command shows it, and it can be switched off."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from script_runner import run_script, write_photos

import hyperinverter
from hyperinverter.config.model_schema import InspectConfig
from hyperinverter.data.inspect_image import inspect_image, inspect_images
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import contact_sheet, save_gif, write_picture
from hyperinverter.utils.provenance import COMPOSITE, DRAWN, Origin, stated

MADE = (DRAWN, COMPOSITE)  # by a network, whole or in part
GREY = torch.zeros(3, 16, 16)


def kind_of(path: Path) -> str | None:
    return inspect_image(path)[1].kind


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_what_a_network_drew_says_so(suffix: str, tmp_path: Path):
    path = hyperinverter.save_image(GREY, tmp_path / f"x.{suffix}")
    assert inspect_image(path)[1] == Origin(DRAWN, f"HyperInverter {hyperinverter.__version__}")
    assert inspect_image(path)[1].kind in MADE
    held = path.read_bytes()
    assert b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" in held  # as others look for it
    with Image.open(path) as image:
        image.load()
        assert max(abs(value - 128) for value in image.getpixel((3, 3))) <= 1


def test_a_photo_says_nothing_and_it_can_be_left_out(tmp_path: Path):
    photo = hyperinverter.save_image(Image.new("RGB", (9, 9)), tmp_path / "photo.png")
    assert inspect_image(photo)[1] == Origin(None, None)
    assert kind_of(hyperinverter.save_image(GREY, tmp_path / "x.png", provenance=False)) is None
    with stated(False):
        assert kind_of(hyperinverter.save_image(GREY, tmp_path / "y.png")) is None
        assert kind_of(save_gif([GREY], tmp_path / "y.gif")) is None
    assert kind_of(hyperinverter.save_image(GREY, tmp_path / "z.png")) == DRAWN


def test_films_and_sheets_say_it_too(tmp_path: Path):
    assert kind_of(save_gif([GREY, GREY + 1], tmp_path / "x.gif")) == DRAWN
    contact_sheet([[GREY]], ["x"], tmp_path / "sheet.png", made=COMPOSITE)
    assert kind_of(tmp_path / "sheet.png") == COMPOSITE
    pytest.importorskip("av", reason="films need PyAV, of the extra video")
    from hyperinverter.utils.films import save_mp4

    assert kind_of(save_mp4([GREY, GREY], tmp_path / "x.mp4")) == DRAWN
    assert kind_of(save_mp4([Image.new("RGB", (16, 16))], tmp_path / "y.mp4")) is None


def test_exif_stays_beside_it(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0110] = "Camera"
    write_picture(Image.new("RGB", (9, 9)), tmp_path / "x.png", COMPOSITE, format="PNG", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        assert image.getexif()[0x0110] == "Camera"
    assert kind_of(tmp_path / "x.png") == COMPOSITE


def test_what_other_programs_wrote_is_read(tmp_path: Path):
    packet = """<x:xmpmeta><rdf:Description><Iptc4xmpExt:DigitalSourceType>
        http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture</Iptc4xmpExt:DigitalSourceType>
        <xmp:CreatorTool>A &amp; B\x1b[31m</xmp:CreatorTool></rdf:Description></x:xmpmeta>"""
    Image.new("RGB", (9, 9)).save(tmp_path / "x.jpg", xmp=packet.encode())
    assert inspect_image(tmp_path / "x.jpg")[1] == Origin("digitalCapture", "A & B\x1b[31m")
    with open(tmp_path / "x.jpg", "ab") as file:
        file.write(b"jumb....c2pa")
    assert inspect_image(tmp_path / "x.jpg")[1].is_signed


def test_every_picture_of_an_edit_but_the_photo_says_it(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_photos(tmp_path / "photos", 1, 16)
    torch.save(torch.ones(16), tmp_path / "smile.pt")
    words = [
        "--config",
        "configs/edit/tiny.yaml",
        "photos",
        f"model={tiny_model}",
        "directions=[smile.pt]",
        "device=cpu",
    ]
    run_script("edit", words, tmp_path)
    pictures = [*tmp_path.glob("outputs/**/*.png"), *tmp_path.glob("outputs/**/*.gif")]
    assert len(pictures) > 5
    silent = {path.name for path in pictures if inspect_image(path)[1].kind not in MADE}
    assert silent == {"input.png"}
    run_script("edit", [*words, "provenance=false", "output=outputs/silent"], tmp_path)
    assert not any(inspect_image(path)[1].kind in MADE for path in tmp_path.glob("outputs/silent/**/*.png"))

    capsys.readouterr()
    shown = [str(path.relative_to(tmp_path)) for path in pictures[:2]]
    run_script("inspect_image", [*shown, "photos/photo_00.png"], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"PNG, \d+ x \d+ px; says: (created|edited) using generative AI .*, by HyperInverter", lines[0])
    assert lines[2] == "photos/photo_00.png: PNG, 16 x 16 px; says nothing of its origin, which proves nothing"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.png", b""),
        ("x.png", b"\x89PNG\r\n\x1a\n"),
        ("x.jpg", b"a text"),
        ("x.jpg", b"\xff\xd8\xff\xe1\xff\xff"),
        ("x.mp4", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, content: bytes, tmp_path: Path):
    if name.endswith("mp4"):
        pytest.importorskip("av", reason="films need PyAV, of the extra video")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as refused:
        inspect_image(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert not any(words in str(refused.value) for words in ("Errno", " object at 0x"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        inspect_image(tmp_path / "nothing.png")


def test_of_a_folder_its_files_are_to_be_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"is a folder; name the pictures and films in it, as in \S+/\*$"):
        inspect_image(tmp_path)


def test_a_file_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.jpg").write_text("a text")
    hyperinverter.save_image(GREY, tmp_path / "x.png")
    names = [str(tmp_path / name) for name in ("text.jpg", "nothing.png", "x.png")]
    with pytest.raises(UserError, match=r"text.jpg: neither a picture.*\n.*nothing.png: no such file"):
        inspect_images(InspectConfig(files=names))
    assert f"{names[2]}: PNG, 16 x 16 px; says: " in capsys.readouterr().out
