"""Measure time and memory of inversion, editing and training, beside the released code's way of working."""

import sys
from pathlib import Path

from hyperinverter.config import BenchmarkConfig
from hyperinverter.config.cli import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `benchmarks` is no part of the installed package

if __name__ == "__main__":
    run(BenchmarkConfig, "benchmarks.command:benchmark", "configs/benchmark/faces64.yaml", __doc__)
