"""Table 1: every method's row, what is missing told first, and nothing lost or made twice after a kill."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from paper_bench import SLOW, paper_config
from tiny_model import save_feature_residual

from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import BEYOND, OF_FACES, OF_SCENES, PAPER, REPRODUCED, ReproduceConfig
from hyperinverter.config.schema import ProjectionConfig, RefineConfig
from hyperinverter.extractors import base as extractor_base
from hyperinverter.inverters import refine
from hyperinverter.inverters.optimising import ProjectorInverter
from hyperinverter.metrics.features import DiscriminatorDistance, FrFeatureIdentity
from hyperinverter.metrics.pixel import L2, Psnr
from hyperinverter.reports.html_page import Table
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.table1 import _steps, _unfinished
from hyperinverter.reports.paper.table1_page import _trained, table1_blocks
from hyperinverter.reports.paper.values import METRICS, TABLE_1, of_table_1
from hyperinverter.reports.reproduce.command import model_hashes, reproduce
from hyperinverter.reports.reproduce.parts import PARTS, expanded_parts
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
    assert found["about"]["command"].endswith(" projection.steps=2 projection.tuning_steps=1")  # each that is not usual
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
    sheet = load_image(tmp_path / "out" / "table1.png", 64)
    assert sheet.shape == (3, 64, 64)
    for page in (tmp_path / "docs" / "results" / "ffhq.md", tmp_path / "out" / "table1.md"):
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


def test_other_usual_rates_are_another_row(config, monkeypatch):
    """Rows refined at 0.35 of each token's size were taken for those at 0.25: both are `learning_rate: null`."""
    config.refine = RefineConfig(steps=2)
    bench = Bench(config, torch.device("cpu"))
    first = bench.methods_key()
    assert bench.methods_key() == first
    monkeypatch.setattr(refine, "TOKEN_RATE", 0.35)
    changed = [one[0] for one, before in zip(bench.methods_key(), first, strict=True) if one != before]
    assert changed == ["hyperinverter"]
    config.refine = RefineConfig()
    assert not any("learning_rate" in str(one) for one in bench.methods_key() if one[0] == "hyperinverter")


def test_another_network_of_a_metric_is_another_row(config, monkeypatch):
    """A row is valid for the very weights that measured it."""
    config.methods, files = ["w_encoder"], {"net.onnx": "1"}
    monkeypatch.setattr(Psnr, "networks", classmethod(lambda cls: dict(files)))
    first = reproduce(config)["table1"]["rows"]["w_encoder"]["key"]
    assert reproduce(config)["table1"]["rows"]["w_encoder"]["key"] == first
    files["net.onnx"] = "2"
    assert reproduce(config)["table1"]["rows"]["w_encoder"]["key"] != first


def test_metrics_name_the_files_that_they_measure_with(tmp_path, monkeypatch):
    monkeypatch.setattr(extractor_base, "locate", lambda name: tmp_path / name)
    (tmp_path / "fr_feature.onnx").write_bytes(b"one")
    before = FrFeatureIdentity.networks()
    assert set(before) == {"fr_feature.onnx"} and L2.networks() == {} == DiscriminatorDistance.networks()
    (tmp_path / "fr_feature.onnx").write_bytes(b"another")
    assert FrFeatureIdentity.networks() != before


def test_the_table_says_how_encoders_were_trained(config, tmp_path, tiny_model):
    """Of the files' own records, and the precision of the run folder that a model lies in."""
    run = tmp_path / "outputs" / f"w_encoder_{config.domain.name}"
    (tmp_path / "micro" / "w_encoder.safetensors").unlink()
    copied = shutil.copytree(tiny_model, run / "model")
    (run / "config.yaml").write_text("precision: bf16\n")
    record = {"step": 50, "images_seen": 4000, "validation": {}}
    files = {part: read_model(copied / f"{part}.safetensors", part) for part in ("w_encoder", "generator")}
    one = files["w_encoder"]
    save_model(copied / "w_encoder.safetensors", one.state, kind="w_encoder", config=one.config,
               requires={"generator": files["generator"].hash}, info=record)  # fmt: skip
    config.methods = ["sg2", "w_encoder"]
    found = reproduce(config)["table1"]
    text = " ".join(block for block in table1_blocks(found) if isinstance(block, str))
    assert "as its file says (cards have earlier ones): Phase I 50 steps, 4,000 images, bf16." in text
    assert found["rows"]["sg2"]["trained"] == {}
    seconds = found["rows"]["sg2"]["cells"]["seconds"]
    assert seconds["computing"] > 0
    seconds |= {"computing": 0.25, "value": 80.0}
    text = " ".join(block for block in table1_blocks(found) if isinstance(block, str))
    assert "Other programs had the core too. Of the seconds these were the method's own: SG2 20 s (25%)" in text
    seconds["computing"] = None  # of photos that an earlier version kept
    text = " ".join(block for block in table1_blocks(found) if isinstance(block, str))
    assert "Whether other programs had the core while SG2 were measured was not noted." in text


