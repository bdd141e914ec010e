"""Kept shares on a stand-in whose answer is known, the choice of photos and of classifiers, and the sheet of edits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperinverter.directions.direction import Direction
from hyperinverter.evaluation.editability import (
    Case,
    Identity,
    both_ways,
    choose_photos,
    edit_rows,
    figures_of,
    measure_edits_of,
    records_of,
)
from hyperinverter.inverters import Inversion

KEPT = 0.8
AGE = "ssrnet_age"


class Stub:
    """Brightness is the first number of w, of which images with their own weights show a part."""

    pixels = 8

    def invert(self, images, batch_size):
        ws = torch.zeros(len(images), 2, 4)
        ws[:, :, 0] = images.mean(dim=(1, 2, 3))[:, None]
        return Inversion(ws=ws, tokens={"layer": torch.zeros(len(images), 1)})

    def prepare(self, inversion):
        return replace(inversion, prepared={})

    @property
    def resolution(self):
        return self.pixels

    def render(self, inversion, batch_size, resolution=None):
        part, pixels = KEPT if inversion.has_weights else 1.0, resolution or self.pixels
        return (part * inversion.ws[:, 0, 0])[:, None, None, None].expand(-1, 3, pixels, pixels)


def measure_editability(inverter, cases, photos, strengths, *judges, **settings):
    """Direction -> its figures."""
    measure_edits_of(inverter, cases, photos, strengths, *judges, **settings)
    return {case.direction.name: figures_of(case, both_ways(strengths)) for case in cases}


def direction(attribute: str | None, way: float = 1.0) -> Direction:
    info = {"projection_std": 0.1} | ({"attribute": attribute} if attribute else {})
    return Direction((attribute or "none").lower(), torch.tensor([way, 0.0, 0.0, 0.0]), info)


def brightness(images, wanted):
    assert images.shape[-1] == 8, "measured at this size"
    found = {"Bright": 10 * images.mean(dim=(1, 2, 3)).cpu(), AGE: -images.mean(dim=(1, 2, 3)).cpu()}
    return {name: found[name] for name in wanted}


def test_kept_share_is_the_part_that_the_second_phase_shows():
    photos = torch.linspace(-0.3, 0.3, 12)[:, None, None, None].expand(-1, 3, 8, 8)
    cases = [Case(direction("Bright"), {"Bright": 1}), Case(direction("Young"), {AGE: -1})]
    found = measure_editability(Stub(), cases, photos.split(5), [1.0, 2.0], brightness)
    measured = found["bright"]["classifiers"]["Bright"]
    assert measured["kept"] == pytest.approx(KEPT, abs=0.01) and measured["unit"] == "logit"
    low, high = measured["kept_interval_95"]
    assert low <= measured["kept"] <= high and high - low < 0.02
    change = measured["change"]["w_encoder"]
    assert list(change) == ["-2", "-1", "1", "2"] and change["2"] == pytest.approx(2, abs=0.1)
    assert measured["effect"]["w_encoder"]["mean"] == pytest.approx(3, abs=0.1)  # of 2 and 4
    age = found["young"]["classifiers"][AGE]
    assert age["unit"] == "years" and age["effect"]["w_encoder"]["mean"] == pytest.approx(0.3, abs=0.02)
    assert set(measured["kept_by_strength"]) == {"1", "2"} and "identity" not in found["bright"]


def test_no_share_of_an_effect_that_is_none():
    photos = torch.zeros(6, 3, 8, 8)
    case = Case(direction("Bright", way=-1.0), {"Bright": 1})  # moves the other way
    measured = measure_editability(Stub(), [case], [photos], [1.0], brightness)["bright"]["classifiers"]["Bright"]
    assert measured["kept"] is None and "not above zero" in measured["why"] and "kept_interval_95" not in measured


def test_table_2_by_strength_and_photo():
    """Changes and shares at every strength with intervals, and a line per photo that means the same."""
    photos = torch.linspace(-0.3, 0.3, 12)[:, None, None, None].expand(-1, 3, 8, 8)
    case, ways = Case(direction("Bright"), {"Bright": 1}), both_ways([2.0, 1.0])
    found = measure_editability(Stub(), [case], photos.split(5), [2.0, 1.0], brightness, unit="w")["bright"]
    measured = found["classifiers"]["Bright"]
    assert ways == [-2, -1, 1, 2] and list(measured["kept_at"]) == ["-2", "-1", "1", "2"]
    for way in ("-1", "1"):  # images are clamped at 1, so that 2 in W shows no more than 1
        low, high = measured["change_interval_95"]["w_encoder"][way]
        assert low <= measured["change"]["w_encoder"][way] <= high
        low, high = measured["kept_at_interval_95"][way]
        assert low <= measured["kept_at"][way] <= high
    records = list(records_of([case], ways, [f"{i}.png" for i in range(12)]))
    assert [record["photo"] for record in records] == [f"{i}.png" for i in range(12)]
    by_photo = [record["bright"]["classifiers"]["Bright"] for record in records]
    assert np.mean([one["hyperinverter"]["-1"] for one in by_photo]) == pytest.approx(
        measured["change"]["hyperinverter"]["-1"]
    )
    assert np.median([one["kept"] for one in by_photo]) == pytest.approx(measured["kept_by_photo"]["median"])


def test_a_change_that_may_be_none_has_no_share():
    """A classifier that sees nothing below the brightest photo: noise alone is left on the dark side."""
    photos = torch.linspace(-0.3, 0.3, 12)[:, None, None, None].expand(-1, 3, 8, 8)
    case = Case(direction("Bright"), {"Bright": 1})
    seen = iter(range(1000))

    def noisy_below(images, wanted):
        bright = images.mean(dim=(1, 2, 3)).cpu()
        torch.manual_seed(next(seen))
        return {"Bright": bright.clamp(min=0.31) + 1e-6 * torch.randn(len(images))}

    measured = measure_editability(Stub(), [case], [photos], [3.0], noisy_below)["bright"]["classifiers"]["Bright"]
    assert measured["kept"] is not None and set(measured["kept_at"]) == {"3"}


def test_identity_against_the_photo_and_the_unedited_image():
    photos = torch.linspace(-0.3, 0.3, 12)[:, None, None, None].expand(-1, 3, 8, 8)
    by = [
        Identity("quick", lambda x: x.mean(dim=(1, 2, 3)), lambda a, b: 1 - (a - b).abs()),
        Identity("slow", lambda x: x.mean(dim=(1, 2, 3)), lambda a, b: 1 - (a - b).abs(), is_slow=True),
    ]
    case = Case(direction("Bright"), {"Bright": 1})
    found = measure_editability(Stub(), [case], photos.split(5), [1.0, 2.0], brightness, by)["bright"]["identity"]
    quick, slow = found["quick"], found["slow"]
    assert set(quick["to_unedited"]["w_encoder"]) == {"-2", "-1", "1", "2"}
    assert set(slow["to_unedited"]["w_encoder"]) == {"-2", "2"} and set(slow["to_photo"]["w_encoder"]) == {
        "-2",
        "0",
        "2",
    }
    assert quick["to_unedited"]["w_encoder"]["2"]["mean"] == pytest.approx(0.8, abs=0.01)
    assert quick["to_unedited"]["hyperinverter"]["2"]["mean"] == pytest.approx(1 - 0.2 * KEPT, abs=0.01)
    assert quick["to_photo"]["w_encoder"]["0"]["mean"] == pytest.approx(1, abs=0.01)  # Phase I is right here
    low, high = quick["to_photo"]["hyperinverter"]["0"]["interval_95"]
    assert low < quick["to_photo"]["hyperinverter"]["0"]["mean"] < high < 1
    record = next(records_of([case], [-2, -1, 1, 2], ["a"]))["bright"]["identity"]
    assert record["slow"]["to_photo"]["hyperinverter"]["0"] == pytest.approx(1 - 0.3 * (1 - KEPT), abs=0.01)


def test_images_are_judged_at_the_size_of_the_losses():
    for pixels in (32, 20):  # drawn at 8 px, and reduced to them from 20
        large = Stub()
        large.pixels = pixels
        photos = torch.linspace(-0.3, 0.3, 6)[:, None, None, None].expand(-1, 3, pixels, pixels)
        case = Case(direction("Bright"), {"Bright": 1})
        found = measure_editability(large, [case], [photos], [1.0], brightness, measured_px=8)
        assert found["bright"]["classifiers"]["Bright"]["kept"] == pytest.approx(KEPT, abs=0.01)


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
