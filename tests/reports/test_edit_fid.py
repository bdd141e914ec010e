"""Edits against real photos, and the curve of a refinement, on the tiny domain."""

from dataclasses import replace

import pytest
import torch
from paper_bench import paper_config
from PIL import Image

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.config.schema import RefineConfig
from hyperinverter.directions.direction import Direction, edit
from hyperinverter.directions.files import save_direction
from hyperinverter.evaluation.editability import shown
from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.metrics.distribution import FrechetSqueezeNet
from hyperinverter.pretrained.load import load_generator
from hyperinverter.reports.html_page import Table
from hyperinverter.reports.paper import edit_fid as module
from hyperinverter.reports.paper import refine_curve as curve_module
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.edit_fid import PASTED, UNEDITED, Row
from hyperinverter.reports.paper.edit_fid_page import figures_of
from hyperinverter.reports.reproduce.command import reproduce
from hyperinverter.utils.files import write_json
from hyperinverter.utils.images import save_image

PLAIN = RefineConfig(perceptual=0.0, identity=0.0, learning_rate=0.02)  # at 16 px no network looks at images


@pytest.fixture
def config(tiny_model, tmp_path, monkeypatch) -> ReproduceConfig:
    """Features are means of quarters of the image: no network of features takes 16 px."""

    def quarters(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 8).flatten(1)

    monkeypatch.setattr(FrechetSqueezeNet, "build", classmethod(lambda cls, parts: cls(quarters)))
    found = paper_config(tiny_model, tmp_path, monkeypatch)
    for i in range(6):  # the odd ones are called bright, and are
        noise = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)) - 0.5
        save_image(noise + 0.2 * (i % 2), tmp_path / "photos" / f"{i}.png")
    generator = load_generator(tmp_path / "micro")  # random: only its gradient is sure to make images brighter
    ws = generator.mapping.w_avg.repeat(1, generator.num_ws, 1).requires_grad_()
    generator.synthesis(ws, noise_mode="const").mean().backward()
    brighter = torch.nn.functional.normalize(ws.grad.sum(dim=(0, 1)), dim=0)
    info = {"attribute": "Bright", "projection_std": 0.5}
    bright = Direction("bright", brighter, info, generator.weights_hash)
    save_direction(bright, tmp_path / "micro" / "directions" / "bright.safetensors", domain="micro", resolution=16)
    methods = ["sg2", "psp", "w_encoder", "hyperinverter"]
    return replace(found, refine=PLAIN, refine_steps=[0, 2], methods=methods, edited_photos=6, curve_photos=3)


def test_edit_fid_measures_every_row_on_the_same_photos_at_the_same_effect(config, tmp_path, capsys):
    config.parts, config.publish, config.trained_directions = ["edit_fid"], str(tmp_path / "docs/results"), ["bright"]
    found = reproduce(config)["edit_fid"]
    one = found["directions"]["bright"]
    assert one["n"] == 3 and one["is_trained"] and one["attribute"] == "Bright"
    assert list(one["rows"]) == ["w_encoder", "hyperinverter", PASTED, "hyperinverter_refine2", UNEDITED]
    assert "optimised_photos=3" in found["missing"]["SG2"] and "train_encoder" in found["missing"]["pSp"]
    assert 0 < one["effect"] <= one["gap"]
    for row in one["rows"].values():
        low, high = row["distances"]["kid_squeezenet_x1e3"]["interval_95"]
        assert low <= high and row["distances"]["frechet_squeezenet"]["value"] > 0
    unedited = one["rows"][UNEDITED]
    assert unedited["effect"]["mean"] == 0 and unedited["strength"] == 0
    effects = [row["effect"]["mean"] for name, row in one["rows"].items() if name != UNEDITED]
    assert max(effects) - min(effects) < 0.5 * one["effect"]
    assert "difference" not in one["rows"]["hyperinverter"]["distances"]["frechet_squeezenet"]
    page = (tmp_path / "docs" / "results" / "ffhq.md").read_text()
    assert "## Edits against real photos" in page and "pasting: x + G(w + d) - G(w)" in page
    assert "bright (trained for; Bright), n = 3" in page and "compare only within a table" in page
    with Image.open(tmp_path / "docs" / "results" / "ffhq" / "edit_fid.png") as sheet:
        assert sheet.width > 5 * 16
    text = capsys.readouterr()
    assert "edit_fid, bright, both phases: 3 photos" in text.err
    assert reproduce(config)["edit_fid"] == found
    assert "edit_fid, bright" not in capsys.readouterr().err, "what was measured is not measured again"


