"""Phase II: train E2 and the hypernetworks, which change the generator's weights per image, with E1 and G frozen.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), sections 3.2, 3.3 (equations 7 to 9) and 4.1, and the
released training loop: Adam at 1e-4, batch 8; from `adversarial.start_step` on batch 4, a discriminator that starts
from StyleGAN2's and sees the same fakes, half the sum of its two terms (equation 9 is the sum, which the key
`adversarial.discriminator_loss` gives), lazy R1 in a step of its own. Unlike in the released loop no step runs twice, a
resumed run has the right batch, G keeps no gradients, and best-model tracking restarts at two exact steps whether or
not they validate. Beyond the paper, and off unless set: `edit_consistency`.
Letters: N images, R pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hyperinverter.config.schema import Phase2Config
from hyperinverter.data import check_training_data, open_training_data, reports
from hyperinverter.losses import TotalLoss, build_losses
from hyperinverter.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    lazy_r1_weight,
    r1_penalty,
    real_and_fake_logits,
)
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.ops.batch_norm import average_running_statistics, synchronised
from hyperinverter.pretrained.load import load_discriminator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.augment import RandomChanges
from hyperinverter.training.common import Run, set_up
from hyperinverter.training.edit_consistency import Edits, edit_consistency, load_steps
from hyperinverter.training.export import copy_parts, save_part
from hyperinverter.training.gradient_basis import is_fresh, start_from_gradients
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import (
    build_optimizer,
    set_rates,
    split_microbatches,
    step_over_parts,
    whole,
)
from hyperinverter.training.progress import due_at, or_stop
from hyperinverter.training.resume import Parts, find_state, restore, save_state
from hyperinverter.training.start import (
    load_discriminator_of_losses,
    notes_on_photos,
    photo_resolution,
    start_hyperinverter,
    training_resolution,
)
from hyperinverter.training.validation import sample_images, side_by_side, validate
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import check_divides, in_all_processes, is_main, place_of
from hyperinverter.utils.files import copy_file


def encoder_losses(
    model: HyperInverterNetwork,
    losses: TotalLoss,
    images: Tensor,
    discriminator: Discriminator | None = None,
    adversarial_weight: float = 0.0,
    group: int | None = None,
    *,
    edits: Edits | None = None,
    edits_weight: float = 0.0,
    edits_relative: bool = False,
    edits_bands: int = 1,
) -> tuple[dict[str, Tensor], Tensor]:
    """What Phase II minimises on a batch (equation 7).

    Args:
        images: [N,3,R,R] in [-1,1].
        discriminator: None leaves the adversarial term out.
        group: images that the discriminator sees at a time, for its minibatch statistics; None: all.
        edits: under which changes are to stay what they were before Phase II; None leaves that term out, as in
            validation, whose loss chooses the best step.
        edits_relative, edits_bands: see `edit_consistency`.
    Returns:
        "loss" (the weighted sum, with gradients) and every part by name; the reconstructions [N,3,R,R] float32.
    """
    found = model(images)
    reconstruction = found.reconstruction.float()
    total, parts = losses(reconstruction, images)
    if edits is not None:
        inconsistency = edit_consistency(
            model, found, edits, losses.loss_resolution, relative=edits_relative, bands=edits_bands
        )
        total = total + edits_weight * inconsistency
        parts = {**parts, "edit_consistency": inconsistency}
    if discriminator is not None:
        chunks = reconstruction.split(group or len(reconstruction))
        adversarial = generator_loss(torch.cat([discriminator(chunk) for chunk in chunks]).float())
        total = total + adversarial_weight * adversarial
        parts = {**parts, "adversarial": adversarial}
    return {"loss": total, **parts}, reconstruction


def discriminator_step(
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    reals: Tensor,
    fakes: Tensor,
    *,
    r1_weight: float,
    autocast: torch.autocast,
    halved: bool = True,
    clip: float | None = None,
    measure: bool = False,
    parts: int = 1,
) -> dict[str, Tensor | None]:
    """Update D on reals and fakes [N,3,R,R], then once more on R1 unless its weight is 0.

    Args:
        r1_weight: see `lazy_r1_weight`.
        halved: see `discriminator_loss`.
        clip, measure: see `backward_and_step`.
        parts: how many parts the batch is computed in.
    Returns:
        Scalars for the log; D's parameters need no gradient afterwards.
    """

    def d_loss(part: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        with autocast:
            real, fake = (logits.float() for logits in real_and_fake_logits(discriminator, *part))
        return {
            "loss": discriminator_loss(real, fake, halved),
            "D_real": real.mean(),
            "D_fake": fake.mean(),
        }

    def r1_loss(part: Tensor) -> dict[str, Tensor]:  # float32: a gradient of a gradient
        images = part.detach().requires_grad_(True)
        r1 = r1_penalty(images, discriminator(images))
        return {"loss": r1 * r1_weight, "r1": r1}

    discriminator.requires_grad_(True)
    real_parts = split_microbatches(reals, parts)
    pairs = list(zip(real_parts, split_microbatches(fakes.detach(), parts), strict=True))
    found = step_over_parts(optimizer, d_loss, pairs, clip=clip, measure=measure)
    values = {"loss_D": found["loss"], "D_real": found["D_real"], "D_fake": found["D_fake"]}
    values["gradient_norm_D"] = found["gradient_norm"]
    if r1_weight > 0:
        values["r1"] = step_over_parts(optimizer, r1_loss, real_parts, clip=clip)["r1"]
    discriminator.requires_grad_(False)
    return values


@in_all_processes
@guarded
def train(config: Phase2Config) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best networks go to `<output>/model`, the last to `<output>/model_last`.

    With an adversarial loss the best before `start_step` stays in `model/hyperinverter_before_adversarial.safetensors`.

    Returns:
        The last logged losses ("train/..."), the last validation losses ("validation/..."), "best/loss", "best/step".
    Raises:
        UserError: the losses are no longer finite, the checkpoint does not fit the config, or the data cannot be used.
        FileNotFoundError: a network or the images are not there.
    """
    # -- set up: networks, data, losses, optimisers
    device = set_up(config)
    domain, schedule, gan = config.domain, config.schedule, config.adversarial
    edits_weight = config.edit_consistency_weight * config.edit_consistency_every
    edit_settings: dict[str, Any] = {
        "edits_weight": edits_weight,
        "edits_relative": config.edit_consistency_relative,
        "edits_bands": config.edit_consistency_bands,
    }
    check_divides("schedule.batch_size", schedule.batch_size, config.gradient_accumulation)
    check_training_data(config.data)
    if gan.weight > 0:
        check_divides("adversarial.batch_size", gan.batch_size, config.gradient_accumulation)
    output = Path(config.output)
    model, frozen, origin = start_hyperinverter(domain, config.init_from)
    sizes = ["generator", "w_encoder", "layerwise_encoder", "hypernetwork"] + ["discriminator"] * (gan.weight > 0)
    discriminator, used = load_discriminator_of_losses(config, frozen)
    known = config.edit_consistency_directions if edits_weight > 0 else []
    directions, hashes = load_steps(domain, known, frozen["generator"], device)
    used = {**used, **hashes}
    resumed = find_state(config, trainer="phase2", networks=sizes, frozen=used)
    model = to_device(model, device).train()
    model.generator.synthesis.recompute_from_px = config.recompute_from_px
    model.layerwise_encoder = synchronised(model.layerwise_encoder, config.sync_batchnorm)
    # every loss but the adversarial one may need less than full images
    losses = build_losses(config.loss_weights, discriminator=discriminator, loss_resolution=domain.loss_resolution)
    losses = losses.to(device).eval()
    size = domain.resolution if gan.weight > 0 else training_resolution(model.generator, domain, losses)
    model.draws_px, seen_px = size, photo_resolution(size, domain)
    train_data, validation_data = open_training_data(config.data, domain, config.seed, model.generator, device, seen_px)
    if gan.weight > 0 and discriminator is None:
        discriminator = load_discriminator(obtain_weights(domain, "discriminator"), domain).requires_grad_(False)
    optimizer = build_optimizer(model.trainable_parameters(), config.optimizer)
    rates = {optimizer: config.optimizer}
    trained: dict[str, nn.Module] = {"layerwise_encoder": model.layerwise_encoder, "hypernetwork": model.hypernetwork}
    parts: Parts = {**trained, "optimizer": optimizer}
    if gan.weight > 0:
        assert discriminator is not None
        discriminator = to_device(discriminator, device).train()
        discriminator.recompute_from_px = config.recompute_from_px
        optimizer_D = build_optimizer(discriminator.requires_grad_(True).parameters(), gan.optimizer)
        discriminator.requires_grad_(False)
        parts |= {"discriminator": discriminator, "optimizer_D": optimizer_D}
        rates[optimizer_D] = gan.optimizer
    switched: list[nn.Module] = [model] if discriminator is None or not gan.weight else [model, discriminator]
    group = domain.discriminator.mbstd_group_size or gan.batch_size
    changes = RandomChanges(config.augment, config.augment_p, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    adversarial = False

    # -- resume
    data = (train_data, validation_data)
    progress = restore(resumed, parts, rates, data=data, may_be_missing=["discriminator", "optimizer_D"])
    if progress.step == 0 and is_fresh(config):
        origin += "; " + start_from_gradients(model, losses, train_data)
    origin = f"resumed at step {progress.step}" if progress.step else origin

    def measure(images: Tensor) -> dict[str, Tensor]:
        with autocast:
            return encoder_losses(model, losses, images, discriminator if adversarial else None, gan.weight, group)[0]

    fakes: list[Tensor] = []  # of the step, for D

    def reconstruct(part: tuple[Tensor, Edits | None]) -> dict[str, Tensor]:
        D = discriminator if adversarial else None
        with autocast:
            images, edits = part
            values, fake = encoder_losses(model, losses, images, D, gan.weight, edits=edits, **edit_settings)
        fakes.append(fake.detach())
        return values

    def write_model(folder: Path, what: str, found: dict[str, float]) -> None:
        if not is_main():
            return
        copy_parts(folder, domain, ["generator", "discriminator", "w_encoder"])
        info = {"trainer": "train_phase2", "step": progress.step, "images_seen": progress.position, "validation": found}
        state = {f"{name}.{key}": value for name, network in trained.items()
                 for key, value in network.state_dict().items()}  # fmt: skip
        save_part(folder, "hyperinverter.safetensors", state, domain, frozen=frozen, info=info, what=what)

    with (
        Run(output, config, progress.step) as run,
        tqdm(total=schedule.max_steps, initial=progress.step, mininterval=1, disable=not is_main()) as bar,
    ):
        counts = f"{len(train_data)} training and {len(validation_data)} validation images"
        run.log(f"Phase II on {place_of(device)}: {counts}", origin, *resumed.notes)
        run.log(*notes_on_photos(train_data, domain, progress.step))
        shown = sample_images(validation_data, train_data, 8, device)

        while progress.step < schedule.max_steps:
            # -- one step of E2 and the hypernetworks
            adversarial = gan.weight > 0 and progress.step >= gan.start_step
            if gan.weight > 0 and progress.step in (gan.start_step, gan.start_step + gan.cold_steps):
                progress.best.forget()  # another loss from here on; and the first adversarial steps are not to be kept
                why = "the adversarial term joins the loss" if progress.step == gan.start_step else "it has settled"
                run.log(f"step {progress.step}: tracking of the best model starts anew, {why}")
            due = due_at(progress.step + 1, schedule)
            batch_size = gan.batch_size if adversarial else schedule.batch_size
            images, _ = train_data.get(progress.position, batch_size)
            images, count = changes.photos(images.to(device)), config.gradient_accumulation
            set_rates(progress.step, schedule, rates)
            fakes.clear()
            edits: Sequence[Edits | None] = [None] * count
            if edits_weight > 0 and progress.step % config.edit_consistency_every == 0:
                reach, directed = config.edit_consistency_reach, config.edit_consistency_directed
                drawn = Edits.draw(model, len(images), reach, device, directions, directed)
                edits = drawn.split_microbatches(count)
            image_parts = list(zip(split_microbatches(images, count), edits, strict=True))
            values = step_over_parts(optimizer, reconstruct, image_parts, clip=config.gradient_clip, measure=due.look)

            # -- one step of D, on the fakes made before that update
            if adversarial and discriminator is not None:
                values |= discriminator_step(
                    discriminator,
                    optimizer_D,
                    images,
                    whole(fakes),
                    r1_weight=lazy_r1_weight(gan.r1_gamma, gan.r1_every, progress.step),
                    halved=gan.discriminator_loss == "released",
                    autocast=autocast,
                    clip=config.gradient_clip,
                    measure=due.look,
                    parts=count,
                )
            average_running_statistics(model.layerwise_encoder)
            progress.step += 1
            progress.position += batch_size
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
            for network in switched:
                network.eval()
            if due.images and is_main():
                with torch.no_grad(), autocast:
                    found = model(shown)
                grid = side_by_side(shown, found.w_image, found.reconstruction)
                run.images(progress.step, "input_phase1_phase2", grid, columns=6)
            if due.validation:
                found = validate(lambda images, _: measure(images), validation_data, schedule, device)
                if progress.log_validation(run, found):
                    write_model(output / "model", "best step so far" if found else "latest step", found)
                    if gan.weight > 0 and not adversarial and is_main():
                        best = output / "model" / "hyperinverter.safetensors"
                        copy_file(best, best.with_name("hyperinverter_before_adversarial.safetensors"))
            for network in switched:
                network.train()

            # -- save
            if due.save:
                save_state(run, config, trainer="phase2", frozen=used, progress=progress, parts=parts)
            if due.stop:
                run.stop(progress.step)

        # -- stop
        write_model(output / "model_last", "last step", progress.last_validation())
        run.log(*reports(train_data, validation_data), progress.conclusion(output))
    return progress.summary()
