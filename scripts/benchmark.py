"""Measure time and memory of inversion, editing and training, beside the released code's way of working."""

from hyperinverter.config import BenchmarkConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        BenchmarkConfig,
        "hyperinverter.evaluation.benchmark.command:benchmark",
        "configs/benchmark/faces64.yaml",
        __doc__,
    )
