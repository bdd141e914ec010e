"""Table 1: every method's row, what is missing told first, and nothing lost or made twice after a kill."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from paper_bench import SLOW, paper_config

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import OF_FACES, OF_SCENES, PAPER, ReproduceConfig
from hyperinverter.config.schema import ProjectionConfig, RefineConfig
from hyperinverter.inverters.sg2 import ProjectorInverter
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.parts import PARTS, expanded_parts
from hyperinverter.reports.paper.table1 import _steps, table1_blocks
from hyperinverter.reports.paper.values import METRICS, TABLE_1, of_table_1
from hyperinverter.reports.reproduce.command import reproduce
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image, save_image


@pytest.fixture
def config(tiny_model, tmp_path, monkeypatch) -> ReproduceConfig:
    return replace(paper_config(tiny_model, tmp_path, monkeypatch), parts=["table1"])


@pytest.fixture
def projections(monkeypatch) -> list[str]:
    """The name of the method, for each photo that is optimised; KeyboardInterrupt in the place of number `stop_at`."""
    made: list[str] = []
    project = ProjectorInverter._project

    def counted(self, image):
        if len(made) == getattr(config, "stop_at", -1):
            raise KeyboardInterrupt
        made.append(self.name)
        return project(self, image)

    config = counted
    monkeypatch.setattr(ProjectorInverter, "_project", counted)
    return made


def test_every_method_has_a_row_beside_the_papers(config, tmp_path, capsys):
    config.publish = str(tmp_path / "docs" / "results")
    found = reproduce(config)["table1"]
    rows = found["rows"]
    assert list(rows) == config.methods and [rows[name]["n"] for name in (*SLOW, "w_encoder")] == [2, 2, 6]
    told = capsys.readouterr().err
    assert told.index("psp: micro: has no psp.safetensors; make it with") < told.index("table 1, row 2 of 5")
    assert "train_encoder" in rows["psp"]["missing"] and "value" in rows["psp"]["cells"]["l2"]
    cell = rows["hyperinverter"]["cells"]["l2"]
    low, high = cell["interval_95"]
    assert low <= cell["value"] <= high and cell["paper"] == 0.0243
    assert rows["pti"]["cells"]["seconds"]["value"] > 0 and rows["pti"]["cells"]["seconds"]["paper"] == 104
    assert "weights-inception" in found["not_measured"]["fid"]
    paired = found["paired"]["sg2"]
    assert paired["n"] == 2 and paired["of"] == "hyperinverter" and "ratio" in paired["metrics"]["l2"]
    noted = table1_blocks({**found, "note": " Told by hand."})  # in the published JSON
    assert any(isinstance(block, str) and block.endswith(" Told by hand.") for block in noted)
    sheet = load_image(tmp_path / "out" / "table1.png", 64)
    assert sheet.shape == (3, 64, 64)
    for page in ((tmp_path / "docs" / "results.md"), tmp_path / "out" / "table1.md"):
        assert "| both phases | 6 |" in page.read_text() and "*0.0243*" in page.read_text()
    html = (tmp_path / "out" / "paper.html").read_text()
    assert "<td>both phases</td>" in html and "data:image/png" in html
    assert not (tmp_path / "docs" / "results" / "ffhq" / "table1.png").exists(), "held-out photos are not published"
    assert str(tmp_path) not in (tmp_path / "docs" / "results" / "ffhq" / "table1.json").read_text()


def test_a_kill_at_any_photo_loses_nothing_and_repeats_nothing(config, projections, monkeypatch):
    counted = ProjectorInverter._project
    for stop in range(5):
        counted.stop_at = stop
        try:
            reproduce(config)
        except KeyboardInterrupt:
            assert len(projections) == stop
    assert projections == ["sg2", "sg2", "pti", "pti"]


def test_only_what_changed_is_measured_again(config, projections, tmp_path, monkeypatch):
    before = reproduce(config)["table1"]["rows"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "table1").rglob("row.json")}
    again = reproduce(config)["table1"]["rows"]
    assert again == before and projections == ["sg2", "sg2", "pti", "pti"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    config.projection.tuning_steps = 2  # PTI's alone, but both are asked for their code with it
    retuned = reproduce(config)["table1"]["rows"]
    assert projections[4:] == ["pti", "pti"], "sg2 has no such steps: its finished photos stay"
    config.refine = RefineConfig(steps=2, perceptual=0.0, identity=0.0)
    refined = reproduce(config)["table1"]["rows"]
    assert {name for name in again if refined[name] != retuned[name]} == {"w_encoder", "hyperinverter"}
    assert refined["w_encoder"]["settings"]["refine_steps"] == 2
    config.refine = RefineConfig()
    save_image(-load_image(tmp_path / "photos" / "5.png", 16), tmp_path / "photos" / "5.png")
    changed = reproduce(config)["table1"]["rows"]
    assert changed["w_encoder"]["key"] != again["w_encoder"]["key"]
    assert changed["w_encoder"]["cells"]["l2"]["value"] != again["w_encoder"]["cells"]["l2"]["value"]


def test_a_method_of_another_generator_is_told_and_left_out(config, other_tiny_model, capsys):
    config.models = {"w_encoder": str(other_tiny_model)}
    rows = reproduce(config)["table1"]["rows"]
    assert "give a folder of the same generator" in rows["w_encoder"]["missing"] and "n" in rows["hyperinverter"]
    config.methods = ["psp", "w_encoder"]
    with pytest.raises(UserError, match=r"(?s)no method has its files.*psp.*w_encoder"):
        reproduce(config)


def test_a_method_is_found_where_its_trainer_wrote_it(config, tmp_path, tiny_model):
    (tmp_path / "micro" / "w_encoder.safetensors").unlink()
    assert "w_encoder" in (Bench(config, torch.device("cpu")).methods["w_encoder"].fault or "")
    shutil.copytree(tiny_model, tmp_path / "outputs" / f"w_encoder_{config.domain.name}" / "model")
    bench = Bench(config, torch.device("cpu"))
    found = bench.methods["w_encoder"]
    assert found.fault is None and found.folder.endswith("model")
    assert bench.load(found).model_hash and bench.leading.name == "w_encoder"  # both phases miss their own still


def test_time_is_foretold_from_the_methods_own_steps(config):
    bench = Bench(config, torch.device("cpu"))
    assert [_steps(bench, name) for name in ("sg2", "sg2_plus", "pti")] == [2, 2, 3]
    bench.config.projection = ProjectionConfig(tuning_steps=5)
    assert [_steps(bench, name) for name in ("sg2", "sg2_plus", "pti")] == [600, 2000, 455]


def test_settings_are_checked_and_all_is_every_part_of_the_paper():
    faces, scenes = (expanded_parts(["all", "photos", "table1"], kind) for kind in ("faces", "scenes"))
    assert faces == [*(part for part in PAPER if part not in OF_SCENES), "photos"]
    assert set(scenes) == {*PAPER, "photos"} - set(OF_FACES) and set(PARTS) == set(PAPER)
    with pytest.raises(ConfigError) as error:
        load_config(ReproduceConfig, None, ["parts=[table9]", "models={pps: here}", "table_photos=1"])
    text = str(error.value)
    assert "table1" in text and "pps" in text and "table_photos" in text


def test_the_papers_numbers():
    assert all(len(row) == len(METRICS) for rows in TABLE_1.values() for row in rows.values())
    assert of_table_1("faces", "pti", "seconds") == 104 and of_table_1("scenes", "psp", "identity") is None
    assert of_table_1("scenes", "hyperinverter", "fid") == 46.96 and of_table_1("faces", "sg2", "l2") is None
    assert json.dumps(TABLE_1)
