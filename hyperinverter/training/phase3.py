"""Phase III: train a residual of one feature map of the generator, and how it follows edits; all else is frozen.

Beyond the paper; see `models/feature_residual.py`, which names what it learned from. Three terms, each of Phase II's
losses: photos that stay as they are; pairs of samples G(w), G(w + d), of which the first is inverted and moved by d to
become the second, as StyleFeatureEditor does (arXiv:2406.10601); and photos that are moved by d, inverted again and
moved back. The photo of the last term is drawn without gradients: what is edited must be a picture that can be inverted
again, not one that hides its way back.
Letters: N images, R pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from hyperinverter.config.encoder_schema import Phase3Config
from hyperinverter.data.loader import open_training_data
from hyperinverter.data.sources import check_training_data
from hyperinverter.losses import TotalLoss, build_losses
from hyperinverter.models.feature_residual import Phase3Network, Predicted
from hyperinverter.models.residuals import Residuals
from hyperinverter.training.common import set_up
from hyperinverter.training.edit_consistency import Edits, load_steps
from hyperinverter.training.export import export_part
from hyperinverter.training.guard import guarded
from hyperinverter.training.loop import Trainee, fit
from hyperinverter.training.optim import build_optimizer, split_microbatches, step_over_parts
from hyperinverter.training.resume import find_state
from hyperinverter.training.start import (
    load_discriminator_of_losses,
    photo_resolution,
    start_phase3,
    training_resolution,
)
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import check_divides, in_all_processes, randn_rows

NETWORKS = ("generator", "w_encoder", "layerwise_encoder", "hypernetwork", "feature_residual")


@dataclass(frozen=True)
class Moves:
    """Samples of the generator and steps in W, one of each per image.

    Attributes:
        w: of the samples, [N, w_dim].
        d: the steps, [N, w_dim].
        goes_back: whether photos too are moved, and moved back.
    """

    w: Tensor
    d: Tensor
    goes_back: bool

    def split(self, count: int) -> "list[Moves]":
        """Dealt out as `split_microbatches` deals the images."""
        parts = zip(split_microbatches(self.w, count), split_microbatches(self.d, count), strict=True)
        return [replace(self, w=w, d=d) for w, d in parts]


@dataclass(frozen=True)
class Objective:
    """What Phase III minimises. `directions`: [K, w_dim], along which a part of the images steps, or None."""

    model: Phase3Network
    losses: TotalLoss
    config: Phase3Config
    directions: Tensor | None
    autocast: torch.autocast

    def draw_moves(self, images: Tensor, step: int) -> Moves:
        """At random for a step of training on these images."""
        config, network, count = self.config, self.model.network, len(images)
        generator, device = network.generator, images.device
        z = randn_rows(count, generator.z_dim, shared=True, device=device)
        with torch.no_grad():
            w = generator.mapping(z)[:, 0]
            edits = Edits.draw(network, count, config.edit_reach, device, self.directions, config.edit_directed)
        return Moves(w, edits(w) - w, config.cycle_weight > 0 and step % config.cycle_every == 0)

    @torch.no_grad()
    def fixed_moves(self, images: Tensor, names: Sequence[str]) -> Moves:
        """The same ones always for these images, for validation: random steps of half the reach."""
        generator = self.model.network.generator
        dice = torch.Generator().manual_seed(crc32("\n".join(names).encode()))
        z = torch.randn(2 * len(images), generator.z_dim, generator=dice).to(images.device)
        w, towards = generator.mapping(z)[:, 0].chunk(2)
        return Moves(w, self.config.edit_reach / 2 * (towards - w), False)

    def __call__(self, images: Tensor, moves: Moves) -> dict[str, Tensor]:
        """Photos [N,3,R,R] in [-1,1] -> "loss" with gradients and its parts, those of unmoved photos by their names."""
        config, model = self.config, self.model
        with self.autocast:
            result = model.predict(images)
            still = model.with_residual(result.weights, result.residual)
            total, parts = self.losses(self._draw(result.phase2.ws, still), images)
            if config.pair_weight > 0:
                parts["pair"] = self._pair(moves)
                total = total + config.pair_weight * parts["pair"]
            if moves.goes_back:
                parts["cycle"] = self._cycle(result, images, moves.d)
                total = total + config.cycle_weight * config.cycle_every * parts["cycle"]
        return {"loss": total, **parts}

    def _pair(self, moves: Moves) -> Tensor:
        """The first sample is inverted and moved; how far it then is from the second."""
        with torch.no_grad():
            own = self.model.network.own_kernels
            before, after = (self._draw(self._ws(w), own) for w in (moves.w, moves.w + moves.d))
        return self._moved(self.model.predict(before), moves.d, after)

    def _cycle(self, found: Predicted, images: Tensor, d: Tensor) -> Tensor:
        """Photos are moved, that is inverted and moved back; how far they then are from themselves."""
        with torch.no_grad():
            ws = found.phase2.ws + d[:, None]
            edited = self._draw(ws, self.model.moved(found, ws))
        return self._moved(self.model.predict(edited), -d, images)

    def _moved(self, found: Predicted, d: Tensor, target: Tensor) -> Tensor:
        ws = found.phase2.ws + d[:, None]
        return self.losses(self._draw(ws, self.model.moved(found, ws)), target)[0]

    def _ws(self, w: Tensor) -> Tensor:
        return w[:, None].expand(-1, self.model.network.generator.num_ws, -1)

    def _draw(self, ws: Tensor, residuals: Residuals | None) -> Tensor:
        return self.model.network.synthesise(ws, residuals).float()

    @torch.no_grad()
    def pictures(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Photos, their Phase I, Phase II and Phase III, and a sample's edit: the sample, as it should be, as it is."""
        moves = self.fixed_moves(images, ["pictures"])
        with self.autocast:
            result = self.model.predict(images)
            still = self.model.with_residual(result.weights, result.residual)
            own = self.model.network.own_kernels
            before, after = (self._draw(self._ws(w), own) for w in (moves.w, moves.w + moves.d))
            sample = self.model.predict(before)
            ws = sample.phase2.ws + moves.d[:, None]
            edited = self._draw(ws, self.model.moved(sample, ws))
        return [images, result.phase2.w_image, result.drawn, self._draw(result.phase2.ws, still), before, after, edited]


