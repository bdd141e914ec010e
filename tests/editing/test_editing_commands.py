"""edit, invert and interpolate from a config to files: what is written, what is skipped, what is refused."""

import json
import shutil
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.config.schema import DataConfig, EditConfig, InterpolateConfig, RefineConfig
from hyperinverter.directions import Direction, save_direction
from hyperinverter.editing import commands
from hyperinverter.editing.commands import edit_images, interpolate_images, invert_images
from hyperinverter.extractors.face_finder import face_finder
from hyperinverter.inverters import Inversion, load
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image, to_uint8


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """The tiny model with a direction called smile."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("edit") / "micro")
    direction = Direction("smile", torch.ones(16), {"projection_std": 0.5}, load(folder).generator_hash)
    save_direction(direction, folder / "directions" / "smile.safetensors")
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "sub/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def config(model, tiny_domain, tmp_path):
    def make(*roots, **changes):
        data = DataConfig(root=[str(root) for root in roots], **changes.pop("data", {}))
        settings = {"strengths": [2.0, 0.0, -2.0], "steps": 3, "batch_size": 2} | changes
        return Config(domain=tiny_domain, data=data, output=str(tmp_path / "out"), model=str(model), **settings)

    return make


@dataclass
class Config(EditConfig, InterpolateConfig):
    """What invert, edit and interpolate take, together."""


def read(path):
    return json.loads(path.read_text())


def test_edit_writes_pictures_inversions_and_a_record(config, photos, tmp_path, model):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    returned = edit_images(config(photos))
    out = tmp_path / "out"
    results = read(out / "edit.json")
    assert 0 < results["seconds"] < 300
    assert results == returned and results["command"] == "edit"
    labels = [image["label"] for image in results["images"]]
    assert labels == ["a", "b", "sub_a"]
    assert list(results["skipped"]) == ["broken.jpg"]
    assert results["directions"]["smile"]["strengths_in_std"] == [4.0, 0.0, -4.0]
    inverter = load(model)
    for label, name in zip(labels, ("a.png", "b.png", "sub/a.png"), strict=True):
        inversion = inverter.invert(photos / name)
        edited = Inversion.load(out / label / "smile_+2.safetensors")
        torch.testing.assert_close(edited.ws, inversion.ws + 2.0 / 4, atol=1e-4, rtol=0)  # |ones(16)| = 4
        for token in inversion.tokens:
            torch.testing.assert_close(edited.tokens[token], inversion.tokens[token], atol=1e-4, rtol=0)
        picture = load_image(out / label / "smile_+2.png", 16)
        torch.testing.assert_close(picture, inverter.render(edited)[0].clamp(-1, 1), atol=0.01, rtol=0)
        zero, plain = (np.asarray(Image.open(out / label / f"{x}.png")) for x in ("smile_+0", "reconstruction"))
        assert np.abs(zero.astype(int) - plain).max() <= 1
        assert Image.open(out / label / "smile.gif").n_frames >= 3
    sheet = Image.open(out / "sheet_smile.png")
    assert sheet.width > 5 * 96 and sheet.height > 3 * 96  # input, reconstruction, three strengths; three photos


def test_edit_takes_saved_inversions_zips_and_direction_files(config, photos, tmp_path, model):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(photos / "a.png", "inside/a.png")
    load(model).invert(photos / "b.png").save(tmp_path / "saved.safetensors")
    np.save(tmp_path / "up.npy", np.ones(16, np.float32))
    results = edit_images(
        config(tmp_path / "saved.safetensors", tmp_path / "z.zip", directions=["smile", str(tmp_path / "up.npy")])
    )
    assert [image["label"] for image in results["images"]] == ["saved", "a"]
    assert set(results["directions"]) == {"smile", "up"}
    assert (tmp_path / "out" / "sheet_up.png").is_file()


def test_invert_writes_small_files_that_render_to_the_reconstruction(config, photos, tmp_path, model):
    results = invert_images(config(photos, data={"max_images": 2}))
    out = tmp_path / "out"
    assert [image["label"] for image in results["images"]] == ["a", "b"]
    assert all(image["l2_of_code"] > 0 and image["l2"] > 0 for image in results["images"])
    rendered = load(model).render(Inversion.load(out / "a.safetensors"))[0]
    pixels = np.asarray(Image.open(out / "a.png")).astype(int)
    assert np.abs(to_uint8(rendered).permute(1, 2, 0).numpy().astype(int) - pixels).max() <= 1
    assert (out / "sheet.png").is_file()


def test_sheets_say_that_results_are_refined(config, photos, monkeypatch):
    headings = []
    monkeypatch.setattr(
        "hyperinverter.editing.across.contact_sheet", lambda rows, heads, *_, **__: headings.append(heads)
    )
    for command in (edit_images, invert_images):
        command(config(photos / "a.png", refine=RefineConfig(steps=2, perceptual=0.0)))
    edited, inverted = headings
    assert edited[1] == "reconstruction\nrefine 2" and inverted[2] == "Phase II\nrefine 2"


def test_a_photo_called_like_the_contact_sheet_keeps_its_own_file(config, photos, tmp_path):
    shutil.copy(photos / "a.png", tmp_path / "sheet.png")
    (image,) = invert_images(config(tmp_path / "sheet.png"))["images"]
    assert image["label"] == "sheet_2"
    assert Image.open(tmp_path / "out" / "sheet_2.png").size == (16, 16)


def test_large_images_become_small_cells_of_a_sheet():
    cells = commands._cells(torch.zeros(3, 1024, 1024), None, torch.zeros(3, 16, 16))
    assert [cell and cell.size for cell in cells] == [(256, 256), None, (16, 16)]


def test_interpolation_ends_are_the_inversions_and_starts_at_the_first(config, photos, tmp_path):
    results = interpolate_images(config(photos / "b.png", photos / "a.png"))
    out = tmp_path / "out"
    assert results["photos"] == ["b.png", "a.png"] and results["t"] == [0.0, 0.5, 1.0]

    def pixels(path):
        return np.asarray(Image.open(path)).astype(int)

    for number, label in ((0, "b"), (2, "a")):
        frame = pixels(out / "frames" / f"codes_and_weights_{number:03d}.png")
        assert np.abs(frame - pixels(out / label / "reconstruction.png")).max() <= 1
    whole, codes = (pixels(out / "frames" / f"{x}_000.png") for x in ("codes_and_weights", "codes_only"))
    assert np.abs(whole - codes).mean() > 1
    assert Image.open(out / "beside.gif").size == (32, 16)
    assert (out / "strip.png").is_file() and (out / "codes_only.gif").is_file()
    shutil.move(out, tmp_path / "before")
    saved = [tmp_path / "before" / label / "inversion.safetensors" for label in ("b", "a")]
    interpolate_images(config(*saved))
    again = pixels(out / "frames" / "codes_and_weights_001.png")
    assert np.abs(again - pixels(tmp_path / "before" / "frames" / "codes_and_weights_001.png")).max() <= 1


def test_interpolation_goes_through_all_photos_and_back_in_a_circle(config, photos, tmp_path):
    results = interpolate_images(config(photos, circle=True, mp4=True))
    out = tmp_path / "out"
    assert results["photos"] == ["a.png", "b.png", "sub/a.png"] and results["circle"]
    # three pairs of three frames; a photo between two pairs is one frame, and the first one ends the circle
    assert len(list((out / "frames").glob("codes_only_*.png"))) == 3 * 3 - 3
    assert Image.open(out / "beside.gif").n_frames == 6
    for number, label in ((0, "a"), (2, "b"), (4, "sub_a")):
        frame, photo = (np.asarray(Image.open(path)).astype(int) for path in (
            out / "frames" / f"codes_and_weights_{number:03d}.png", out / label / "reconstruction.png"))  # fmt: skip
        assert np.abs(frame - photo).max() <= 1
    assert film_frames(out / "beside.mp4").shape == (6, 16, 32, 3)


def film_frames(path):
    """Frames of a film, [n, H, W, 3] of 0 to 255."""
    import av

    with av.open(str(path)) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def test_several_edits_at_once_are_what_python_does_and_a_sweep_leads_to_them(config, photos, model, tmp_path):
    np.save(tmp_path / "up.npy", np.arange(16, dtype=np.float32))
    edits = {"smile": 2.0, str(tmp_path / "up.npy"): -1.0}
    results = edit_images(config(photos / "a.png", edits=edits, strength_unit="std", styles="1-4", sweep=5, mp4=True))
    out = tmp_path / "out"
    edited, plain = (Inversion.load(out / "a" / f"{name}.safetensors") for name in ("smile+2_up-1", "inversion"))
    inverter = load(model)
    expected = inverter.edit(inverter.invert(photos / "a.png"), edits, styles=(1, 4))
    torch.testing.assert_close(edited.ws, expected.ws, atol=1e-4, rtol=0)
    moved = (edited.ws - plain.ws).abs().amax(dim=(0, 2)) > 1e-5
    assert moved.tolist() == [False, True, True, True, False, False]
    assert results["edits"] == edits and set(results["directions"]) == {"smile", "up"}
    assert results["directions"]["smile"]["strengths_in_std"] == [2.0]
    frames = [np.asarray(Image.open(out / "a" / "frames" / f"smile+2_up-1_{i:03d}.png")).astype(int) for i in range(5)]
    for frame, name in ((frames[0], "reconstruction"), (frames[4], "smile+2_up-1")):
        assert np.abs(frame - np.asarray(Image.open(out / "a" / f"{name}.png"))).max() <= 1
    film = film_frames(out / "a" / "smile+2_up-1.mp4")  # there and back
    assert film.shape == (8, 16, 16, 3) and Image.open(out / "a" / "smile+2_up-1.gif").n_frames == 8
    assert np.abs(film[4].astype(int) - frames[4]).mean() < 25  # of noise, in H.264
    assert (out / "sheet_smile+2_up-1.png").is_file()


def test_a_film_without_pyav_is_refused_before_any_work(config, photos, monkeypatch):
    monkeypatch.setattr("hyperinverter.utils.films.find_spec", lambda name: None)
    for command in (edit_images, interpolate_images):
        with pytest.raises(UserError, match=r"need PyAV.*pip install 'hyperinverter\[video\]'"):
            command(config(photos, mp4=True))


def test_what_cannot_be_used_is_refused_with_a_reason(config, photos, tmp_path, capsys):
    with pytest.raises(UserError, match=r"needs two images .*got 1"):
        interpolate_images(config(photos / "a.png"))
    with pytest.raises(FileNotFoundError, match="no direction 'age'"):
        edit_images(config(photos, edits={"smile": 1.0, "age": 1.0}))
    with pytest.raises(UserError, match=r"'4-7' is no range of this generator's 6 styles"):
        edit_images(config(photos, styles="4-7"))
    with pytest.raises(UserError, match="no images were given"):
        invert_images(config())
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"no image could be used: bad\.png: "):
        invert_images(config(tmp_path / "bad.png"))
    assert "bad.png" not in capsys.readouterr().out, "the error says it"
    (tmp_path / "worse.png").write_bytes(b"words")
    with pytest.raises(UserError, match="no image could be used: all 2 were skipped, for the reasons above"):
        invert_images(config(tmp_path / "bad.png", tmp_path / "worse.png"))
    assert capsys.readouterr().out.count("skipped ") == 2
    with pytest.raises(UserError, match="no image could be used"):
        invert_images(config(tmp_path / "bad.png", methods=["w_encoder"]))
    assert not (tmp_path / "out").exists(), "a run without a result leaves no folder"
    with pytest.raises(UserError, match=r"set data\.on_bad_file=skip"):
        invert_images(config(photos / "a.png", tmp_path / "bad.png", data={"on_bad_file": "refuse"}))
    with pytest.raises(FileNotFoundError, match="no direction 'age'"):
        edit_images(config(photos, directions=["age"]))
    elsewhere = config(photos, directions=["age"])
    elsewhere.domain = replace(elsewhere.domain, name="church")
    with pytest.raises(FileNotFoundError, match=r"no direction 'age'.*settings are for church: give the --config of"):
        edit_images(elsewhere)
    with pytest.raises(UserError, match="given twice"):
        edit_images(config(photos, directions=["smile", "smile"]))
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        invert_images(config(tmp_path / "absent.jpg"))


def test_a_result_is_never_written_over_its_input(config, photos, tmp_path):
    """scripts/invert.py photos output=photos used to replace every photo with its reconstruction."""
    before = (photos / "a.png").read_bytes()
    for roots in ([photos], [photos / "sub", photos / "a.png"]):
        wanted = config(*roots)
        wanted.output = str(photos)
        with pytest.raises(UserError, match=r"a\.png is one of the images to work on"):
            invert_images(wanted)
    assert (photos / "a.png").read_bytes() == before


def test_cropped_and_enlarged_photos_are_told(config, tmp_path, caplog):
    Image.new("RGB", (30, 8)).save(tmp_path / "wide.png")
    results = invert_images(config(tmp_path / "wide.png"))
    assert "wide.png is 30 x 8: images that are not square are centre-cropped" in caplog.text
    assert [line.split(":")[0] for line in results["notes"]] == [
        "not square, centre-cropped",
        "smaller than 16 px, enlarged",
    ]


def test_another_models_inversion_is_refused(config, other_tiny_model, tmp_path):
    load(other_tiny_model).invert(torch.zeros(1, 3, 16, 16)).save(tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="was made by model micro"):
        edit_images(config(tmp_path / "foreign.safetensors"))


def test_align_goes_through_the_aligner_and_skips_photos_without_a_face(config, photos, tmp_path, monkeypatch, capsys):
    from hyperinverter.extractors import align

    def pretend(image, size, name, which, drawn_px):
        if name == "b.png":
            raise align.NoFaceError(name, "no face")
        quad = np.array([[2.0, 2], [2, 14], [14, 14], [14, 2]])
        red, numbers = Image.new("RGB", (size, size), (255, 0, 0)), (1, 2) if which == "all" else (which,)
        return [align.AlignedFace(red, quad, number=number) for number in numbers]

    monkeypatch.setattr(align, "align_faces", pretend)
    results = invert_images(config(photos, align=True))
    assert results["skipped"] == {"b.png": "no face"} and len(results["images"]) == 2
    assert "skipped b.png: no face\n" in capsys.readouterr().out
    both = invert_images(config(photos / "a.png", align=True, face="all"))
    assert [each["face"] for each in both["images"]] == [1, 2]
    exif = Image.Exif()
    exif[0x010E] = "at the sea"  # ImageDescription
    Image.open(photos / "a.png").resize((40, 30)).save(photos / "a.png", exif=exif)
    results = edit_images(config(photos / "a.png", align=True, strengths=[0.0], paste_back=True))
    (pasted,) = [file for name, file in results["images"][0]["files"].items() if name.endswith("_photo")]
    whole, pasted = Image.open(photos / "a.png").convert("RGB"), Image.open(tmp_path / "out" / pasted)
    assert pasted.size == (40, 30) and pasted.getexif()[0x010E] == "at the sea"
    changed = (np.asarray(pasted) != np.asarray(whole)).any(axis=2)
    assert changed[4:12, 4:12].any() and not changed[16:].any() and not changed[:, 16:].any()
    assert np.asarray(Image.open(tmp_path / "out" / "a" / "input.png")).reshape(-1, 3).mean(0).tolist() == [255, 0, 0]


def test_edits_of_phase_1_alone_and_of_a_smaller_size(config, photos, tmp_path):
    results = edit_images(config(photos / "a.png", method="w_encoder", resolution=8))
    edited = Inversion.load(tmp_path / "out" / "a" / "smile_+2.safetensors")
    assert not edited.has_weights and results["images"][0]["label"] == "a"
    assert Image.open(tmp_path / "out" / "a" / "smile_+2.png").size == (8, 8)


@pytest.mark.parametrize("layout", ["one vector", "one vector per style"])
def test_a_direction_of_others_is_given_strengths_by_the_generators_own_codes(layout, config, photos, model, tmp_path):
    """In standard deviations; files of other projects do not hold any."""
    generator = load(model).generator
    vector = torch.randn(16, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "d.npy", vector if layout == "one vector" else vector.repeat(generator.num_ws, 1))
    found = edit_images(config(photos / "a.png", directions=[str(tmp_path / "d.npy")], strength_unit="std"))
    z = torch.randn(20_000, generator.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        spread = float((generator.mapping(z)[:, 0] @ vector).std() / vector.norm())
    assert found["directions"]["d"]["strengths_in_std"] == [2.0, 0.0, -2.0]
    assert found["directions"]["d"]["strengths_in_w"] == pytest.approx([2 * spread, 0, -2 * spread], rel=0.05)


def test_many_photos_show_a_bar_and_a_sheet_says_what_it_leaves_out(config, photos, monkeypatch, capsys):
    monkeypatch.setattr(commands, "SHEET_ROWS", 2)
    for command in (invert_images, edit_images):
        command(config(photos, strengths=[0.0]))
        shown = capsys.readouterr()
        assert "a sheet shows the first 2 of 3 photos; all have files of their own" in shown.out
        assert "photos:" in shown.err and "/3 [" in shown.err
    invert_images(config(photos, data={"max_images": 2}))
    shown = capsys.readouterr()
    assert "a sheet shows" not in shown.out and "/2 [" in shown.err


def test_which_of_several_faces_was_taken_is_told_and_in_the_json(config, photos, monkeypatch, capsys):
    from hyperinverter.extractors import align

    def pretend(image, size, name, which, drawn_px):
        crop = Image.new("RGB", (size, size))
        return [align.AlignedFace(crop, np.zeros((4, 2)), None, "2 faces; the largest was taken")]

    monkeypatch.setattr(align, "align_faces", pretend)
    results = invert_images(config(photos / "a.png", align=True))
    assert results["face_notes"] == {"a.png": "2 faces; the largest was taken"}
    detector = face_finder()
    assert results["face_detector"] == (detector.name if detector else None)
    assert "note: a.png: 2 faces; the largest was taken" in capsys.readouterr().out
