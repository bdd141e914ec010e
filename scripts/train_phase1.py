"""Phase I: train the encoder E1 (image to w) against the domain's frozen generator."""

from hyperinverter.config import Phase1Config
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(Phase1Config, "hyperinverter.training.phase1:train", "configs/phase1/faces64.yaml", __doc__)
