"""Photo in, pictures out, without a browser: what is drawn, what is downloaded, what is refused."""

import io
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runner import astronaut, bomb, run_script

import hyperinverter
from hyperinverter.app.editor import SCREEN, Editor, encoded, make_editor
from hyperinverter.app.session import FIRST, SECOND, Loaded, Session, Settings
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import AppConfig
from hyperinverter.utils.errors import UserError

MOVED = {"edits": {"age": -1.0, "smile": 2.5}}


def pixels(picture: Image.Image | Path) -> np.ndarray:
    return np.asarray(Image.open(picture) if isinstance(picture, Path) else picture).astype(int)


def test_a_photo_is_cropped_and_inverted_and_all_views_differ(editor: Editor, session: Session):
    photo = session.photo()
    assert photo.faces == 1 and photo.quad is not None and photo.image.shape == (3, 64, 64)
    session.change(editor.settings(MOVED, session))
    views = [pixels(editor.draw(session, view, session.settings)) for view in editor.views]
    assert editor.views == ["original", "phase1", "inversion", "edit"]
    assert all(view.shape == (64, 64, 3) for view in views)
    assert all(np.abs(one - other).mean() > 1 for i, one in enumerate(views) for other in views[:i])


def test_reset_gives_the_first_picture_back_exactly(editor: Editor, session: Session):
    first = encoded(editor.draw(session, "edit", session.settings), "edit", Settings())
    session.change(editor.settings(MOVED, session))
    assert encoded(editor.draw(session, "edit", session.settings), "edit", Settings()) != first
    session.reset()
    assert encoded(editor.draw(session, "edit", session.settings), "edit", Settings()) == first
    assert encoded(editor.draw(session, "inversion", session.settings), "inversion", Settings()) == first


def test_every_direction_of_the_domain_has_a_slider(editor: Editor, session: Session):
    assert list(editor.sliders) == ["smile", "age", "glasses", "blond_hair"]
    still = pixels(editor.draw(session, "edit", Settings()))
    for name, slider in editor.sliders.items():
        moved = pixels(editor.draw(session, "edit", Settings({name: slider.most})))
        assert np.abs(moved - still).mean() > 1, name


def test_the_command_line_makes_the_same_picture(editor: Editor, session: Session, photo: bytes, tmp_path: Path):
    (tmp_path / "astronaut.jpg").write_bytes(photo)
    for given, made in (
        (MOVED, "edit_faces64/astronaut/smile+2.5_age-1.png"),
        ({**MOVED, "paste_back": True}, "edit_faces64/astronaut/smile+2.5_age-1_photo.png"),
        ({}, "edit_faces64/astronaut.png"),
    ):
        session.change(editor.settings(given, session))
        program, script, *words = shlex.split(editor.command(session))
        assert program == "python"
        run_script(Path(script).stem, words, tmp_path)
        drawn = editor.file(session)
        np.testing.assert_array_equal(pixels(tmp_path / "outputs" / made), pixels(Image.open(io.BytesIO(drawn))))


def test_a_blend_is_between_its_photos_and_its_inversion_file_makes_it_again(
    editor: Editor, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match="second photo"):
        editor.settings({"blend": 0.5}, session)
    other = io.BytesIO()
    astronaut().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other, "PNG")
    session.change(editor.settings(MOVED, session))
    editor.open(session, SECOND, other.getvalue(), "../other.png", aligned=True)
    assert session.settings.edits == MOVED["edits"] and session.photo(SECOND).name == "other.png"
    ends = [pixels(editor.draw(session, "inversion", Settings(blend=blend))) for blend in (0.0, 0.5, 1.0)]
    alone = Session()
    alone.put(FIRST, session.photo(SECOND))
    assert np.abs(ends[2] - pixels(editor.draw(alone, "inversion", Settings()))).max() <= 1
    assert min(np.abs(ends[1] - ends[0]).mean(), np.abs(ends[1] - ends[2]).mean()) > 1

    session.change(editor.settings({**MOVED, "blend": 0.5}, session))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / f"{editor.stem(session)}.safetensors").write_bytes(editor.saved(session))
    assert not list((tmp_path / "temporary").iterdir())
    _, script, *words = shlex.split(editor.command(session))
    run_script(Path(script).stem, words, tmp_path)
    drawn = editor.draw(session, "edit", session.settings)
    made = pixels(tmp_path / f"outputs/edit_faces64/{editor.stem(session)}/smile+2.5_age-1.png")
    assert np.abs(made - pixels(drawn)).max() <= 1  # the file's numbers are rounded


