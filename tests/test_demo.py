"""The demo on the tiny domain with random weights: every stage runs, and its page and figures are as promised."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from script_runner import ROOT, run_script
from tiny_model import save_tiny_model

from hyperinverter.config.load import load_config, load_domain
from hyperinverter.config.names import METRICS
from hyperinverter.config.report_schema import DemoConfig
from hyperinverter.directions import Direction, save_direction
from hyperinverter.pretrained.load import load_generator
from hyperinverter.releases.catalog import entries_of
from hyperinverter.reports.demo import start_folder
from hyperinverter.reports.demo_stages import Demo, edit_portrait, name_domain
from hyperinverter.reports.html_page import Report, curves, metrics_rows

SHORT = ["--config", "configs/demo/short.yaml", "domain=tiny", "portrait=configs/edit/tiny.yaml"]
FEW = ["phase1_steps=4", "phase2_steps=4", "adversarial_steps=2", "training_images=16", "evaluated_images=8"]
pytestmark = pytest.mark.timeout(900)  # a quarter of a minute of computing, on machines that are busy with other things


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of the domain `tiny` and a random direction of each of its names."""
    folder = tmp_path_factory.mktemp("models")
    domain = load_domain("tiny")
    model = save_tiny_model(folder / domain.name, domain)
    digest = load_generator(model).weights_hash
    for name, file in domain.directions.items():
        direction = Direction(name, torch.randn(domain.generator.w_dim), generator_hash=digest)
        save_direction(direction, model / file, domain=domain.name, resolution=domain.resolution)
    return folder


@pytest.fixture(scope="module")
def demo(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of one demo."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERINVERTER_MODELS", str(models))
        run_script("demo", [*SHORT, *FEW, "device=cpu", "output=out"], folder)
    return folder / "out"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("fetched", [True, False])
def test_make_fetches_weights_first_and_goes_on_without_them(fetched: bool, tmp_path: Path):
    """A stand-in for Python notes what it is asked for; `download.py` fails where there is no network."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):  # the lock last: make compares their times
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> asked\ncase $1 in *download.py) exit {0 if fetched else 2};; esac\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.ok").touch()
    done = subprocess.run(["make", "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (download, *names, attempts), demo = (line.split() for line in (tmp_path / "asked").read_text().splitlines())
    assert download == "scripts/download.py" and attempts == "attempts=2" and demo == ["scripts/demo.py"]
    assert names == ["ffhq_mobile"] and "mobile_stylegan_ffhq" in {entry.name for entry in entries_of(names)}
    assert ("going on with faces64 alone" in done.stdout) is not fetched


class Links(HTMLParser):
    """Every address in a page, and the tags it uses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = ("src", "href", "xlink:href", "srcset", "data", "poster", "action")
        self.addresses += [value or "" for name, value in attributes if name in names]


def test_page_is_self_contained(demo: Path):
    page = (demo / "index.html").read_text()
    links = Links(page)
    pictures = [address for address in links.addresses if address.startswith("data:image/")]
    inner = [address for address in links.addresses if address.startswith("#")]  # marks inside the curves
    assert len(pictures) >= 8 and len(pictures) + len(inner) == len(links.addresses), "an address leads outside"
    assert not links.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert not [url for url in re.findall(r"url\(([^)]*)\)", page) if not url.strip("'\"").startswith("#")]
    assert "@import" not in page and "Content-Security-Policy" in page and 'name="viewport"' in page
    assert page.count("<svg") == 2, "a curve for each phase"
    for script in ("train_phase1", "train_phase2", "evaluate", "edit", "interpolate"):
        assert f"python scripts/{script}.py --config configs/" in page, f"the page must name the command of {script}"


def test_the_photo_is_edited_by_the_model_of_portrait(demo: Path):
    with Image.open(demo / "edit_portrait/portrait.jpg") as sheet:
        assert sheet.width > sheet.height, "two rows: photo and inversion, beside them each direction"
    page = (demo / "index.html").read_text()
    assert "The real photo at 32 px" in page and "data:image/jpeg" in page
    assert (demo / "edit_portrait/edit.json").is_file() and "edit_portrait" in page, "its command is on the page"


def test_a_model_of_portrait_that_is_not_there_is_named(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(models))
    config = load_config(DemoConfig, "configs/demo/short.yaml", ["domain=tiny", f"output={tmp_path}"])
    config.portrait = "configs/edit/church.yaml"
    edit_portrait(Demo(config), tmp_path / "photo.png")
    assert "not shown" in capsys.readouterr().out and not (tmp_path / "edit_portrait").exists()


def test_metrics_follow_the_schema(demo: Path):
    metrics = json.loads((demo / "metrics.json").read_text())
    assert metrics["domain"] == "tiny" and metrics["num_images"] == 8 and metrics["protocol"]["resolution"] == 32
    assert set(metrics["methods"]) == {"w_encoder", "hyperinverter"}
    for values in metrics["methods"].values():
        assert values["time_ms_median"] > 0 and values["l2"] > 0
        assert {name for name, value in values.items() if value is None} <= set(metrics["not_measured"])
    assert set(metrics["not_measured"]) <= set(METRICS) and all(metrics["not_measured"].values())
    evaluated = json.loads((demo / "evaluate/generated/metrics.json").read_text())
    assert {key: metrics[key] for key in evaluated} == evaluated, "the same figures, to the digit"
    extra = metrics["demo"]
    assert set(extra["photo"]) == {"w_encoder", "hyperinverter"}
    for phase in ("phase1", "phase2"):
        training = extra["short_training"][phase]
        assert (
            training["steps"] > 0 and training["last"]["train/l2"] > 0 and training["validation"]["validation/l2"] > 0
        )


