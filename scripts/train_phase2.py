"""Phase II: train the encoder E2 and the hypernetworks (image to weight residuals), E1 and generator frozen."""

from hyperinverter.config import Phase2Config
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(Phase2Config, "hyperinverter.training.phase2:train", "configs/phase2/faces64.yaml", __doc__)
