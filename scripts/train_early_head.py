"""Train the early head of a MobileStyleGAN generator: its images at a quarter of the size, without the last layer."""

from hyperinverter.config import EarlyHeadConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(EarlyHeadConfig, "hyperinverter.training.early_head:train", "configs/early_head/ffhq_mobile.yaml", __doc__)
