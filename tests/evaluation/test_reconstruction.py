"""The evaluation end to end on a tiny random model: files, records, reasons, pictures; and its table and row choice."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_model import make_tiny_domain, save_tiny_model

from hyperinverter.config.names import METRICS
from hyperinverter.config.schema import DataConfig, EvaluateConfig, RefineConfig
from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.evaluation.sheet import choose_rows
from hyperinverter.evaluation.tables import to_markdown
from hyperinverter.extractors import base as extractor_base
from hyperinverter.inverters import load
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image, save_image


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        torch.manual_seed(i)
        save_image(torch.rand(3, 16, 16) * 2 - 1, folder / f"{i}.png")
    return folder


def config(tiny_model, tmp_path, **data) -> EvaluateConfig:
    return EvaluateConfig(
        model=str(tiny_model), data=DataConfig(**data), output=str(tmp_path / "out"), device="cpu", batch_size=2,
        metrics=list(METRICS), time_batch_size=2, time_repeats=2, sheet_rows=3,
    )  # fmt: skip


@pytest.fixture
def no_networks(monkeypatch):
    monkeypatch.setattr(extractor_base, "locate", lambda name: None)


def test_evaluate_writes_records_summary_table_and_sheet(tiny_model, tmp_path, photos, no_networks):
    (photos / "broken.png").write_bytes(b"no image")
    result = evaluate(config(tiny_model, tmp_path, root=str(photos), on_bad_file="skip"))
    output = tmp_path / "out"
    assert json.loads((output / "metrics.json").read_text()) == result
    assert result["num_images"] == 5 and result["domain"] == "micro"
    assert list(result["files"]["unreadable"]) == ["broken.png"]

    records = [json.loads(line) for line in (output / "images.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records] == [f"{i}.png" for i in range(5)]
    for method in ("w_encoder", "hyperinverter"):
        summary = result["methods"][method]
        assert set(summary) == {*METRICS, "time_ms_median", "time_ms_p95"}
        for name, value in summary.items():
            assert (value is None) == (name in result["not_measured"])
        for name in ("l2", "psnr", "ms_ssim", "discriminator_features"):
            values = [record[method][name] for record in records]
            assert summary[name] == pytest.approx(sum(values) / 5)
            low, high = result["intervals_95"][method][name]
            assert min(values) <= low <= summary[name] <= high <= max(values)
        assert summary["time_ms_median"] > 0
    assert result["protocol"]["loss_filter"] is None  # nothing is reduced
    assert result["protocol"]["ms_ssim_enlarged_to"] == 256 and result["protocol"]["resolution"] == 16
    assert str(tmp_path) not in (output / "metrics.json").read_text()

    table = (output / "table.md").read_text()
    assert table == to_markdown(result) and "| psnr, dB ↑ |" in table and "- lpips: " in table
    sheet = Image.open(output / "sheet.png")
    assert sheet.width > 4 * 96 and sheet.height > 3 * 96


def test_an_evaluation_of_other_images_is_replaced_and_said_so(tiny_model, tmp_path, photos, no_networks, capsys):
    evaluate(config(tiny_model, tmp_path, root=str(photos)))
    evaluate(config(tiny_model, tmp_path, root=str(photos)))
    assert "replaces" not in capsys.readouterr().err
    evaluate(config(tiny_model, tmp_path, kind="generated", num_generated=2))
    assert "metrics.json: replaces an evaluation of other images; another output=FOLDER" in capsys.readouterr().err
    (tmp_path / "out" / "metrics.json").write_text("{")
    assert evaluate(config(tiny_model, tmp_path, root=str(photos)))["num_images"] == 5


def test_numbers_do_not_depend_on_the_batch_size(tiny_model, tmp_path, photos, no_networks):
    one = config(tiny_model, tmp_path, root=str(photos))
    other = config(tiny_model, tmp_path, root=[str(photos)])
    one.metrics = other.metrics = ["l2", "discriminator_features"]
    one.batch_size, other.batch_size, other.sheet_rows = 1, 5, 0
    one.methods = other.methods = ["hyperinverter"]
    results = [evaluate(c) for c in (one, other)]
    assert [result["protocol"]["images"] for result in results] == ["photos", "photos"]
    a, b = (result["methods"]["hyperinverter"] for result in results)
    for name in one.metrics:
        assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_the_filter_of_the_loss_resolution_is_a_key_and_in_the_protocol(tmp_path, photos, no_networks):
    model = save_tiny_model(tmp_path / "model", replace(make_tiny_domain(), loss_resolution=8))
    settings = config(model, tmp_path, root=str(photos))
    settings.metrics, settings.methods = ["l2"], ["w_encoder"]
    published = evaluate(settings)
    settings.metric_filter = "box"
    boxed = evaluate(settings)
    assert "Pillow's bilinear" in published["protocol"]["loss_filter"]
    assert "8-bit" in published["protocol"]["loss_filter"] and "box mean" in boxed["protocol"]["loss_filter"]
    l2 = [result["methods"]["w_encoder"]["l2"] for result in (published, boxed)]
    assert l2[0] < 0.95 * l2[1]  # photos of noise, which the wider filter averages away


def test_the_sheet_says_which_results_are_refined(tiny_model, tmp_path, photos, no_networks, monkeypatch):
    headings = []
    monkeypatch.setattr("hyperinverter.evaluation.sheet.contact_sheet", lambda cells, heads, *_: headings.extend(heads))
    settings = config(tiny_model, tmp_path, root=str(photos))
    settings.metrics, settings.methods = ["l2"], ["hyperinverter"]
    settings.refine = RefineConfig(steps=2, perceptual=0.0)
    evaluate(settings)
    assert headings[:2] == ["input", "Phase II (hyperinverter)\nrefine 2"]


def test_generated_images_need_no_files(tiny_model, tmp_path, no_networks):
    settings = config(tiny_model, tmp_path, kind="generated", num_generated=3)
    settings.metrics = ["l2"]
    result = evaluate(settings)
    assert result["num_images"] == 3 and result["protocol"]["images"] == "generated, seed 0"


def test_a_folder_without_a_discriminator_is_a_reason(tiny_model, tmp_path, photos, no_networks):
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "discriminator.safetensors").unlink()
    settings = config(folder, tmp_path, root=str(photos))
    settings.metrics = ["l2", "discriminator_features"]
    result = evaluate(settings)
    assert result["methods"]["w_encoder"]["discriminator_features"] is None
    assert "train_stylegan2" in result["not_measured"]["discriminator_features"]


def test_what_cannot_be_evaluated_says_what_to_do(tiny_model, tmp_path, no_networks):
    with pytest.raises(UserError, match=r"data\.root"):
        evaluate(config(tiny_model, tmp_path))
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png"):
        evaluate(config(tiny_model, tmp_path, root=str(folder), on_bad_file="skip"))


@pytest.mark.parametrize("total", [1, 3, 8, 9, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_rows_are_the_best_the_median_and_the_worst(total, count):
    values = [(7 * i) % 101 / 101 for i in range(total)]
    rows = choose_rows(values, count)
    indices = [row.index for row in rows]
    assert len(set(indices)) == len(rows) == min(count, total)
    assert [values[i] for i in indices] == sorted(values[i] for i in indices)
    if count >= 1:
        assert values[indices[0]] == min(values)
    if count >= 2:
        assert values[indices[-1]] == max(values)


def test_table_compares_the_last_method_with_the_first():
    result = {
        "domain": "d", "num_images": 2, "not_measured": {"fid": "no file", "kid_x1e3": "no file"},
        "intervals_95": {"a": {"l2": [0.1, 0.3]}},
        "protocol": {
            "resolution": 8, "device": "cpu", "time_batch_size": 1,
            "settings": {"a": {"n_iters": 5}, "b": {"refine_steps": 20}},
        },
        "metrics": {
            "l2": {"unit": "", "better": "lower"},
            "psnr": {"unit": "dB", "better": "higher"},
            "fid": {"unit": "", "better": "lower"},
        },
        "methods": {"a": {"l2": 0.2, "psnr": 20.0, "fid": None}, "b": {"l2": 0.1, "psnr": 23.0, "fid": None}},
    }  # fmt: skip
    lines = to_markdown(result).splitlines()
    assert "| l2 ↓ | 0.2 [0.1, 0.3] | 0.1 | × 0.5 |" in lines
    assert "| psnr, dB ↑ | 20 | 23 | +3 |" in lines
    assert "| fid ↓ | not measured | not measured |  |" in lines
    assert "- fid, kid_x1e3: no file" in lines
    assert "The results of b are refined: 20 steps on each image." in lines


def test_a_smaller_resolution_reads_draws_and_measures_at_it(tiny_model, tmp_path, photos, no_networks):
    settings = config(tiny_model, tmp_path, root=str(photos))
    settings.metrics, settings.methods, settings.resolution = ["l2"], ["hyperinverter"], 8
    result = evaluate(settings)
    inverter = load(tiny_model, resolution=8)
    images = torch.stack([load_image(photos / f"{i}.png", 8) for i in range(5)])
    inversion = inverter.invert(images)
    drawn = inverter.render(inversion)
    assert drawn.shape == (5, 3, 8, 8) and result["protocol"]["resolution"] == 8
    full = load(tiny_model).render(inversion)  # the same Inversion, at the generator's size
    torch.testing.assert_close(drawn, torch.nn.functional.avg_pool2d(full, 2), atol=1e-5, rtol=0)
    expected = (rounded(drawn) - images).square().mean()
    assert result["methods"]["hyperinverter"]["l2"] == pytest.approx(float(expected), rel=1e-3)
    with pytest.raises(ValueError, match="resolution: got 32 px"):
        load(tiny_model, resolution=32)
