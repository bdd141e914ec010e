"""The benchmark of the app: it asks over HTTP as a browser does, and its table joins the page."""

import json
from pathlib import Path

import pytest

from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import BenchmarkConfig
from hyperinverter.pretrained.load import load_model
from hyperinverter.reports.benchmark.clock import Rounds
from hyperinverter.reports.benchmark.command import _publish
from hyperinverter.reports.benchmark.memory import _with_signs
from hyperinverter.reports.benchmark.page import tables
from hyperinverter.utils.errors import UserError

ABOUT = {"command": "python scripts/benchmark.py", "versions": {"torch": "2"}}


@pytest.fixture(scope="module")
def measured() -> dict:
    pytest.importorskip("uvicorn", reason="the app needs the extra app")
    from hyperinverter.reports.benchmark.app import measure_app

    rounds = Rounds(most=4, least=2, seconds=2)
    return {**measure_app("configs/app/faces64.yaml", ["device=cpu"], rounds), "about": ABOUT}


def test_a_slider_takes_longer_than_its_synthesis(measured: dict):
    assert measured["domain"] == "faces64"
    for what in ("moving", "stopped"):
        case = measured[what]
        assert case["px"] == 64 and case["cpu_ms"] > 0
        assert case["times"]["app"]["p95_ms"] >= case["times"]["app"]["median_ms"] > 0
        assert case["over_synthesis"]["most"] > 1  # HTTP, the edit and the picture's file come on top


def test_it_stands_on_the_page_and_stays_when_a_domain_is_measured(measured: dict, tmp_path: Path):
    machine = {"device": "a CPU", "threads": 1, "capability": None}
    _publish(tmp_path / "performance", {**machine, "runs": [], "apps": [measured]})
    _publish(tmp_path / "performance", {**machine, "runs": []})
    kept = json.loads(next((tmp_path / "performance").glob("*.json")).read_text())
    assert kept["apps"][0]["domain"] == "faces64"
    assert "| faces64 | stopped | 64 |" in (tmp_path / "performance.md").read_text()
    assert "app" not in tables({**machine, "runs": []})


def test_a_missing_model_is_told_from_another_process_as_in_this_one(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        _with_signs(load_model, tmp_path / "nowhere")

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):  # a fault in the code keeps its traceback
        _with_signs(broken)


def test_the_config_measures_apps_alone():
    config = load_config(BenchmarkConfig, "configs/benchmark/sliders.yaml")
    assert config.apps and not config.sides and not config.runs
