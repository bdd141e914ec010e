"""Tables 2 and 3 and the figures on the tiny domain: what they say, what they publish, and how they go on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_bench import SLOW, paper_config
from PIL import Image

from hyperinverter.config.cli import stop
from hyperinverter.config.load import to_yaml
from hyperinverter.config.report_schema import AblateConfig, ReproduceConfig
from hyperinverter.inverters.optimising import ProjectorInverter
from hyperinverter.metrics.timing import own_time
from hyperinverter.reports.paper import analyses, table2
from hyperinverter.reports.paper.grids import grid_blocks
from hyperinverter.reports.paper.methods import Method, images_seen
from hyperinverter.reports.reproduce.command import reproduce
from hyperinverter.reports.reproduce.lacking import dry_run
from hyperinverter.reports.reproduce.parts import PARTS
from hyperinverter.utils import images
from hyperinverter.utils.errors import Unfinished, UserError
from hyperinverter.utils.images import load_image, save_image

ONE_EACH = ["fig1", "fig4", "fig5", "fig7", "fig8", "fig9", "fig12", "fig13", "fig26"]


@pytest.fixture
def config(tiny_model, tmp_path, monkeypatch) -> ReproduceConfig:
    return paper_config(tiny_model, tmp_path, monkeypatch)


def test_table_2_compares_every_method_at_equal_strength_and_at_equal_effect(config, tmp_path):
    config.parts, config.publish = ["table2"], str(tmp_path / "docs" / "results")
    found = reproduce(config)["table2"]
    methods = found["directions"]["bright"]["Bright"]["methods"]
    assert list(methods) == [*SLOW, "w_encoder", "hyperinverter"] and methods["sg2"]["n"] == 2
    assert list(methods["hyperinverter"]["change"]) == ["-2", "-1", "1", "2"] and methods["w_encoder"]["n"] == 3
    for figures in methods.values():
        low, high = figures["effect"]["interval_95"]
        assert low <= figures["effect"]["mean"] <= high
    background = found["kept"]["bright"]["hyperinverter"]["background"]
    assert background["2"] > background["1"] > 0  # a longer edit changes more
    assert "train_encoder" in found["missing"]["psp"]
    text = (tmp_path / "docs" / "results" / "ffhq.md").read_text()
    assert "## Table 2: edits by every method" in text and "| both phases | 3 |" in text
    assert "equal measured effect" in text


def test_table_2_says_why_a_method_could_not_be_measured(config, monkeypatch, capsys):
    measure, broken = table2.edits_of, ["w_encoder"]

    def measured(bench, method, *more):
        if method.name in broken:
            raise UserError(f"{method.name} is damaged")
        return measure(bench, method, *more)

    monkeypatch.setattr(table2, "edits_of", measured)
    config.parts, config.methods = ["table2"], ["w_encoder", "hyperinverter"]
    assert reproduce(config)["table2"]["missing"] == {"w_encoder": "w_encoder is damaged"}
    broken.append("hyperinverter")
    assert reproduce(config) == {}
    assert "none of the methods could be: w_encoder is damaged; hyperinverter is damaged" in capsys.readouterr().err


def test_equal_effect_is_where_every_method_moves_the_score_as_far():
    """Method b moves twice as far as a: at a's effect it stands at half the strength, with what it keeps there."""
    one = np.array([[-2.0, -1, 1, 2], [-2.2, -1.1, 1.1, 2.2]])
    kept = {"a": {"net": {"1": 0.8, "-1": 0.8, "2": 0.5, "-2": 0.7}, "background": {"2": 0.4, "-2": 0.4}}}
    kept |= {"b": kept["a"], "none": kept["a"]}
    changes = {"a": one, "b": 2 * one, "none": np.array([[1.0, 1, 1, 1], [-2, -2, -2, -2.5]])}
    found = table2._equal(changes, kept, [1.0, 2.0])
    assert found["effect"] == pytest.approx(4.2) and set(found["methods"]) == {"a", "b"}
    a, b = found["methods"]["a"], found["methods"]["b"]
    assert (a["strength"], b["strength"]) == (pytest.approx(2.0), pytest.approx(1.0))
    assert (a["net"], b["net"]) == (pytest.approx(0.6), pytest.approx(0.8))
    assert (a["background"], b["background"]) == (pytest.approx(0.4), pytest.approx(0.2))


