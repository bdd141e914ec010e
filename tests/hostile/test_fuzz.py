"""Files of every kind, changed at random: read or refused, and nothing else (see `fuzz`, which also runs by itself)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest
from seeds import Seed

from hyperinverter.utils.errors import UserError

FUZZ = Path(__file__).with_name("fuzz.py")
PROMISED = ("executed", "written outside output", "raw exceptions", "above the cap")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("files", [24, pytest.param(3000, marks=pytest.mark.slow)])
def test_changed_files_are_read_or_refused(files, tmp_path):
    command = [sys.executable, str(FUZZ), "--files", str(files), "--seed", "3", "--keep", str(tmp_path / "kept")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("{"), result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["broken"] == [] and result.returncode == 0
    assert {promise: found[promise] for promise in PROMISED} == dict.fromkeys(PROMISED, 0)
    endings = [ending for count in found["counts"].values() for ending, times in count.items() for _ in range(times)]
    assert len(endings) == files and set(endings) == {"read", "refused"}


def runs_a_program(path):
    os.system("true")


def writes_beside(path):
    (path.parents[1] / "evil").write_text("x")


def writes_into_the_output(path):
    (path.parents[1] / "out").mkdir()
    (path.parents[1] / "out" / "a").write_text("x")


def raises(path):
    raise KeyError("x")


def refuses_with_an_escape(path):
    raise UserError("\x1b[2J")


def takes_memory(path):
    assert np.ones(90_000_000).sum()  # 720 MB, far beyond the limit: pages of files may leave the process meanwhile


def dies(path):
    os.kill(os.getpid(), signal.SIGBUS)


def takes_time(path):
    while True:
        pass


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize(
    ("read", "ending", "fault"),
    [(runs_a_program, "read", "ran os.system"), (writes_beside, "read", "wrote: opened"), (raises, "raw", ""),
     (writes_into_the_output, "read", ""), (refuses_with_an_escape, "refused", "unprintable"),
     (takes_memory, "read", "memory"), (dies, "died", ""), (takes_time, "slow", "")],
)  # fmt: skip
def test_what_breaks_a_promise_is_seen(read, ending, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 3)
    path = tmp_path / "1" / "in" / "a"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    jobs = [(number, Seed(path, act), path) for number, act in enumerate((lambda path: None, read, lambda path: None))]
    found = list(fuzz.read_all(jobs))
    assert [outcome["ending"] for outcome in found] == ["read", ending, "read"]
    assert found[0]["faults"] == found[2]["faults"] == []
    faults = found[1]["faults"]
    assert faults[0].startswith(fault) if fault else not faults
