"""Images per second from disk: every kind of source is read, and the table holds them beside the steps."""

import pytest

from hyperinverter.reports.benchmark import page
from hyperinverter.reports.benchmark.loading import CASES, loading_rows, measure_loading


def test_every_kind_of_source_is_measured():
    pytest.importorskip("lmdb", reason="the lmdb package, which writes databases, is not installed")
    found = measure_loading(32, (0, 2), images=10, seconds=0.05)
    assert [(entry["source"], entry["format"], entry["workers"]) for entry in found] == [
        (*case, workers) for case in CASES for workers in (0, 2)
    ]
    assert all(entry["images_per_s"] > 1 and 0.3 < entry["kib"] < 4 for entry in found)


def test_rows_say_how_many_steps_the_reading_would_feed():
    entry = {"source": "zip", "format": "JPEG", "kib": 400.4, "workers": 2, "images_per_s": 120.0}
    heads, rows = loading_rows([entry], {"phase2": 40.0, "phase1": 240.0})
    assert heads[-2:] == ["times what phase2 consumes", "times what phase1 consumes"]
    assert rows == [["zip", "JPEG, 400 KiB", "2", "120", "3.0", "0.5"]]

    sides = {
        "fp32": {"stages": {"total": {"ms_per_image": 50.0}}},
        "bf16": {"stages": {"total": {"ms_per_image": 25.0}}},
    }
    table = page._loading({"training": [{"phase": "phase2", "sides": sides}], "loading": [entry]})
    assert "times what phase2, bf16 consumes" in table and table.endswith("| 120 | 3.0 |")
    assert page._loading({"training": []}) == ""  # measured before there was such a table
