"""Files of every kind, changed at random: read or refused, and nothing else (see `fuzz`, which also runs by itself)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
PROMISED = ("executed", "written outside output", "raw exceptions", "above the cap")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("files", [120, pytest.param(3000, marks=pytest.mark.slow)])
def test_changed_files_are_read_or_refused(files, tmp_path):
    command = [sys.executable, str(FUZZ), "--files", str(files), "--seed", "3", "--keep", str(tmp_path / "kept")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("{"), result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["broken"] == [] and result.returncode == 0
    assert {promise: found[promise] for promise in PROMISED} == dict.fromkeys(PROMISED, 0)
    endings = [ending for count in found["counts"].values() for ending, times in count.items() for _ in range(times)]
    assert len(endings) == files and set(endings) == {"read", "refused"}