def test_paste_back_leaves_the_rest_of_the_photo(editor: Editor, session: Session):
    settings = editor.settings({**MOVED, "paste_back": True}, session)
    whole, pasted = pixels(session.photo().whole), pixels(editor.draw(session, "edit", settings))
    assert pasted.shape == whole.shape
    changed = np.abs(pasted - whole).max(axis=2) > 0
    assert 0.05 < changed.mean() < 0.5
    quad = session.photo().quad
    rows, columns = np.nonzero(changed)
    assert columns.min() >= quad[:, 0].min() - 1 and rows.max() <= quad[:, 1].max() + 1
    large = Loaded(**{**vars(session.photo()), "shown": session.photo().whole.resize((300, 300))})
    session.photos[FIRST] = large
    on_screen = editor.draw(session, "edit", settings, SCREEN)
    assert on_screen.size == (300, 300)
    near = pixels(Image.fromarray(pasted.astype(np.uint8)).resize((300, 300), Image.Resampling.BOX))
    assert np.abs(pixels(on_screen) - near).mean() < 4  # at the same place


def test_a_coordinate_starts_where_the_photo_is():
    """GANSpace's directions set a coordinate: at 0 is the mean, not the photo."""
    editor = make_editor(load_config(AppConfig, "configs/app/churches64.yaml", ["device=cpu"]))
    session, buffer = Session(), io.BytesIO()
    astronaut().save(buffer, "PNG")
    assert not editor.can_align
    editor.open(session, FIRST, buffer.getvalue(), "no church.png", aligned=False)
    starts = editor.starts(session)
    assert all(slider.sets for slider in editor.sliders.values()) and any(starts.values())
    assert editor.settings({"edits": starts}, session) == Settings()  # nothing was moved
    assert all(round(start, 1) == start for start in starts.values())  # steps of the sliders
    name = max(starts, key=lambda each: abs(starts[each]))
    still = pixels(editor.draw(session, "edit", Settings()))
    near = pixels(editor.draw(session, "edit", Settings({name: starts[name]})))
    far = pixels(editor.draw(session, "edit", Settings({name: 0.0})))
    assert np.abs(near - still).mean() < 0.5 < np.abs(far - still).mean()


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"hello", "note.jpg", "not an image"),
        (b"", "empty.png", "0 bytes"),
        (bomb(), "bomb.png", "200 megapixels, more than the limit"),
    ],
)
def test_a_file_that_cannot_be_used_gets_one_plain_message(
    data: bytes, name: str, says: str, editor: Editor, session: Session
):
    with pytest.raises(UserError, match=says) as refused:
        editor.open(session, FIRST, data, name, aligned=True)
    assert name in str(refused.value) and "\n" not in str(refused.value)
    assert session.photo().name == "astronaut.jpg"  # what was there stays


def test_a_photo_without_a_face_is_refused_and_can_be_taken_as_it_is(editor: Editor):
    session, buffer = Session(), io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    with pytest.raises(UserError, match=r"wall\.png: no face found"):
        editor.open(session, FIRST, buffer.getvalue(), "wall.png", aligned=True)
    assert not session.photos
    editor.open(session, FIRST, buffer.getvalue(), "wall.png", aligned=False)
    assert "no face was found" in session.photo().notes[0]
    moving = io.BytesIO()
    Image.new("RGB", (96, 96)).save(moving, "GIF", save_all=True, append_images=[Image.new("RGB", (96, 96), "red")])
    editor.open(session, FIRST, moving.getvalue(), "film.gif", aligned=False)
    assert session.photo().notes[-1] == "film.gif holds several pictures: this is the first"
    editor.open(session, FIRST, buffer.getvalue(), "wall.png", aligned=False)
    with pytest.raises(UserError, match="pasting back"):
        editor.settings({"paste_back": True}, session)


