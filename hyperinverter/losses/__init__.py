"""The weighted sum of reconstruction losses that a YAML's `loss_weights` describes, and the table of known losses."""

from collections.abc import Callable
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.identity import ArcFace, Moco
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.extractors.perceptual import DiscriminatorFeatures, Lpips, SqueezeNetFeatures
from hyperinverter.extractors.resize import at_most
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.checks import check_pairs
from hyperinverter.utils.errors import UserError


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
    """Mean distance between the features of output and target; the target's side is a constant.

    One class serves every network (LPIPS, identity, MoCo, ...): `extractors.base.Extractor` is the whole difference.
    """

    def __init__(self, extractor: Extractor, needs_full_resolution: bool = False) -> None:
        super().__init__()
        self.extractor = extractor
        self.needs_full_resolution = needs_full_resolution

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.extractor.features(target)
        return self.extractor.distance(self.extractor.features(output), wanted).mean()


def _discriminator_features(discriminator: Discriminator | None) -> Loss:
    if discriminator is None:
        raise UserError(
            "needs the domain's discriminator; train one "
            f"({command_of('train_stylegan2')}), name it in domain.weights.discriminator, or set this weight to 0"
        )
    return FeatureLoss(DiscriminatorFeatures(discriminator), needs_full_resolution=True)


# To add a loss: one line here. Each entry takes the domain's discriminator (None where there is none).
LOSSES: dict[str, Callable[[Discriminator | None], Loss]] = {
    "l2": lambda _: L2Loss(),
    "lpips": lambda _: FeatureLoss(Lpips.find()),
    "identity": lambda _: FeatureLoss(ArcFace.find()),
    "moco": lambda _: FeatureLoss(Moco.find()),
    "discriminator_features": _discriminator_features,
    "squeezenet_features": lambda _: FeatureLoss(SqueezeNetFeatures.find()),
    "mobilefacenet": lambda _: FeatureLoss(MobileFaceNet.find()),
}


class TotalLoss(nn.Module):
    """Weighted sum of named losses. Its networks are frozen, so it has nothing to train and nothing to save.

    `loss_resolution`: larger images are reduced to this by box mean before every loss but those that need the full
    resolution (published: 256).
    """

    def __init__(self, losses: dict[str, Loss], weights: dict[str, float], loss_resolution: int) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)
        self.loss_resolution = loss_resolution

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare images in [-1,1].

        Args:
            output: [N,3,R,R], may require gradients.
            target: [N,3,R,R], or larger, then reduced by box mean; gradients never reach it.
        Returns:
            The weighted sum, a scalar, and every unweighted loss as a detached scalar under its name.
        Raises:
            ValueError: the target is smaller, or shapes are not [N,3,R,R].
        """
        target = at_most(target, output.shape[-1])
        check_pairs(output, target, "output and target")
        # Float32 even under a trainer's autocast: small differences of large features are what is measured here.
        with torch.autocast(output.device.type, enabled=False):
            output, target = output.float(), target.detach().float()
            small_output, small_target = at_most(output, self.loss_resolution), at_most(target, self.loss_resolution)
            total, values = torch.zeros((), device=output.device), {}
            for name, loss in self.losses.items():
                full = loss.needs_full_resolution
                value = loss(output, target) if full else loss(small_output, small_target)
                total = total + self.weights[name] * value
                values[name] = value.detach()
        return total, values


def build_losses(
    loss_weights: dict[str, float], *, discriminator: Discriminator | None = None, loss_resolution: int = 256
) -> TotalLoss:
    """Build every loss with a weight above 0; a weight of 0 needs no network.

    Args:
        discriminator: the domain's, for discriminator_features; it is copied.
    Raises:
        UserError: an unknown name, a negative weight, nothing to minimise, or a missing network; says what to do.
    """
    for name, weight in loss_weights.items():
        if name not in LOSSES:
            close = get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"loss_weights.{name}: no such loss; {hint}known: {', '.join(sorted(LOSSES))}")
        if not weight >= 0:
            raise UserError(f"loss_weights.{name} is {weight}; write a number of at least 0 (0 switches it off)")
    active = {name: weight for name, weight in loss_weights.items() if weight > 0}
    if not active:
        raise UserError("loss_weights has no weight above 0, so there is nothing to minimise; write e.g. l2: 1.0")
    built, faults = {}, []
    for name in active:
        try:
            built[name] = LOSSES[name](discriminator)
        except UserError as error:
            faults.append(f"loss_weights.{name}: {error}")
    if faults:
        without = "'loss_weights={l2: 1.0, discriminator_features: 0.5}'"
        raise UserError("\n".join([*faults, f"or train without what is missing, such as with {without}"]))
    return TotalLoss(built, active, loss_resolution)