def test_the_face_is_no_background():
    outside = table2._outside_the_face(64)
    assert outside[0, 0] == 1 and outside[36, 32] == 0  # corner, nose
    assert 0.5 < outside.mean() < 0.8


def test_a_kill_in_table_2_repeats_no_batch(config, tmp_path, monkeypatch):
    config.parts, config.methods, calls = ["table2"], ["w_encoder", "hyperinverter"], []
    monkeypatch.setattr(table2, "BATCH", 1)
    measure = table2.measure_edits_of

    def counted(*arguments, **named):
        if len(calls) in stops:
            stops.discard(len(calls))
            raise KeyboardInterrupt
        calls.append(1)
        return measure(*arguments, **named)

    monkeypatch.setattr(table2, "measure_edits_of", counted)
    stops: set[int] = set()
    whole = reproduce(config)["table2"]
    assert len(calls) == 6
    for path in (tmp_path / "out" / "table2").glob("*.jsonl"):
        path.unlink()
    calls.clear()
    stops |= {0, 2, 5}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            reproduce(config)
        for path in (tmp_path / "out" / "table2").glob("*.jsonl"):
            path.write_text(path.read_text() + '{"photo": "cut o')  # what a kill while writing leaves
    assert reproduce(config)["table2"] == whole and len(calls) == 6


def test_figures_are_drawn_once_of_photos_that_may_be_shown(config, tmp_path, monkeypatch):
    config.parts, config.publish = ONE_EACH, str(tmp_path / "docs" / "results")
    made = []
    project = ProjectorInverter._project
    monkeypatch.setattr(ProjectorInverter, "_project", lambda self, image: made.append(1) or project(self, image))
    found = reproduce(config)
    assert set(found) == set(ONE_EACH)
    published = {path.name for path in (tmp_path / "docs" / "results" / "ffhq").iterdir()}
    for name in ONE_EACH:
        picture = next(one for one in PARTS[name].pictures if one in published)
        assert f"](ffhq/{picture})" in (tmp_path / "docs" / "results" / "ffhq.md").read_text()
        assert load_image(tmp_path / "out" / f"{name}.png", 32).shape == (3, 32, 32)
    assert found["fig4"]["credit"].startswith("images of the generator") and len(found["fig4"]["photos"]) == 3
    assert set(found["fig4"]["l2"]) == set(config.methods) - {"psp"}
    assert len(found["fig5"]["photos"]) == 2 and found["fig5"]["directions"] == ["bright"]
    assert {point["method"] for point in found["fig1"]["points"]["l2"]} == set(config.methods) - {"psp"}
    assert any("psp" in line for line in found["fig4"]["missing"])
    assert found["fig4"]["images_seen"] == {}  # these files tell of no training
    # again: nothing is computed anew; other photos: all of these figures
    count, times = len(made), {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("fig*.png")}
    again = reproduce(config)
    assert again == found and len(made) == count
    assert {path: path.stat().st_mtime_ns for path in times} == times
    config.parts, config.shown, config.shown_credit = ["fig7"], str(tmp_path / "photos"), "mine, CC0"
    shown = reproduce(config)["fig7"]
    assert shown["credit"] == "mine, CC0" and shown["key"] != found["fig7"]["key"]


