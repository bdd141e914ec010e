"""Phase I: train E1, which finds the w of an image, with the generator frozen.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), sections 3.1, 3.3 (equation 6) and 4.1: weighted sum
of L2, LPIPS and identity, Ranger, rate 1e-4, batch 8; as pSp (Richardson et al., CVPR 2021), with one w around w_avg.
Letters: N images, R pixels, L styles.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.config.schema import Phase1Config
from hyperinverter.data import Batches, check_training_data, open_training_data, reports
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.losses import build_losses
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.ops.batch_norm import average_running_statistics, synchronised
from hyperinverter.pretrained.files import command_for
from hyperinverter.pretrained.load import hash_of, load_generator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.augment import RandomChanges
from hyperinverter.training.common import Run, set_up
from hyperinverter.training.export import copy_parts, save_part
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import build_optimizer, set_rates, split_microbatches, step_over_parts
from hyperinverter.training.progress import due_at, or_stop
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
    device = set_up(config)
    domain, schedule = config.domain, config.schedule
    check_divides("schedule.batch_size", schedule.batch_size, config.gradient_accumulation)
    check_training_data(config.data)
    output = Path(config.output)
    generator = load_generator(obtain_weights(domain, "generator"), domain).to(device).requires_grad_(False)
    generator.synthesis.recompute_from_px = config.recompute_from_px
    frozen = {"generator": hash_of(generator)}
    discriminator, used = load_discriminator_of_losses(config, frozen)
    resumed = find_state(config, trainer="phase1", networks=["generator", "w_encoder"], frozen=used)
    w_encoder, origin = start_w_encoder(domain, generator, config.init_from)
    w_encoder = to_device(w_encoder, device).requires_grad_(True).train()
    w_encoder = synchronised(w_encoder, config.sync_batchnorm)
    losses = None  # with the distance of codes alone, no image is drawn in a step
    if any(config.loss_weights.values()) or not config.w_loss_weight:
        losses = build_losses(config.loss_weights, discriminator=discriminator, loss_resolution=domain.loss_resolution)
        losses = losses.to(device).eval()
    size = training_resolution(generator, domain, losses)
    photo_px = photo_resolution(size, domain)
    train_data, validation_data = open_training_data(config.data, domain, config.seed, generator, device, photo_px)
    optimizer = build_optimizer(w_encoder.parameters(), config.optimizer)
    changes = RandomChanges(config.augment, config.augment_p, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")

    # -- resume
    state: Parts = {"w_encoder": w_encoder, "optimizer": optimizer}
    data = (train_data, validation_data)
    progress = restore(resumed, state, {optimizer: config.optimizer}, data=data)
    origin = f"resumed at step {progress.step}" if progress.step else origin

    def write_model(folder: Path, what: str, found: dict[str, float]) -> None:
        if not is_main():
            return
        copy_parts(folder, domain, ["generator", "discriminator"])
        info = {"trainer": "train_phase1", "step": progress.step, "images_seen": progress.position, "validation": found}
        save_part(folder, "w_encoder.safetensors", w_encoder, domain, frozen=frozen, info=info, what=what)

    def measure(images: Tensor, true_w: Tensor | None) -> dict[str, Tensor]:
        with autocast:
            w = w_encoder(images).float() + generator.mapping.w_avg
            total, parts = (0.0, {}) if losses is None else losses(draw(generator, w, size), images)
            if true_w is not None:
                parts["w"] = (w - true_w).square().mean()
                total = total + config.w_loss_weight * parts["w"]
        return {"loss": total, **parts}

    def true_w(data: Batches, names: Sequence[str]) -> Tensor | None:
        return cast(GeneratedSource, data.source).w(names).to(device) if config.w_loss_weight else None

    with (
        Run(output, config, progress.step) as run,
        tqdm(total=schedule.max_steps, initial=progress.step, mininterval=1, disable=not is_main()) as bar,
    ):
        sizes = f"{len(train_data)} training and {len(validation_data)} validation images"
        run.log(f"Phase I on {place_of(device)}: {sizes}", origin, *resumed.notes)
        run.log(*notes_on_photos(train_data, domain, progress.step))
        shown = sample_images(validation_data, train_data, 8, device)

        while progress.step < schedule.max_steps:
            # -- one step
            due = due_at(progress.step + 1, schedule)
            images, names = train_data.get(progress.position, schedule.batch_size)
            count, codes = config.gradient_accumulation, true_w(train_data, names)
            image_parts = split_microbatches(changes.photos(images.to(device)), count)
            parts = list(
                zip(image_parts, [None] * count if codes is None else split_microbatches(codes, count), strict=True)
            )
            set_rates(progress.step, schedule, {optimizer: config.optimizer})
            values = step_over_parts(
                optimizer, lambda part: measure(*part), parts, clip=config.gradient_clip, measure=due.look
            )
            average_running_statistics(w_encoder)
            progress.step += 1
            progress.position += schedule.batch_size
            progress.history.add(progress.step, values)
            bar.update()
            due = or_stop(due, progress.step, schedule)
            if not due.look:
                continue

            # -- log
            progress.history.stop_if_not_finite(config, run.checkpoints)
            if due.log:
                bar.set_postfix(loss=f"{progress.log_losses(run):.4f}")

            # -- pictures, validation, best model
            w_encoder.eval()
            if due.images and is_main():
                with torch.no_grad(), autocast:
                    grid = side_by_side(shown, reconstruct(generator, w_encoder, shown, size))
                run.images(progress.step, "input_phase1", grid, columns=4)
            if due.validation:
                found = validate(
                    lambda images, names: measure(images, true_w(validation_data, names)),
                    validation_data,
                    schedule,
                    device,
                )
                if progress.log_validation(run, found):
                    write_model(output / "model", "best step so far" if found else "latest step", found)
            w_encoder.train()

            # -- save
            if due.save:
                save_state(run, config, trainer="phase1", frozen=used, progress=progress, parts=state)
            if due.stop:
                run.stop(progress.step)

        # -- stop
        write_model(output / "model_last", "last step", progress.last_validation())
        then = command_for("hyperinverter", domain.name, output / "model")
        run.log(*reports(train_data, validation_data), progress.conclusion(output, then))
    return progress.summary()
