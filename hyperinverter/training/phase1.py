"""Phase I: train E1, which finds the w of an image, with the generator frozen.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), sections 3.1, 3.3 (equation 6) and 4.1: weighted sum
of L2, LPIPS and identity, Ranger, rate 1e-4, batch 8; as pSp (Richardson et al., CVPR 2021), with one w around w_avg.
Letters: N images, R pixels, L styles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from hyperinverter.config.schema import Phase1Config
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.loader import Batches, open_training_data
from hyperinverter.data.sources import check_training_data
from hyperinverter.losses import TotalLoss, build_losses
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.ops.batch_norm import synchronised
from hyperinverter.pretrained.files import command_for
from hyperinverter.pretrained.load import hash_of, load_generator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.common import set_up
from hyperinverter.training.export import export_part
from hyperinverter.training.guard import guarded
from hyperinverter.training.loop import Trainee, fit
from hyperinverter.training.optim import build_optimizer, split_microbatches, step_over_parts
from hyperinverter.training.resume import find_state
from hyperinverter.training.start import (
    load_discriminator_of_losses,
    photo_resolution,
    start_w_encoder,
    training_resolution,
)
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import check_divides, in_all_processes


def reconstruct(generator: Generator, w_encoder: WEncoder, images: Tensor, resolution: int | None = None) -> Tensor:
    """Phase I on a batch: images [N,3,H,W] -> G(E1(x) + w_avg), [N,3,R,R] float32; R is G's own, or `resolution`."""
    return draw(generator, w_encoder(images).float() + generator.mapping.w_avg, resolution)


def draw(generator: Generator, w: Tensor, resolution: int | None = None) -> Tensor:
    """w [N, w_dim] -> images [N,3,R,R] float32."""
    ws = w[:, None].repeat(1, generator.num_ws, 1)  # [N, L, w_dim]
    return generator.synthesis(ws, noise_mode="const", resolution=resolution).float()


@dataclass(frozen=True)
class Objective:
    """What Phase I minimises (equation 6); beyond the paper, the distance of codes where the true ones are known.

    Attributes:
        losses: of images of `size` px; None where the distance of codes is all, so that no image is drawn.
        w_weight: of the mean squared distance to the true w; 0 leaves it out.
    """

    generator: Generator
    w_encoder: WEncoder
    losses: TotalLoss | None
    size: int
    w_weight: float
    autocast: torch.autocast

    def __call__(self, images: Tensor, true_w: Tensor | None = None) -> dict[str, Tensor]:
        """Images [N,3,R,R] and, if they are known, their codes [N, w_dim] -> "loss" with gradients, and its parts."""
        with self.autocast:
            w = self.w_encoder(images).float() + self.generator.mapping.w_avg
            total, parts = (0.0, {}) if self.losses is None else self.losses(draw(self.generator, w, self.size), images)
            if true_w is not None:
                parts["w"] = (w - true_w).square().mean()
                total = total + self.w_weight * parts["w"]
        return {"loss": total, **parts}

    def true_w(self, data: Batches, names: Sequence[str]) -> Tensor | None:
        """The codes [N, w_dim] that generated images were drawn from, on the generator's device; None if unused."""
        device = next(self.generator.parameters()).device
        return cast(GeneratedSource, data.source).w(names).to(device) if self.w_weight else None

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        with self.autocast:
            return reconstruct(self.generator, self.w_encoder, images, self.size)


def microbatches(images: Tensor, codes: Tensor | None, count: int) -> list[tuple[Tensor, Tensor | None]]:
    """The parts of a batch with the codes of their images, where these are known."""
    parts: Sequence[Tensor | None] = [None] * count if codes is None else split_microbatches(codes, count)
    return list(zip(split_microbatches(images, count), parts, strict=True))


def image_losses(config: Phase1Config, discriminator: Discriminator | None, device: torch.device) -> TotalLoss | None:
    """The losses that compare images; None where the distance of codes is the only one."""
    if config.w_loss_weight and not any(config.loss_weights.values()):
        return None
    size = config.domain.loss_resolution
    losses = build_losses(config.loss_weights, discriminator=discriminator, loss_resolution=size)
    return losses.to(device).eval()


@in_all_processes
@guarded
def train(config: Phase1Config) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best E1 goes to `<output>/model`, the last one to `<output>/model_last`.

    Returns:
        The last logged losses ("train/..."), the last validation losses ("validation/..."), "best/loss", "best/step".
    Raises:
        UserError: the losses are no longer finite, the checkpoint does not fit the config, or the data cannot be used.
        FileNotFoundError: a network or the images are not there.
    """
    # -- set up: networks, data, losses, optimiser
    device, domain, output = set_up(config), config.domain, Path(config.output)
    count = config.gradient_accumulation
    check_divides("schedule.batch_size", config.schedule.batch_size, count)
    check_training_data(config.data)
    generator = load_generator(obtain_weights(domain, "generator"), domain).to(device).requires_grad_(False)
    generator.synthesis.recompute_from_px = config.recompute_from_px
    frozen = {"generator": hash_of(generator)}
    discriminator, used = load_discriminator_of_losses(config, frozen)
    resumed = find_state(config, trainer="phase1", networks=["generator", "w_encoder"], frozen=used)
    w_encoder, origin = start_w_encoder(domain, generator, config.init_from)
    w_encoder = to_device(w_encoder, device).requires_grad_(True).train()
    w_encoder = synchronised(w_encoder, config.sync_batchnorm)
    losses = image_losses(config, discriminator, device)
    size = training_resolution(generator, domain, losses)
    photo_px = photo_resolution(size, domain)
    train_data, validation_data = open_training_data(config.data, domain, config.seed, generator, device, photo_px)
    optimizer = build_optimizer(w_encoder.parameters(), config.optimizer)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    objective = Objective(generator, w_encoder, losses, size, config.w_loss_weight, autocast)

    def update(images: Tensor, names: Sequence[str], step: int, measure: bool) -> dict[str, Tensor | None]:
        pairs = microbatches(images, objective.true_w(train_data, names), count)
        compute, clip = (lambda pair: objective(*pair)), config.gradient_clip
        return step_over_parts(optimizer, compute, pairs, clip=clip, measure=measure)

    trainee = Trainee(
        trainer="phase1",
        title="Phase I",
        network=w_encoder,
        parts={"w_encoder": w_encoder, "optimizer": optimizer},
        rates={optimizer: config.optimizer},
        frozen=used,
        origin=origin,
        update=update,
        measure=lambda images, names: objective(images, objective.true_w(validation_data, names)),
        draw=lambda images, _: [images, objective.reconstruct(images)],
        pictures="input_phase1",
        write=partial(export_part, "w_encoder", w_encoder, domain, frozen),
        then=command_for("hyperinverter", domain.name, output / "model"),
    )
    return fit(config, trainee, resumed, (train_data, validation_data), device)
