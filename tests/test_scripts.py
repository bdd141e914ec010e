"""Every script: help without torch, a dry run, and the whole way from photos to edits on the tiny domain."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from script_runner import ROOT, SCRIPTS, run_script, write_labels, write_photos

import hyperinverter
from hyperinverter.config.load import load_domain
from hyperinverter.pretrained.files import PARTS
from hyperinverter.utils.images import load_image

# script -> the folder of its config for the tiny domain; None: it has none, its default one takes domain=tiny
CONFIGS = {
    "train_stylegan2": "stylegan2",
    "train_phase1": "phase1",
    "train_phase2": "phase2",
    "train_phase3": "phase3",
    "train_encoder": "encoder",
    "evaluate": "evaluate",
    "edit": "edit",
    "invert": "edit",
    "interpolate": "edit",
    "align": "edit",
    "learn_direction": None,
    "export_model": "export",
    "benchmark": "benchmark",
    "analyze": "analyze",
    "ablate": "ablate",
    "find_directions": None,
    "list_directions": None,
    "app": "edit",
    "edit_video": "edit",
    "reproduce": None,
    "demo": None,
}
# no domain: tests/pretrained, tests/data; no generator of the tiny domain's kind: tests/training/test_mobile.py
OWN_TESTS = {"download", "convert", "inspect_image", "prepare_data", "train_early_head"}


def test_help_of_every_script_comes_without_torch(tmp_path: Path):
    """At once, and from any folder: torch takes seconds to import."""
    code = (
        "import contextlib, io, runpy, sys\n"
        "for script in sys.argv[1:]:\n"
        "    sys.argv, shown = [script, '--help'], io.StringIO()\n"
        "    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):\n"
        "        runpy.run_path(script, run_name='__main__')\n"
        "    assert '--dry-run' in shown.getvalue(), (script, shown.getvalue())\n"
        "    assert 'torch' not in sys.modules, f'{script} --help imports torch'\n"
    )
    scripts = [str(ROOT / "scripts" / f"{name}.py") for name in SCRIPTS]
    done = subprocess.run([sys.executable, "-c", code, *scripts], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_script_is_tested():
    assert set(SCRIPTS) == set(CONFIGS) | OWN_TESTS, "a new script needs a line in CONFIGS and a place in the way below"


@pytest.mark.parametrize("name", CONFIGS)
def test_dry_run_shows_the_plan_and_writes_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = ["--config", f"configs/{CONFIGS[name]}/tiny.yaml"] if CONFIGS[name] else []
    run_script(name, [*config, "domain=tiny", "--dry-run"], tmp_path)
    shown = capsys.readouterr().out
    assert "name: tiny" in shown and "generator" in shown and "hypernetwork" in shown, shown
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(900)  # seconds of computing, on machines that are busy with other things
def test_the_whole_way_on_the_tiny_domain(tmp_path: Path):
    """Photos -> StyleGAN2 -> Phase I -> Phase II -> evaluation, direction, inversion, edit, interpolation."""
    photos = write_photos(tmp_path / "photos", 12, 32)
    write_labels(tmp_path / "labels.csv", photos)

    def run(script: str, *words: str) -> None:
        run_script(script, [*words, "device=cpu"], tmp_path)

    def out(name: str) -> Path:
        return tmp_path / "outputs" / name

    run("train_stylegan2", "--config", "configs/stylegan2/tiny.yaml", "data.root=photos", "schedule.max_steps=2")
    folder = "domain.weights.folder=outputs"
    short = ["schedule.max_steps=2", "data.num_generated=16", "data.validation_fraction=0.25"]
    run("train_phase1", "--config", "configs/phase1/tiny.yaml", f"{folder}/stylegan2_tiny/model", *short)
    short += ["adversarial.start_step=1"]
    run("train_phase2", "--config", "configs/phase2/tiny.yaml", f"{folder}/phase1_tiny/model", *short)
    model = "outputs/phase2_tiny/model"
    assert {path.stem for path in (tmp_path / model).glob("*.safetensors")} >= set(PARTS)

    run("train_phase3", "--config", "configs/phase3/tiny.yaml", f"{folder}/phase2_tiny/model", *short[:3])
    run(
        "train_encoder",
        "--config",
        "configs/encoder/tiny.yaml",
        f"{folder}/phase1_tiny/model",
        "method=hyperstyle",
        *short[:2],
    )
    other = "domain.weights.hyperstyle=outputs/hyperstyle_tiny/model/hyperstyle.safetensors"
    methods = ["methods=[hyperinverter,phase3,hyperstyle]", other, "output=outputs/evaluate_methods", "metrics=[l2]"]
    methods += ["data.num_generated=2", "time_repeats=1"]
    run("evaluate", "--config", "configs/evaluate/tiny.yaml", f"{folder}/phase3_tiny/model", *methods)
    compared = json.loads((out("evaluate_methods") / "metrics.json").read_text())
    assert set(compared["methods"]) == {"hyperinverter", "phase3", "hyperstyle"}
    assert compared["protocol"]["settings"]["phase3"]["feature_numbers_per_image_number"] == 0.1667

    run("evaluate", "--config", "configs/evaluate/tiny.yaml", f"model={model}")
    metrics = json.loads((out("evaluate_tiny") / "metrics.json").read_text())
    assert metrics["domain"] == "tiny" and metrics["num_images"] == 8
    assert set(metrics["methods"]) == {"w_encoder", "hyperinverter"}
    assert all(values["l2"] > 0 and values["time_ms_median"] > 0 for values in metrics["methods"].values())

    results = f"results=[{out('evaluate_tiny') / 'metrics.json'}]"
    run("analyze", "--config", "configs/analyze/tiny.yaml", f"model={model}", results)
    for figure in ("weight_changes", "difference_map", "quality_time"):
        assert (out("analyze_tiny") / f"{figure}.svg").is_file()
    assert (out("analyze_tiny") / "interpolation_0.gif").is_file()
    one_step = ["settings=[schedule.max_steps=1,adversarial.weight=0]", "data.num_generated=16", "metrics=[l2]"]
    run("ablate", "--config", "configs/ablate/tiny.yaml", f"{folder}/phase1_tiny/model", "photos=photos", *one_step)
    assert len(json.loads((out("ablate_tiny") / "ablations.json").read_text())["rows"]) == 3

    run("export_model", "--config", "configs/export/tiny.yaml", f"model={model}")
    assert (out("export_tiny") / "hyperinverter.safetensors").is_file()

    where = ["domain=tiny", f"model={model}", "output=outputs/directions"]
    run("learn_direction", "photos", "labels=labels.csv", "attributes={smile: Smiling}", *where)
    direction = "outputs/directions/directions/smile.safetensors"

    few = ["shown=1", "images=1", "styles=[0-2]"]
    run(
        "find_directions",
        *where[:2],
        "output=outputs/pca",
        "samples=200",
        "components=6",
        "directions={far: 0:0-2}",
        *few,
    )
    far = "outputs/pca/directions/far.safetensors"

    edit = ["--config", "configs/edit/tiny.yaml", f"model={model}"]
    run("edit", *edit, "photos/photo_00.png", "photos/photo_05.png", f"directions=[{direction},{far}]")
    assert (out("edit_tiny") / "sheet_smile.png").is_file() and (out("edit_tiny") / "photo_05/smile_+1.png").is_file()
    run("interpolate", *edit, "photos/photo_00.png", "photos/photo_05.png", "output=outputs/interpolate")
    assert (out("interpolate") / "strip.png").is_file() and (out("interpolate") / "beside.gif").is_file()

    run("invert", *edit, "photos", "output=outputs/inversions")
    assert len(list(out("inversions").glob("*.safetensors"))) == len(photos)
    inverter = hyperinverter.load(tmp_path / model)
    direct = inverter.render(inverter.invert(load_image(photos[3], load_domain("tiny").resolution)))
    saved = inverter.render(hyperinverter.Inversion.load(out("inversions") / "photo_03.safetensors"))
    torch.testing.assert_close(saved, direct, atol=1e-4, rtol=0)  # inverted in a batch there, alone here


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("invert", ""),
        ("edit", ""),
        ("interpolate", ""),
        ("evaluate", "data.kind=auto"),
        ("analyze", "data.kind=auto"),
        ("train_stylegan2", ""),
        ("train_phase1", "data.kind=auto"),
        ("train_phase2", "data.kind=auto"),
        ("train_phase3", "data.kind=auto"),
        ("learn_direction", "labels=labels.csv 'attributes={smile: Smiling}'"),
        ("reproduce", "photos=empty"),
        ("reproduce", "photos=photos other_photos=nowhere"),
    ],
)
def test_inputs_are_looked_at_before_networks_load(
    name: str, more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The tiny domain has no weights: whoever loaded them first would miss those."""
    photos = write_photos(tmp_path / "photos", 4, 32)
    write_labels(tmp_path / "labels.csv", photos)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    root = "photos" if "nowhere" in more else "empty"
    config = ["--config", f"configs/{CONFIGS[name]}/tiny.yaml"] if CONFIGS[name] else []
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script(
            name,
            [*config, *([] if "photos=" in more else [root]), "domain=tiny", *shlex.split(more), "--device", "cpu"],
            tmp_path,
        )
    told = capsys.readouterr().err
    assert ("there is no file or folder nowhere" if root == "photos" else "no images in empty") in told, told
