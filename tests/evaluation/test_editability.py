"""Kept shares on a stand-in whose answer is known, the choice of photos and of judges, and the sheet of edits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperinverter.editing.directions import Direction
from hyperinverter.evaluation.editability import Case, choose_photos, edit_rows, judges_of, measure_editability
from hyperinverter.evaluation.judges import AGE
from hyperinverter.inverters import Inversion

KEPT = 0.8


class Stub:
    """Brightness is the first number of w, of which images with their own weights show a part."""

    def invert(self, images, batch_size):
        ws = torch.zeros(len(images), 2, 4)
        ws[:, :, 0] = images.mean(dim=(1, 2, 3))[:, None]
        return Inversion(ws=ws, tokens={"layer": torch.zeros(len(images), 1)})

    def prepare(self, inversion):
        return replace(inversion, prepared={})

    def render(self, inversion, batch_size):
        part = KEPT if inversion.has_weights else 1.0
        return (part * inversion.ws[:, 0, 0])[:, None, None, None].expand(-1, 3, 8, 8)


def direction(attribute: str | None, way: float = 1.0) -> Direction:
    info = {"projection_std": 0.1} | ({"attribute": attribute} if attribute else {})
    return Direction((attribute or "none").lower(), torch.tensor([way, 0.0, 0.0, 0.0]), info)


def brightness(images):
    return {"Bright": 10 * images.mean(dim=(1, 2, 3)).cpu(), AGE: -images.mean(dim=(1, 2, 3)).cpu()}


def test_kept_share_is_the_part_that_the_second_phase_shows():
    photos = torch.linspace(-0.3, 0.3, 12)[:, None, None, None].expand(-1, 3, 8, 8)
    cases = [Case(direction("Bright"), {"Bright": 1}), Case(direction("Young"), {AGE: -1})]
    found = measure_editability(Stub(), cases, photos.split(5), [1.0, 2.0], brightness, None)
    judged = found["bright"]["judges"]["Bright"]
    assert judged["kept"] == pytest.approx(KEPT, abs=0.01) and judged["unit"] == "logit"
    low, high = judged["kept_interval_95"]
    assert low <= judged["kept"] <= high and high - low < 0.02
    change = judged["change"]["w_encoder"]
    assert list(change) == ["-2", "-1", "1", "2"] and change["2"] == pytest.approx(2, abs=0.1)
    assert judged["effect"]["w_encoder"]["mean"] == pytest.approx(3, abs=0.1)  # of 2 and 4
    age = found["young"]["judges"][AGE]
    assert age["unit"] == "years" and age["effect"]["w_encoder"]["mean"] == pytest.approx(0.3, abs=0.02)
    assert set(judged["kept_by_strength"]) == {"1", "2"} and "identity" not in found["bright"]


def test_no_share_of_an_effect_that_is_none():
    photos = torch.zeros(6, 3, 8, 8)
    case = Case(direction("Bright", way=-1.0), {"Bright": 1})  # moves the other way
    judged = measure_editability(Stub(), [case], [photos], [1.0], brightness, None)["bright"]["judges"]["Bright"]
    assert judged["kept"] is None and "not above zero" in judged["why"] and "kept_interval_95" not in judged


def test_judges_of_a_direction():
    known = ("Young", "Smiling", AGE)
    assert judges_of(direction("-Young"), known) == {AGE: 1, "Young": -1}
    assert judges_of(direction("Young"), known) == {AGE: -1, "Young": 1}
    assert judges_of(direction("Smiling"), known) == {"Smiling": 1}
    assert judges_of(direction(None), known) == {} and judges_of(direction("Hat"), known) == {}


def test_one_photo_of_each_person():
    assert choose_photos(["a", "b", "a", None, "b", None], 10) == [0, 1, 3, 5]
    assert choose_photos([None] * 6, 3) == [0, 2, 5] and choose_photos([""] * 3, 10) == [0, 1, 2]
    assert np.diff(choose_photos([None] * 100, 25)).min() >= 4


def test_the_sheet_shows_reconstructions_only():
    photos = torch.full((2, 3, 8, 8), 0.5)
    rows, headings, captions = edit_rows(Stub(), [direction("Bright")], photos, 2.0)
    assert len(rows) == 2 and captions == ["bright", "bright"]
    assert headings == ["Phase I -2 sd", "Phase I", "Phase I +2 sd", "Phase II -2 sd", "Phase II", "Phase II +2 sd"]
    shown = [cell.mean().item() for cell in rows[0]]
    assert shown == pytest.approx([0.3, 0.5, 0.7, 0.24, 0.4, 0.56], abs=0.01)
