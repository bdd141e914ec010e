"""StyleGAN2-ADA: the generator that is inverted and the discriminator it was trained against."""

from hyperinverter.models.stylegan2.discriminator import Discriminator
from hyperinverter.models.stylegan2.generator import Generator

__all__ = ["Discriminator", "Generator"]
