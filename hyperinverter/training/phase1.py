"""Phase I: train E1, which finds the w of an image, with the generator frozen.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), sections 3.1, 3.3 (equation 6) and 4.1: weighted sum
of L2, LPIPS and identity, Ranger, rate 1e-4, batch 8; as pSp (Richardson et al., CVPR 2021), with one w around w_avg.
Letters: N images, R pixels, L styles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from hyperinverter.config.schema import Phase1Config
from hyperinverter.data import Batches, check_training_data, open_training_data, reports
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.losses import TotalLoss, build_losses
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.ops.batch_norm import average_running_statistics, synchronised
from hyperinverter.pretrained.files import command_for
from hyperinverter.pretrained.load import hash_of, load_generator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.augment import RandomChanges
from hyperinverter.training.common import set_up
from hyperinverter.training.export import export_part
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import build_optimizer, set_rates, split_microbatches, step_over_parts
from hyperinverter.training.progress import due_at, open_run
from hyperinverter.training.resume import Parts, find_state, restore, save_state
from hyperinverter.training.start import (
    load_discriminator_of_losses,
    notes_on_photos,
    photo_resolution,
    start_w_encoder,
    training_resolution,
)
from hyperinverter.training.validation import sample_images, side_by_side, validate
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import check_divides, in_all_processes, is_main, place_of


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
    device, domain, schedule, output = set_up(config), config.domain, config.schedule, Path(config.output)
    count = config.gradient_accumulation
    check_divides("schedule.batch_size", schedule.batch_size, count)
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
    changes = RandomChanges(config.augment, config.augment_p, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    objective = Objective(generator, w_encoder, losses, size, config.w_loss_weight, autocast)

    # -- resume
    parts: Parts = {"w_encoder": w_encoder, "optimizer": optimizer}
    rates = {optimizer: config.optimizer}
    progress = restore(resumed, parts, rates, data=(train_data, validation_data))
    origin = f"resumed at step {progress.step}" if progress.step else origin

    with open_run(config, progress) as (run, bar):
        run.log(f"Phase I on {place_of(device)}: {progress.data()}", origin, *resumed.notes)
        run.log(*notes_on_photos(train_data, domain, progress.step))
        shown = sample_images(validation_data, train_data, 8, device)

        while progress.step < schedule.max_steps:
            # -- one step
            due = due_at(progress.step + 1, schedule)
            images, names = train_data.get(progress.position, schedule.batch_size)
            codes, images = objective.true_w(train_data, names), changes.photos(images.to(device))
            pairs = microbatches(images, codes, count)
            set_rates(progress.step, schedule, rates)
            values = step_over_parts(
                optimizer, lambda pair: objective(*pair), pairs, clip=config.gradient_clip, measure=due.look
            )
            average_running_statistics(w_encoder)
            due = progress.step_done(due, schedule, values, images=schedule.batch_size)
            bar.update()
            if not due.look:
                continue

            # -- log
            progress.history.stop_if_not_finite(config, run.checkpoints)
            if due.log:
                bar.set_postfix(loss=f"{progress.log_losses(run):.4f}")

            # -- pictures, validation, best model
            w_encoder.eval()
            if due.images and is_main():
                grid = side_by_side(shown, objective.reconstruct(shown))
                run.images(progress.step, "input_phase1", grid, columns=4)
            if due.validation:
                measured = validate(
                    lambda images, names: objective(images, objective.true_w(validation_data, names)),
                    validation_data,
                    schedule,
                    device,
                )
                if progress.log_validation(run, measured):
                    export_part(output / "model", "w_encoder", w_encoder, domain, progress, frozen, measured)
            w_encoder.train()

            # -- save
            if due.save:
                save_state(run, config, trainer="phase1", frozen=used, progress=progress, parts=parts)
            if due.stop:
                run.stop(progress.step)

        # -- stop
        export_part(output / "model_last", "w_encoder", w_encoder, domain, progress, frozen)
        then = command_for("hyperinverter", domain.name, output / "model")
        run.log(*reports(train_data, validation_data), progress.conclusion(output, then))
    return progress.summary()
