"""Draw what Phase II changes: weights per layer, difference maps, blends of real images, and quality against time."""

from hyperinverter.config import AnalyzeConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(AnalyzeConfig, "hyperinverter.evaluation.analysis.command:analyze", "configs/analyze/faces64.yaml", __doc__)
