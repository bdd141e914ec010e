"""Losses that compare an output with its target: pixels, or the features of a frozen network.

One class serves every network (LPIPS, identity, MoCo, ...): `extractors.base.Extractor` is the whole difference.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import Extractor


class Loss(nn.Module):
    """forward(output, target) -> scalar, 0 for equal images."""

    # True: takes images as they are; False: reduced to the loss resolution first
    needs_full_resolution: bool = False

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define forward(output, target)")


class L2Loss(Loss):
    """Mean squared error over pixels and channels, in [-1,1] units (section 3.3 of the paper; published as MSELoss)."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.float(), target.float())


class FeatureLoss(Loss):
    """Mean distance between the features of output and target; the target's side is a constant."""

    def __init__(self, extractor: Extractor, needs_full_resolution: bool = False) -> None:
        super().__init__()
        self.extractor = extractor
        self.needs_full_resolution = needs_full_resolution

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.extractor.features(target)
        return self.extractor.distance(self.extractor.features(output), wanted).mean()
