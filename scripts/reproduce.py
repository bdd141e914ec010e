"""Measure all that docs/results.md says of a model, into docs/results/, and make the page from it."""

from hyperinverter.config import ReproduceConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        ReproduceConfig,
        "hyperinverter.evaluation.reproduce.command:reproduce",
        "configs/reproduce/faces64.yaml",
        __doc__,
    )
