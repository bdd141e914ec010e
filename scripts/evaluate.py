"""Measure methods on images: L2, perceptual distances, PSNR, MS-SSIM, identity, FID, KID and time per image."""

from hyperinverter.config import EvaluateConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(EvaluateConfig, "hyperinverter.evaluation.reconstruction:evaluate", "configs/evaluate/faces64.yaml", __doc__)