def test_a_large_sheet_is_published_as_a_jpeg_that_a_page_can_show(config, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST_BYTES", 100)
    monkeypatch.setattr(images, "WIDEST_PX", 40)
    config.parts, config.publish = ["fig7"], str(tmp_path / "docs" / "results")
    folder, page = tmp_path / "docs" / "results" / "ffhq", tmp_path / "docs" / "results" / "ffhq.md"
    reproduce(config)
    with Image.open(folder / "fig7.jpg") as sheet:
        assert sheet.format == "JPEG" and max(sheet.size) == 40
    assert not (folder / "fig7.png").exists() and "](ffhq/fig7.jpg)" in page.read_text()
    assert (tmp_path / "out" / "fig7.png").is_file()  # whole, beside the page of all parts
    shown = (tmp_path / "out" / "paper.html").read_text()
    assert "data:image/jpeg;base64," in shown and "data:image/png" not in shown
    monkeypatch.setattr(images, "LARGEST_BYTES", 10**6)
    reproduce(config)
    assert not (folder / "fig7.jpg").exists() and "](ffhq/fig7.png)" in page.read_text()


def test_rows_of_figures_are_the_best_median_and_worst(config, monkeypatch):
    config.parts, config.shown = ["fig4"], config.photos
    l2 = reproduce(config)["fig4"]["l2"]["hyperinverter"]
    assert l2 == sorted(l2) and len(l2) == 3


def test_figure_1_shows_the_seconds_of_rows_that_were_measured_again(config, tmp_path):
    config.parts, config.methods = ["table1", "fig1"], ["w_encoder", "hyperinverter"]
    reproduce(config)
    (tmp_path / "out" / "table1" / "hyperinverter" / "row.json").unlink()
    found = reproduce(config)
    row = found["table1"]["rows"]["hyperinverter"]
    seconds = own_time(row["cells"]["seconds"]["value"], row["cells"]["seconds"]["computing"], row["device"])
    drawn = {point["method"]: point["time_ms"] for point in found["fig1"]["points"]["l2"]}
    assert drawn["hyperinverter"] == pytest.approx(1000 * seconds, rel=1e-6)


def test_figures_over_photos_take_those_of_table_1(config):
    config.parts, config.table_photos = ["fig8", "fig12"], 2
    found = reproduce(config)
    assert [found[name]["analysis"]["images"] for name in config.parts] == [2, 2]
    assert " table_photos=2" in found["fig12"]["about"]["command"]
    config.table_photos = 4  # other photos are another figure
    assert reproduce(config)["fig12"]["analysis"]["images"] == 4


def test_what_a_figure_needs_is_told(config, capsys):
    config.parts, config.methods = ["fig7", "fig26", "fig4"], ["hyperinverter"]
    assert set(reproduce(config)) == {"fig26", "fig4"}
    assert "fig7: not measured: it needs w_encoder and hyperinverter" in capsys.readouterr().err
    config.parts, config.methods = ["fig26"], ["sg2"]
    assert reproduce(config) == {} and "none of its methods has its files" in capsys.readouterr().err


def test_a_part_that_fails_does_not_stop_the_others(config, tmp_path, monkeypatch):
    def fails(error):
        def make(bench):
            raise error

        return make

    monkeypatch.setitem(PARTS, "fig7", replace(PARTS["fig7"], make=fails(UserError("a file is damaged"))))
    monkeypatch.setitem(PARTS, "fig12", replace(PARTS["fig12"], make=fails(RuntimeError("a fault in the code"))))
    config.parts, config.methods = ["fig7", "fig4", "fig12", "fig26"], ["w_encoder", "hyperinverter"]
    with pytest.raises(Unfinished) as error:
        reproduce(config)
    told = str(error.value)
    assert "2 of 4 parts failed, the others are done (fig4, fig26)" in told
    assert "fig7: a file is damaged" in told and "RuntimeError: a fault in the code" in told and "Traceback" in told
    assert {path.name for path in (tmp_path / "out").glob("fig*.json")} == {"fig4.json", "fig26.json"}
    with pytest.raises(SystemExit) as code:
        stop(told, error.value)
    assert code.value.code == 1


def test_all_that_is_missing_is_named_before_any_work(config, tmp_path, monkeypatch):
    for name, part in PARTS.items():
        monkeypatch.setitem(PARTS, name, replace(part, make=lambda bench: pytest.fail("work began")))
    config.parts, config.photos, config.labels, config.shown = ["all"], "nowhere", "no.csv", "not_shown"
    (tmp_path / "micro" / "w_encoder.safetensors").unlink()
    shutil.rmtree(tmp_path / "micro" / "directions")
    config.domain.name = "unknown"  # of which there is no config of ablations
    with pytest.raises(UserError) as error:
        reproduce(config)
    told = str(error.value)
    for word in ("nowhere", "not_shown", "no.csv", "psp: micro: has no psp", "w_encoder: micro: has no w_encoder",
                 "unknown.yaml", "micro has no directions", "it is of hyperinverter"):  # fmt: skip
        assert word in told, word
    assert told.count("has no directions") == 1  # what several parts lack is told once
    text = dry_run(config)
    assert "sg2: " in text and all(line in text for line in ("nowhere", "psp: micro: has no psp", "unknown.yaml"))
    assert not (tmp_path / "out").exists()


def test_without_a_generator_the_methods_files_are_named_too(config, tmp_path):
    config.parts, config.model, config.photos = ["table1"], str(tmp_path / "empty"), "nowhere"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        reproduce(config)
    for told in (dry_run(config), str(error.value)):
        for word in ("nowhere", "has no generator.safetensors", "has no psp.safetensors", "has no w_encoder.safe"):
            assert word in told, word


def test_a_dry_run_of_what_is_all_there_says_so(config):
    config.parts, config.methods, config.metrics = ["fig4"], ["w_encoder", "hyperinverter"], ["l2"]
    assert dry_run(config).endswith("nothing is missing")


def test_table_3_is_the_ablations_beside_the_papers_rows(config, tmp_path, monkeypatch, capsys):
    path = tmp_path / "ablate.yaml"
    path.write_text(to_yaml(AblateConfig(rows={"full": "a.yaml"}, output="ablated")))
    row = {"values": {"l2": 0.1}, "intervals_95": {}, "parameters": 10**6}
    rows = [{"title": title, **row} for title in ("full, D = 64", "D = 32", "odd")]
    of = {
        "budget": {"steps": 4, "images": 8, "adversarial_steps": 0, "seed": 0},
        "num_images": 6,
        "note": "small",
        "metrics": {"l2": {"better": "lower"}},
        "statements": [],
    }
    config.parts, config.ablations = ["table3"], str(path)
    given = []
    measure = lambda settings: given.append(settings) or json.loads(json.dumps({**of, "rows": rows}))  # noqa: E731
    monkeypatch.setattr(analyses, "measure_ablations", measure)
    found = reproduce(config)["table3"]
    assert given[0].data.root == config.training_photos and given[0].photos == config.photos
    assert [row["paper"] and row["paper"]["l2"] for row in found["rows"]] == [0.0243, 0.0378, None]
    assert "| D = 32 | 1.00 M | 0.1 *0.0378* |" in capsys.readouterr().out
    config.training_photos = None
    assert reproduce(config) == {}  # told: nothing was trained before
    Path("ablated").mkdir()
    Path("ablated/ablations.json").write_text(json.dumps({**of, "rows": rows}))
    differing: list[str] = []
    monkeypatch.setattr(analyses, "why_not_these", lambda *arguments: differing)
    assert len(reproduce(config)["table3"]["rows"]) == 3 and len(given) == 1
    differing.append("optimizer.lr: 1, now 2")
    assert reproduce(config) == {} and "is of a run that differs: optimizer.lr: 1, now 2" in capsys.readouterr().err
    for damaged in ("{", "[]", "{}"):
        Path("ablated/ablations.json").write_text(damaged)
        assert reproduce(config) == {} and "ablations.json is damaged: remove it" in capsys.readouterr().err


def test_the_leading_method_must_be_an_encoder(config, capsys):
    config.parts, config.methods = ["fig4", "fig6"], ["sg2"]
    assert reproduce(config) == {}
    told = capsys.readouterr().err
    assert "fig4: not measured: its photos are chosen by an encoder" in told and "fig6: not measured" in told


def test_a_picture_of_one_pixel_less_is_another_figure(config, tmp_path):
    """Keys hold the photos themselves: a changed file under the same name is seen."""
    config.parts, config.shown, config.methods = ["fig4"], config.photos, ["w_encoder"]
    first = reproduce(config)["fig4"]
    save_image(torch.zeros(3, 16, 16), tmp_path / "photos" / "0.png")
    assert reproduce(replace(config))["fig4"]["key"] != first["key"]


def test_figures_and_table_2_say_how_many_images_each_method_was_trained_on():
    both = {"w_encoder": {"images": 5}, "hyperinverter": {"images": 6000}}
    methods = [Method("psp", trained={"psp": {"images": 4000}}), Method("sg2"), Method("hyperinverter", trained=both)]
    assert images_seen(methods) == {"pSp": 4000, "both phases": 6000}
    result = {"picture": "a.png", "photos": ["a"], "rule": "", "credit": "", "missing": []}
    assert any(
        "pSp 4,000, both phases 6,000." in str(one)
        for one in grid_blocks("", result | {"images_seen": images_seen(methods)})
    )
    assert not any("training run" in str(one) for one in grid_blocks("", result))