def test_a_kill_in_edit_fid_keeps_finished_rows(config, monkeypatch):
    config.parts, made, batches = ["edit_fid"], [], module._starts
    stops = {1, 4}

    def counted(bench, row, task, what):
        if len(made) in stops:
            stops.discard(len(made))
            raise KeyboardInterrupt
        made.append((row.label, what))
        return batches(bench, row, task, what)

    monkeypatch.setattr(module, "_starts", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reproduce(config)
    reproduce(config)
    assert len(made) == len(set(made)) == 8


def test_pasting_reconstructs_the_photo_and_adds_what_phase_1_changes(config):
    bench = Bench(config, torch.device("cpu"))
    method = bench.methods["w_encoder"]
    inverter = bench.load(method)
    photos = rounded(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5)
    row = Row(PASTED, "", method, is_pasted=True)
    start = row.start(inverter.invert(photos))
    direction = inverter.direction("bright")
    assert torch.equal(row.images(inverter, start, photos, direction, 0.0, None), photos)
    change = shown(inverter, edit(start, direction, 0.5)) - shown(inverter, start)
    pasted = row.images(inverter, start, photos, direction, 0.5, None)
    torch.testing.assert_close(pasted, (photos + change).clamp(-1, 1), rtol=0, atol=1 / 127)


def test_ghosts_lie_farther_than_clean_edits_and_the_difference_says_so():
    """Real photos have a mark; clean edits have it too, ghosts have it twice, at half the strength each."""
    random = torch.Generator().manual_seed(0)
    people = [f"person {i % 20}" for i in range(40)]

    def features(mark: torch.Tensor) -> torch.Tensor:
        return 0.3 * torch.randn(40, 16, generator=random) + mark

    mark = torch.zeros(16)
    mark[0], ghost = 1.0, torch.zeros(16)
    ghost[0] = ghost[1] = 0.5
    made = {
        "clean": {"effect": torch.ones(40), "frechet_squeezenet": features(mark)},
        "ghosts": {"effect": torch.ones(40), "frechet_squeezenet": features(ghost)},
    }
    found = figures_of(made, {"frechet_squeezenet": features(mark)}, {}, [people, people], "clean")
    for name in ("frechet_squeezenet", "kid_squeezenet_x1e3"):
        clean, ghosts = (found[row]["distances"][name] for row in ("clean", "ghosts"))
        assert ghosts["value"] > clean["value"] and ghosts["difference_95"][0] > 0 and "difference" not in clean
        low, high = clean["interval_95"]
        assert low <= clean["value"] <= high
    low, high = found["clean"]["distances"]["kid_squeezenet_x1e3"]["interval_95"]
    assert low < 0 < high, "unbiased: no distance between sets of one kind"


def test_edit_fid_says_what_it_cannot_measure(config, tmp_path, capsys):
    rows = [f"{i}.png,{i},{int(i == 0)}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,identity,Bright", *rows]) + "\n")
    config.parts = ["edit_fid"]
    assert reproduce(config) == {}
    assert "only 1 photos with or without Bright: give more photos" in capsys.readouterr().err
    config.labels = None
    with pytest.raises(Exception, match=r"edit_fid needs labels=\.\.\."):
        reproduce(config)


def test_the_curve_has_a_row_for_every_n_and_goes_on_where_it_ended(config, tmp_path, monkeypatch):
    config.parts, config.publish = ["refine_curve"], str(tmp_path / "docs" / "results")
    config.refine_edit_consistency, rows = [0.0, 0.5], []
    measure = curve_module.row_of

    def counted(bench, method, *more):
        if len(rows) in stops:
            stops.discard(len(rows))
            raise KeyboardInterrupt
        rows.append(method.label)
        return measure(bench, method, *more)

    monkeypatch.setattr(curve_module, "row_of", counted)
    stops = {3}
    with pytest.raises(KeyboardInterrupt):
        reproduce(config)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "table1").rglob("*.png")}
    found = reproduce(config)["refine_curve"]
    assert stamps and {path: path.stat().st_mtime_ns for path in stamps} == stamps
    labels = [row["label"] for row in found["rows"]]
    assert labels == ["w_encoder_refine0", "hyperinverter_refine0", "hyperinverter_refine2",
                      "hyperinverter_refine2_edits0.5"]  # fmt: skip
    assert found["n"] == 3 and found["pti"] is None and [row["steps"] for row in found["rows"]] == [None, 0, 2, 2]
    predicted, refined = (row["cells"]["l2"]["value"] for row in found["rows"][1:3])
    assert refined < predicted
    kept = found["rows"][1]["kept"]["bright"]["Bright"]
    assert kept["interval_95"][0] <= kept["value"] <= kept["interval_95"][1]
    page = (tmp_path / "docs" / "results" / "ffhq.md").read_text()
    assert "| both phases, refine 2, edits 0.5 |" in page and "refine_curve.svg" in page
    drawn = (tmp_path / "docs" / "results" / "ffhq" / "refine_curve.svg").read_text()
    assert "edits kept" in drawn and "l2, edits 0.5" in drawn


def test_the_curve_shows_ptis_published_row(config, tmp_path):
    folder = tmp_path / "docs" / "results" / "ffhq"
    folder.mkdir(parents=True)
    cells = {"seconds": {"value": 21.5}, "l2": {"value": 0.02, "interval_95": [0.01, 0.03]}}
    paired = {"pti": {"metrics": {"l2": {"ratio": 2.0}}}}
    cells["seconds"]["computing"] = 0.5
    row = {"n": 6, "cells": cells, "device": "cpu, 1 threads"}
    write_json(folder / "table1.json", {"rows": {"pti": row}, "paired": paired})
    bench = Bench(replace(config, publish=str(tmp_path / "docs" / "results")), torch.device("cpu"))
    found = curve_module._published(bench)
    assert found is not None and found["ratios"] == {"l2": 0.5} and found["n"] == 6
    blocks = list(curve_module.refine_curve_blocks({
        "n": 3, "metrics": {"l2": {"better": "lower"}}, "not_measured": {}, "pti": found,
        "rows": [{"title": "both phases", "steps": 0, "seconds": 0.4, "computing": 0.25, "device": device, "kept": {},
                  "cells": {"l2": {"value": 0.04, "interval_95": None}}}
                 for device in ("cpu, 1 threads", "cpu, 2 threads")],
    }))  # fmt: skip
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert table.rows[0] == ["both phases", "0.4", "0.1", "0.04"]
    assert table.rows[1] == ["both phases", "0.4", "", "0.04"]  # of several threads the share tells nothing
    assert ["PTI, of Table 1, n = 6", "21.5", "10.8", "0.02 [0.01, 0.03]"] in table.rows


def test_settings_are_checked():
    for wrong in ("refine_steps=[-1]", "refine_edit_consistency=[-0.1]", "refine_steps=[]", "curve_photos=1"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            load_config(ReproduceConfig, None, [wrong])
