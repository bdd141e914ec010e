"""Train a StyleGAN2 generator and discriminator on your own images: the domain both inversion phases build on."""

from hyperinverter.config import StyleGAN2Config
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(StyleGAN2Config, "hyperinverter.training.stylegan2:train", "configs/stylegan2/faces64.yaml", __doc__)
