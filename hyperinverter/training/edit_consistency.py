"""Edit consistency: after Phase II a step in W shall change the image as it did before.

Beyond the paper. Phase II's losses look at the unedited image alone, and its weights take a part of every edit's effect
away (the paper keeps 70 to 91 %, table 2). Here w also takes a random step, and what it changes with the predicted
weights is pulled to what it changes with the generator's own. PTI's locality regularisation (Roich et al., ACM TOG
2022, arXiv:2106.05744) is related: it pulls images, not changes. Costs two syntheses more, one of them with gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperinverter.extractors.resize import at_most
from hyperinverter.models.hyperinverter import HyperInverter, HyperInverterOutput
from hyperinverter.training.optim import in_parts
from hyperinverter.utils.distributed import own_rows, randn_rows, world_size


@dataclass(frozen=True)
class Edits:
    """Random steps in W, one per image: `share` [N, 1] of the way to `towards` [N, w_dim], a w of the generator."""

    towards: Tensor
    share: Tensor

    @classmethod
    @torch.no_grad()
    def draw(cls, model: HyperInverter, count: int, reach: float, device: torch.device) -> "Edits":
        """For this process's `count` images; shares are uniform in [0, reach]."""
        generator = model.generator
        z = randn_rows(count, generator.z_dim, shared=True, device=device)
        share = own_rows(torch.rand(count * world_size(), 1, device=device)) * reach
        return cls(generator.mapping(z)[:, 0], share)

    def in_parts(self, count: int) -> list["Edits"]:
        """Dealt out as `optim.in_parts` deals the images."""
        pairs = zip(in_parts(self.towards, count), in_parts(self.share, count), strict=True)
        return [Edits(towards, share) for towards, share in pairs]

    def __call__(self, w: Tensor) -> Tensor:
        return w + self.share * (self.towards - w)


def edit_consistency(model: HyperInverter, found: HyperInverterOutput, edits: Edits, loss_resolution: int) -> Tensor:
    """Mean squared difference [] between what the edits change before and after Phase II, images in [-1, 1].

    Args:
        found: both phases of the batch; gradients flow into its `reconstruction` and `residuals`.
        loss_resolution: larger changes are compared at this, as images are in every other loss.
    """
    ws = edits(found.w)[:, None].expand(-1, model.generator.num_ws, -1)
    with torch.no_grad():
        before = (model.render(ws) - found.w_image).float()
    after = model.synthesise(ws, found.residuals).float() - found.reconstruction.float()
    return at_most(after - before, loss_resolution).square().mean()