def test_baselines_with_another_trunk_are_told():
    trunk = {"trunk": "ir_se", "widths": [1], "input_size": 64}
    rows = {name: {"title": name, "trained": {name: {"steps": 1, "images": 2, "trunk": own}}}
            for name, own in (("psp", trunk), ("w_encoder", trunk), ("e4e", {**trunk, "widths": [2]}),
                             ("restyle", {**trunk, "input_size": 32}))}  # fmt: skip
    told = " ".join(_trained(rows))
    assert "psp 1 steps, 2 images, Phase I's trunk" in told and "e4e 1 steps, 2 images, another trunk" in told
    assert "restyle 1 steps, 2 images, Phase I's trunk at 32 px" in told
    ours = {"w_encoder": {"steps": 1, "images": 2, "trunk": trunk}, "hyperinverter": {"steps": 3, "images": 4}}
    ours["feature_residual"] = {"steps": 5, "images": 6, "trunk": None}
    told = " ".join(_trained({"phase3": {"title": "Phase III", "trained": ours}}))
    assert told.endswith("Phase I 1 steps, 2 images; Phase II 3 steps, 4 images; Phase III 5 steps, 6 images.")
    assert list(_trained({"sg2": {"title": "SG2", "trained": {}}})) == []


def test_a_column_of_the_paper_alone_has_its_arrow(config):
    config.methods, config.domain.kind = ["hyperinverter"], "faces"
    heads = next(block for block in table1_blocks(reproduce(config)["table1"]) if isinstance(block, Table)).heads
    assert {"identity ↑", "ms_ssim ↑", "lpips ↓", "seconds ↓"} <= set(heads)


def test_photos_that_were_enlarged_are_told(config, tmp_path):
    save_image(torch.zeros(3, 8, 8), tmp_path / "photos" / "0.png")
    config.methods = ["w_encoder"]
    text = " ".join(block for block in table1_blocks(reproduce(config)["table1"]) if isinstance(block, str))
    assert "The 6 photos: smaller than 16 px, enlarged: 1 file, such as 0.png." in text


def test_a_method_of_another_generator_is_told_and_left_out(config, other_tiny_model, capsys):
    config.models = {"w_encoder": str(other_tiny_model)}
    rows = reproduce(config)["table1"]["rows"]
    assert "give a folder of the same generator" in rows["w_encoder"]["missing"] and "n" in rows["hyperinverter"]
    config.methods = ["psp", "w_encoder"]
    with pytest.raises(UserError, match=r"(?s)no method has its files.*psp.*w_encoder") as refused:
        reproduce(config)
    assert str(refused.value).count("give a folder of the same generator") == 1


def test_a_method_is_found_where_its_trainer_wrote_it(config, tmp_path, tiny_model):
    (tmp_path / "micro" / "w_encoder.safetensors").unlink()
    assert "w_encoder" in (Bench(config, torch.device("cpu")).methods["w_encoder"].fault or "")
    shutil.copytree(tiny_model, tmp_path / "outputs" / f"w_encoder_{config.domain.name}" / "model")
    bench = Bench(config, torch.device("cpu"))
    found = bench.methods["w_encoder"]
    assert found.fault is None and found.folder.endswith("model")
    assert bench.load(found).model_hash and bench.leading.name == "w_encoder"  # both phases miss their own still


def test_phase_three_is_found_by_the_part_that_its_trainer_writes(config, tmp_path, tiny_model):
    config.methods = ["hyperinverter", "phase3"]
    assert "feature_residual" in (Bench(config, torch.device("cpu")).methods["phase3"].fault or "")
    run = tmp_path / "outputs" / f"phase3_{config.domain.name}"
    save_feature_residual(shutil.copytree(tiny_model, run / "model"))
    found = Bench(config, torch.device("cpu")).methods["phase3"]
    assert found.fault is None and found.folder.endswith("model") and "feature_residual" in found.weights
    told = model_hashes(replace(config, model=found.folder))
    assert found.weights.items() <= told.items() and {"discriminator", "feature_residual"} <= told.keys()


def test_time_is_foretold_from_the_methods_own_steps_and_unfinished_photos(config):
    bench = Bench(config, torch.device("cpu"))
    sg2 = bench.methods["sg2"]
    assert _unfinished(bench, sg2) == 2
    bench.kept(sg2).mkdir(parents=True)
    (bench.kept(sg2) / f"{bench.source.names[bench.narrow[0]]}_0123.png").touch()
    assert _unfinished(bench, sg2) == 1
    assert [_steps(bench, name) for name in ("sg2", "sg2_plus", "pti")] == [2, 2, 3]
    bench.config.projection = ProjectionConfig(tuning_steps=5)
    assert [_steps(bench, name) for name in ("sg2", "sg2_plus", "pti")] == [600, 2000, 455]


def test_settings_are_checked_and_all_is_every_part_of_the_paper():
    faces, scenes = (expanded_parts(["all", "photos", "table1"], kind) for kind in ("faces", "scenes"))
    assert faces == [*(part for part in PAPER if part not in OF_SCENES), "photos"]
    assert set(scenes) == {*PAPER, "photos"} - set(OF_FACES) and set(PARTS) == {
        *PAPER,
        *BEYOND,
        *REPRODUCED,
        "ablations",
    }
    with pytest.raises(ConfigError) as error:
        load_config(ReproduceConfig, None, ["parts=[table9]", "models={pps: here}", "table_photos=1"])
    text = str(error.value)
    assert "table1" in text and "pps" in text and "table_photos" in text


def test_the_papers_numbers():
    assert all(len(row) == len(METRICS) for rows in TABLE_1.values() for row in rows.values())
    assert of_table_1("faces", "pti", "seconds") == 104 and of_table_1("scenes", "psp", "identity") is None
    assert of_table_1("scenes", "hyperinverter", "fid") == 46.96 and of_table_1("faces", "sg2", "l2") is None
    assert json.dumps(TABLE_1)
