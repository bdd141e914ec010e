"""invert, edit and interpolate by several methods at once: folders of their own, sheets across them; long sheets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_editing_commands import config, model, photos  # noqa: F401 (fixtures)

from hyperinverter.config.schema import ProjectionConfig
from hyperinverter.editing import commands
from hyperinverter.editing.across import Sheet, across
from hyperinverter.editing.commands import edit_images, interpolate_images, invert_images
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image

METHODS = ["w_encoder", "hyperinverter"]


def shapes(path):
    return Image.open(path).size


def test_every_method_has_its_folder_and_one_sheet_shows_all(config, photos, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    alone = invert_images(replace(config(photos), output=str(tmp_path / "alone")))
    result = invert_images(config(photos, methods=[*METHODS, "sg2"], projection=ProjectionConfig(steps=1)))
    assert list(result["methods"]) == [*METHODS, "sg2"]
    assert [one["l2"] for one in result["methods"]["hyperinverter"]["images"]] == [one["l2"] for one in alone["images"]]
    assert (out / "hyperinverter" / "a.png").read_bytes() == (tmp_path / "alone" / "a.png").read_bytes()
    assert json.loads((out / "invert.json").read_text())["methods"]["sg2"]["method"] == "sg2"
    assert json.loads((out / "w_encoder" / "invert.json").read_text()) == result["methods"]["w_encoder"]
    width, height = shapes(out / "sheet.png")  # input and three methods
    own_width, own_height = shapes(out / "w_encoder" / "sheet.png")  # input, one method, difference
    assert width > own_width and height > own_height / 2


def test_edits_and_blends_stand_below_each_other(config, photos, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    edit_images(config(photos, methods=METHODS))
    assert shapes(out / "sheet_smile.png")[1] > 1.8 * shapes(out / "w_encoder" / "sheet_smile.png")[1]
    assert (out / "hyperinverter" / "a" / "smile_+2.png").is_file()
    interpolate_images(config(photos / "a.png", photos / "b.png", methods=METHODS))
    assert load_image(out / "strip.png", 32).shape == (3, 32, 32)
    assert set(json.loads((out / "interpolate.json").read_text())["methods"]) == set(METHODS)


def test_rows_of_one_photo_stand_together_and_strips_one_after_the_other():
    sheets = [Sheet(name, [[f"{name}1"], [f"{name}2"]], ["x"], ["one", "two"]) for name in "ab"]
    joined = across(sheets)
    assert joined.rows == [["a1"], ["b1"], ["a2"], ["b2"]] and joined.captions[1] == "one\nb"
    sheets[1].rows, sheets[1].captions = [["b1"]], ["one"]
    assert across(sheets).rows == [["a1"], ["a2"], ["b1"]]
    sheets[1].rows, sheets[1].captions = [["b1"], ["b3"]], ["one", "three"]  # as many rows, but of other pairs
    assert across(sheets).rows == [["a1"], ["a2"], ["b1"], ["b3"]]
    columns = [Sheet(n, [["in", n, "more"]], ["input", f"by {n}", ""], [""], column=f"by {n}") for n in "ab"]
    assert across(columns).rows == [["in", "a", "b"]] and across(columns).headings == ["input", "a", "b"]


def test_a_strip_of_many_photos_and_steps_shows_some(config, photos, tmp_path, monkeypatch, capsys):  # noqa: F811
    """It had a row for every pair and a column for every step: 26,000 px wide and high."""
    monkeypatch.setattr(commands, "SHEET_ROWS", 4)
    written = {}
    commands._interpolate(config(photos, circle=True, steps=17), written)
    strip = written["strip.png"]
    assert strip.headings == ["from", *(f"t = {i / 8:.2f}" for i in range(9)), "to"]
    assert len(strip.rows) == len(strip.captions) == 4 and {len(row) for row in strip.rows} == {11}
    frame = np.asarray(Image.open(tmp_path / "out" / "frames" / "codes_and_weights_004.png"))
    assert np.array_equal(np.asarray(strip.rows[0][3]), frame)  # t = 0.25
    assert "strip.png shows 2 of 3 pairs and 9 of 17 steps; frames/ has all" in capsys.readouterr().out


def test_what_cannot_be_done_by_all_is_refused_before_any_work(config, photos, tmp_path):  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"(?s)psp.safetensors.*e4e.safetensors"):
        invert_images(config(photos, methods=["psp", "e4e", "w_encoder"]))
    assert not (tmp_path / "out").exists()
    invert_images(config(photos / "a.png"))
    np.save(tmp_path / "codes.npy", np.zeros((1, 6, 16), np.float32))
    for saved in (tmp_path / "out" / "a.safetensors", tmp_path / "codes.npy"):
        with pytest.raises(UserError, match=f"{saved.name}: .* is of one method"):
            edit_images(config(saved, methods=METHODS))