def test_a_face_that_is_cut_off_is_told(editor: Editor):
    session, buffer = Session(), io.BytesIO()
    astronaut().crop((220, 0, 512, 512)).save(buffer, "PNG")
    editor.open(session, FIRST, buffer.getvalue(), "cut.png", aligned=True)
    (note,) = session.photo().notes
    assert note.startswith("cut.png: ") and "% of the face's crop lies outside the photo" in note
    assert editor.state(session)["photos"][FIRST]["notes"] == [note]


def test_of_several_faces_one_is_chosen(editor: Editor):
    small = astronaut().resize((300, 300))
    both, buffer, session = Image.new("RGB", (820, 512), "gray"), io.BytesIO(), Session()
    both.paste(astronaut(), (0, 0))
    both.paste(small, (515, 0))
    both.save(buffer, "PNG")
    editor.open(session, FIRST, buffer.getvalue(), "two.png", aligned=True)
    assert (session.photo().faces, session.photo().face) == (2, 1)
    editor.choose(session, FIRST, True, 2)
    assert session.photo().face == 2 and session.photo().quad[:, 0].min() > 480
    assert "face=2" in editor.command(session)
    with pytest.raises(UserError, match="2 faces, so there is no face number 3"):
        editor.choose(session, FIRST, True, 3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"edits": {"simle": 1}}, "no direction 'simle'; there are: smile"),
        ({"edits": {"smile": 99}}, "from -4 to 4"),
        ({"edits": {"smile": float("nan")}}, "from -4 to 4"),
        ({"edits": {"smile": "2"}}, "from -4 to 4"),
        ({"edits": {"smile": True}}, "from -4 to 4"),
        ({"edits": [1]}, "must name directions"),
        ({"blend": 2}, "from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict, says: str, editor: Editor, session: Session):
    with pytest.raises(UserError, match=says):
        editor.settings(given, session)


def test_the_state_tells_what_each_step_changed(editor: Editor, session: Session):
    session.change(editor.settings(MOVED, session))
    session.change(editor.settings({"edits": {"smile": 2.5}, "paste_back": True}, session))
    session.reset()
    state = editor.state(session)
    assert state["history"] == ["start", "smile +2.5, age -1", "age back, whole photo", "reset"]
    assert state["at"] == 3 and state["photos"]["first"]["can_paste"]


def test_the_command_names_what_was_set_otherwise(editor: Editor, session: Session):
    other = Editor(editor.inverter, replace(editor.config, method="w_encoder", seed=5))
    assert "method=w_encoder" in other.command(session) and "seed=5" in other.command(session)
    assert other.command(session).startswith("python scripts/invert.py --config configs/edit/faces64.yaml")
    sizes = replace(editor.config.data, max_megapixels=60.0)
    idle = replace(editor.config, refine=replace(editor.config.refine, steps=0, early=0.5))
    assert "refine." not in Editor(editor.inverter, idle).command(session)
    assert "data.max_megapixels=60" in Editor(editor.inverter, replace(editor.config, data=sizes)).command(session)


@pytest.mark.parametrize("name", ["size=2.jpg", "-x.jpg"])
def test_a_file_whose_name_reads_as_a_setting_or_option_is_a_photo_in_the_command(
    name: str, editor: Editor, session: Session
):
    session.photos[FIRST] = replace(session.photo(), name=name)
    assert f"./{name}" in shlex.split(editor.command(session))


def test_a_base_of_a_photo_that_was_replaced_meanwhile_is_not_kept(
    editor: Editor, session: Session, opened: Session, monkeypatch: pytest.MonkeyPatch
):
    """A slow drawing of the photo before ended after the new one was there, and edits then showed the former."""
    prepare = editor.inverter.prepare

    def slow(inversion: hyperinverter.Inversion) -> hyperinverter.Inversion:
        session.put(FIRST, replace(opened.photo(), name="new.jpg"))
        return prepare(inversion)

    monkeypatch.setattr(editor.inverter, "prepare", slow)
    editor.draw(session, "edit", Settings())
    assert session.photo().name == "new.jpg" and session.base is None


def test_the_saved_inversion_is_that_of_the_photo(editor: Editor, session: Session, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(editor.saved(session))
    inversion = hyperinverter.Inversion.load(tmp_path / "x.safetensors")
    np.testing.assert_allclose(inversion.ws, session.photo().inversion.ws, atol=1e-3)
