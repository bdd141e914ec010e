"""Measure methods on images: L2, perceptual distances, PSNR, MS-SSIM, identity, FID, KID and time per image."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("evaluate")