@in_all_processes
@guarded
def train(config: Phase3Config) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best model goes to `<output>/model`, the last to `<output>/model_last`.

    Result and errors are those of Phase I's; and ValueError: the domain names no layer for the residual, or one that
    the losses do not see, or it would hold too many numbers.
    """
    device, domain, folder = set_up(config), config.domain, Path(config.output) / "model"
    count = config.gradient_accumulation
    check_divides("schedule.batch_size", config.schedule.batch_size, count)
    check_training_data(config.data)
    model, frozen, origin = start_phase3(domain, config.init_from)
    discriminator, used = load_discriminator_of_losses(config, frozen)
    key = "edit_directions"
    directions, hashes = load_steps(domain, config.edit_directions, frozen["generator"], device, key)
    used = {**used, **hashes}
    resumed = find_state(config, trainer="phase3", networks=NETWORKS, frozen=used)
    model = to_device(model, device).train()
    network, trained = model.network, model.feature_residual
    network.generator.synthesis.recompute_from_px = config.recompute_from_px
    network.prepare()
    losses = build_losses(config.loss_weights, discriminator=discriminator, loss_resolution=domain.loss_resolution)
    losses = losses.to(device).eval()
    network.draws_px = size = training_resolution(network.generator, domain, losses)
    if trained.shape[1] > size:  # an early head's images do not come out of this layer
        raise ValueError(
            f"domain.feature_residual.layer: {trained.layer} has {trained.shape[1]} px, and the losses see images that "
            f"an early head draws at {size} px, before it: write a layer of at most {size} px"
        )
    seen_px = photo_resolution(size, domain)
    data = open_training_data(config.data, domain, config.seed, network.generator, device, seen_px)
    optimizer = build_optimizer(trained.parameters(), config.optimizer)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    objective = Objective(model, losses, config, directions, autocast)

    def update(images: Tensor, _: Sequence[str], step: int, measure: bool) -> dict[str, Tensor | None]:
        moves = objective.draw_moves(images, step).split(count)
        pairs = list(zip(split_microbatches(images, count), moves, strict=True))
        return step_over_parts(
            optimizer, lambda pair: objective(*pair), pairs, clip=config.gradient_clip, measure=measure
        )

    numbers = f"{' x '.join(map(str, trained.shape))} numbers at {trained.layer}"
    trainee = Trainee(
        trainer="phase3",
        title="Phase III",
        network=trained,
        parts={"feature_residual": trained, "optimizer": optimizer},
        rates={optimizer: config.optimizer},
        frozen=used,
        origin=origin,
        update=update,
        measure=lambda images, names: objective(images, objective.fixed_moves(images, names)),
        draw=objective.pictures,
        pictures="input_phases_sample_moved",
        write=partial(export_part, "feature_residual", trained, domain, frozen, more={"capacity": trained.capacity}),
        then=f"{command_of('evaluate')} model={folder} 'methods=[hyperinverter,phase3]' data.root=FOLDER",
        notes=[f"the residual has {numbers}, {trained.capacity:.3f} per number of an image"],
    )
    return fit(config, trainee, resumed, data, device)
