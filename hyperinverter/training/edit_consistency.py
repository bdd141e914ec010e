"""Edit consistency: after Phase II a step in W shall change the image as it did before.

Beyond the paper. Phase II's losses look at the unedited image alone, and its weights take a part of every edit's effect
away (the paper keeps 70 to 91 %, table 2). Here w also takes a step, at random or along a known direction, and what it
changes with the predicted weights is pulled to what it changes with the generator's own. PTI's locality regularisation
(Roich et al., ACM TOG 2022, arXiv:2106.05744) is related: it pulls images, not changes. Costs two syntheses more, one
of them with gradients. Letters: N images, K directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperinverter.checkpoint import weights_hash
from hyperinverter.config.schema import DomainConfig, Phase2Config
from hyperinverter.directions.files import load_direction
from hyperinverter.extractors.resize import at_most
from hyperinverter.models.hyperinverter import HyperInverterNetwork, HyperInverterOutput
from hyperinverter.ops.distances import relative_difference
from hyperinverter.published.vectors import Space
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.optim import split_microbatches
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.distributed import own_rows, randn_rows, world_size
from hyperinverter.utils.errors import UserError

STRENGTH = 3.0  # steps along a direction are uniform in this many standard deviations of w along it, both ways


@dataclass(frozen=True)
class Edits:
    """Steps in W, one per image: `share` [N, 1] of the way to `towards` [N, w_dim], a w of the generator, and `along`.

    `along`: [N, w_dim], a step along a known direction, 0 for an image that goes the other way (and so is `share`).
    """

    towards: Tensor
    share: Tensor
    along: Tensor

    @classmethod
    @torch.no_grad()
    def draw(
        cls,
        model: HyperInverterNetwork,
        count: int,
        reach: float,
        device: torch.device,
        directions: Tensor | None = None,
        directed: float = 0.5,
    ) -> "Edits":
        """For this process's `count` images; shares are uniform in [0, reach].

        Args:
            directions: [K, w_dim] on `device`, each as long as a standard deviation of w along it, or None.
            directed: chance of an image to take a step along one of them; the others take a random one.
        """
        generator = model.generator
        z = randn_rows(count, generator.z_dim, shared=True, device=device)
        share = own_rows(torch.rand(count * world_size(), 1, device=device)) * reach
        towards = generator.mapping(z)[:, 0]
        along = torch.zeros_like(towards)
        if directions is not None:
            # whether, which, how far
            chance = own_rows(torch.rand(count * world_size(), 3, device=device))
            which = (chance[:, 1] * len(directions)).long().clamp(max=len(directions) - 1)
            follows = chance[:, :1] < directed
            along = torch.where(follows, (2 * chance[:, 2:] - 1) * STRENGTH * directions[which], along)
            share = torch.where(follows, 0.0, share)
        return cls(towards, share, along)

    def split_microbatches(self, count: int) -> list["Edits"]:
        """Dealt out as `optim.split_microbatches` deals the images."""
        steps = (split_microbatches(part, count) for part in (self.towards, self.share, self.along))
        return [Edits(*some) for some in zip(*steps, strict=True)]

    def __call__(self, w: Tensor) -> Tensor:
        return w + self.share * (self.towards - w) + self.along


def load_steps(
    domain: DomainConfig,
    names: list[str],
    generator_hash: str,
    device: torch.device,
    key: str = "edit_consistency_directions",
) -> tuple[Tensor | None, dict[str, str]]:
    """Directions of the domain by name, each one standard deviation of w long.

    Args:
        key: of the setting that names them, for messages.
    Returns:
        [K, w_dim], None without names; and what the steps depend on, for resuming: "step along NAME" -> hash.
    Raises:
        UserError: a file is missing, belongs to another generator, or is no direction of W with a known spread.
    """
    steps, hashes = [], {}
    folder = obtain_weights(domain, "generator").parent if names else None
    space = Space(w_dim=domain.generator.w_dim)
    for name in names:
        try:
            result = load_direction(name, folder, files=domain.directions, space=space, generator_hash=generator_hash)
            if not result.is_step_in_w:
                raise UserError("it is of GANSpace or of W+, and a step along it is not the same on every style")
            if not result.info.get("projection_std"):
                raise UserError("its file does not say how far photos spread along it (projection_std)")
        except (FileNotFoundError, UserError) as error:
            raise UserError(
                f"{key}: {name!r} ({domain.directions[name]}) does not serve: {error}. Learn it "
                f"with {command_of('learn_direction')} before, or leave it out"
            ) from error
        steps.append(result.vector * result.info["projection_std"])
        hashes[f"step along {name}"] = weights_hash({"direction": steps[-1]})
    return (torch.stack(steps).to(device) if steps else None), hashes


def with_edits(
    config: Phase2Config, model: HyperInverterNetwork, images: Tensor, step: int, directions: Tensor | None
) -> list[tuple[Tensor, Edits | None]]:
    """The microbatches of a step, and the edits that their images go through; None where this step measures none."""
    count, every = config.gradient_accumulation, config.edit_consistency_every
    edits: Sequence[Edits | None] = [None] * count
    if config.edit_consistency_weight > 0 and step % every == 0:
        reach, directed = config.edit_consistency_reach, config.edit_consistency_directed
        edits = Edits.draw(model, len(images), reach, images.device, directions, directed).split_microbatches(count)
    return list(zip(split_microbatches(images, count), edits, strict=True))


def edit_consistency(
    model: HyperInverterNetwork,
    result: HyperInverterOutput,
    edits: Edits,
    loss_resolution: int,
    *,
    relative: bool = False,
    bands: int = 1,
) -> Tensor:
    """Mean squared difference [] between what the edits change before and after Phase II, images in [-1, 1].

    Args:
        result: both phases of the batch; gradients flow into its `reconstruction` and `residuals`.
        loss_resolution: larger changes are compared at this, as images are in every other loss.
        relative: each image's difference is divided by the mean square of what its edit changed before, so that a
            small change, such as a smile, counts as much as a large one.
        bands: octaves of detail that are compared each by itself, and averaged; above 1 only with `relative`, so that
            wrinkles count as much as the colour of a face. Small changes count more then too, so the same weight pulls
            harder.
    """
    ws = edits(result.w)[:, None].expand(-1, model.generator.num_ws, -1)
    with torch.no_grad():
        before = at_most(model.render(ws).float(), loss_resolution) - at_most(result.w_image.float(), loss_resolution)
    assert result.reconstruction is not None
    after = at_most(model.synthesise(ws, result.residuals).float() - result.reconstruction.float(), loss_resolution)
    if not relative:
        return (after - before).square().mean()
    return relative_difference(after, before, bands).mean()
