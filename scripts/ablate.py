"""Train and measure the rows of the paper's table 3 at one budget: without this, without that, and several D."""

from hyperinverter.config import AblateConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(AblateConfig, "hyperinverter.evaluation.ablations:ablate", "configs/ablate/faces64.yaml", __doc__)
