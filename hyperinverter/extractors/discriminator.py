"""Distance in the features of the domain's own StyleGAN2 discriminator: perceptual, and no download."""

import copy

import torch
from torch import Tensor

from hyperinverter.extractors.base import Extractor
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.ops.perceptual import perceptual_distance, unit_normalise


class DiscriminatorFeatures(Extractor):
    """Unit-normalised outputs of every block, squared difference, mean over positions and over blocks.

    Works at the discriminator's own resolution. Range 0..4, as the squared distance of two unit vectors.

    Args:
        discriminator: copied, so that training the original (adversarial loss) does not move this ruler.
    """

    purpose = "the perceptual distance discriminator_features"
    source = "the domain's model folder (discriminator.safetensors)"

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = copy.deepcopy(discriminator)
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        return [unit_normalise(maps) for maps in self.discriminator.features(images)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        # every channel of every block weighs the same: there are no calibrated heads for these features
        weight = torch.full((1, 1, 1, 1), 1 / len(a), device=a[0].device)
        return perceptual_distance(a, b, [weight] * len(a))