def test_a_second_run_replaces_the_first_and_only_a_demo(
    demo: Path, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(models))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    with pytest.raises(AssertionError, match="code 2"):
        run_script("demo", [*SHORT, "output=precious"], tmp_path)
    assert "not a demo's folder" in capsys.readouterr().err and (tmp_path / "precious/thesis.txt").is_file()
    assert (demo / "demo.json").is_file(), "what says that a folder may be replaced"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["device=cuda:9"], "device is cuda:9"),
        (["edit=configs/edit/nowhere.yaml"], "configs/edit/nowhere.yaml: no such file"),
        (["domain.generator.w_dim=48"], "w_dim: file 32, domain 48"),
    ],
)
def test_what_can_be_refused_at_once_leaves_an_earlier_demo_alone(
    demo: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    message: str,
):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(models))
    with pytest.raises(AssertionError, match="code 2"):
        run_script("demo", [*SHORT, f"output={demo}", *settings], demo.parent)
    assert message in capsys.readouterr().err and (demo / "index.html").is_file()


def test_starting_empties_a_demo_behind_a_link_and_follows_no_link_in_it(tmp_path: Path):
    (tmp_path / "disk/training").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for name in ("disk/demo.json", "disk/training/log.txt", "photos/holiday.jpg"):
        (tmp_path / name).write_text("old")
    (tmp_path / "disk/link").symlink_to(tmp_path / "photos")
    (tmp_path / "demo").symlink_to(tmp_path / "disk")
    start_folder(load_config(DemoConfig, None, ["domain=tiny", f"output={tmp_path / 'demo'}"]))
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["demo.json"]
    assert (tmp_path / "demo").is_symlink() and (tmp_path / "photos/holiday.jpg").is_file()
    assert json.loads((tmp_path / "disk/demo.json").read_text())["phase1_steps"] == 400


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, largest_file: Callable[[int], None]):
    domain = load_domain("tiny")
    domain.weights.folder = "my models/tiny"
    config = load_config(DemoConfig, None, ["domain=tiny", f"output={tmp_path / 'demo'}"])
    largest_file(20)
    for write in (lambda: start_folder(config), lambda: name_domain(domain, tmp_path / "demo")):
        with pytest.raises(OSError, match="File too large"):
            write()
    assert not list((tmp_path / "demo").iterdir())


def test_commands_name_a_changed_domain_by_a_file(tmp_path: Path):
    domain = load_domain("tiny")
    assert name_domain(domain, tmp_path) == "tiny" and not list(tmp_path.iterdir())
    domain.weights.folder = "my models/tiny"
    assert load_domain(name_domain(domain, tmp_path)) == domain


def test_missing_weights_end_with_a_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("HYPERINVERTER_MODELS", raising=False)
    with pytest.raises(AssertionError, match="code 2"):
        run_script("demo", [*SHORT, "output=out"], tmp_path)
    message = capsys.readouterr().err
    assert "no model 'tiny'" in message and "HYPERINVERTER_MODELS" in message and not (tmp_path / "out").exists()


def test_report_escapes_text_and_refuses_other_files(tmp_path: Path):
    report = Report("<b>")
    report.text("1 < 2 & so on")
    report.table(["a", "b"], [["<i>", None], [(0.12345678, True), 3]])
    page = report.write(tmp_path / "page.html").read_text()
    assert "<b>" not in page and "<i>" not in page and "1 &lt; 2 &amp; so on" in page
    assert "not measured" in page and '<td class="number best">0.1235</td>' in page
    with pytest.raises(ValueError, match=r"page.html: a page shows .png"):
        report.picture(tmp_path / "page.html", "a page")


def test_metrics_table_marks_the_better_method():
    metrics = {
        "methods": {"a": {"l2": 1.0, "psnr": 20.0, "fid": None}, "b": {"l2": 0.5, "psnr": 10.0, "fid": None}},
        "metrics": {
            "l2": {"unit": "squared", "better": "lower"},
            "psnr": {"unit": "dB", "better": "higher"},
            "fid": {"unit": "", "better": "lower"},
        },
    }
    headings, rows = metrics_rows(metrics)
    assert headings == ["metric", "better", "a", "b"]
    assert rows[0] == ["l2 (squared)", "lower", (1.0, False), (0.5, True)]
    assert rows[1][2:] == [(20.0, True), (10.0, False)]
    assert rows[2] == ["fid", "lower", (None, False), (None, False)]


def test_curves_are_one_element_and_survive_gaps():
    stats = [{"step": 1, "train/l2": 0.5}, {"step": 2, "train/l2": None}, {"step": 3, "train/l2": 0.2}]
    svg = curves(stats, {"train/l2": "L2", "validation/l2": "never written"}, "loss")
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>") and "<metadata" not in svg
    assert "never written" not in svg and "optimiser step" in svg and "matplotlib.pyplot" not in sys.modules
