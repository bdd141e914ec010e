"""Phase II: train E2 and the hypernetworks, which change the generator's weights per image, with E1 and G frozen.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), sections 3.2, 3.3 (equations 7 to 9) and 4.1, and the
released training loop: Adam at 1e-4, batch 8; from `adversarial.start_step` on batch 4, a discriminator that starts
from StyleGAN2's and sees the same fakes, half the sum of its two terms (equation 9 is the sum, which the key
`adversarial.discriminator_loss` gives), lazy R1 in a step of its own. Unlike in the released loop no step runs twice, a
resumed run has the right batch, G keeps no gradients, and best-model tracking restarts at two exact steps whether or
not they validate. Beyond the paper, and off unless set: `edit_consistency`. Letters: N images, R pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperinverter.config.schema import AdversarialConfig, Phase2Config
from hyperinverter.data.loader import open_training_data
from hyperinverter.data.sources import check_training_data
from hyperinverter.losses import TotalLoss, build_losses
from hyperinverter.losses.adversarial import generator_loss, lazy_r1_weight
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.ops.batch_norm import synchronised
from hyperinverter.training.common import Run, set_up
from hyperinverter.training.discriminator import discriminator_step
from hyperinverter.training.edit_consistency import Edits, edit_consistency, load_steps, with_edits
from hyperinverter.training.export import export_part
from hyperinverter.training.gradient_basis import start_from_gradients
from hyperinverter.training.guard import guarded
from hyperinverter.training.loop import Trainee, fit
from hyperinverter.training.optim import build_optimizer, step_over_parts, whole
from hyperinverter.training.progress import Progress
from hyperinverter.training.resume import Parts, find_state
from hyperinverter.training.start import (
    load_discriminator_of_losses,
    open_later_passes,
    photo_resolution,
    start_discriminator,
    start_hyperinverter,
    training_resolution,
)
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import check_divides, in_all_processes, is_main
from hyperinverter.utils.files import copy_file

# of a training state, from the start where the config has an adversarial term
ADVERSARIAL_PARTS = ("discriminator", "optimizer_D")


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
    result = model(images)
    reconstruction = result.reconstruction.float()
    total, parts = losses(reconstruction, images)
    if edits is not None:
        inconsistency = edit_consistency(
            model, result, edits, losses.loss_resolution, relative=edits_relative, bands=edits_bands
        )
        total = total + edits_weight * inconsistency
        parts = {**parts, "edit_consistency": inconsistency}
    if discriminator is not None:
        chunks = reconstruction.split(group or len(reconstruction))
        adversarial = generator_loss(torch.cat([discriminator(chunk) for chunk in chunks]).float())
        total = total + adversarial_weight * adversarial
        parts = {**parts, "adversarial": adversarial}
    return {"loss": total, **parts}, reconstruction


@dataclass
class Objective:
    """What Phase II minimises, on a part of a training batch and on validation images.

    Attributes:
        discriminator: None where the config has no adversarial term.
        is_adversarial: whether that term has joined the loss.
        fakes: reconstructions [N,3,R,R] of the parts of this step, for the discriminator.
    """

    model: HyperInverterNetwork
    losses: TotalLoss
    discriminator: Discriminator | None
    config: Phase2Config
    autocast: torch.autocast
    is_adversarial: bool = False
    fakes: list[Tensor] = field(default_factory=list)

    def of_part(self, part: tuple[Tensor, Edits | None]) -> dict[str, Tensor]:
        images, edits = part
        config, discriminator = self.config, self.discriminator if self.is_adversarial else None
        with self.autocast:
            values, fakes = encoder_losses(
                self.model,
                self.losses,
                images,
                discriminator,
                config.adversarial.weight,
                edits=edits,
                edits_weight=config.edit_consistency_weight * config.edit_consistency_every,
                edits_relative=config.edit_consistency_relative,
                edits_bands=config.edit_consistency_bands,
            )
        self.fakes.append(fakes.detach())
        return values

    def of_validation(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        gan, discriminator = self.config.adversarial, self.discriminator if self.is_adversarial else None
        group = self.config.domain.discriminator.mbstd_group_size or gan.batch_size
        with self.autocast:
            return encoder_losses(self.model, self.losses, images, discriminator, gan.weight, group)[0]

    @torch.no_grad()
    def pictures(self, images: Tensor, names: list[str]) -> list[Tensor]:
        """Input, Phase I and Phase II of images [N,3,R,R]."""
        with self.autocast:
            output = self.model(images)
        return [images, output.w_image, output.reconstruction]


def forget_best_before_another_loss(gan: AdversarialConfig, progress: Progress, run: Run) -> None:
    """At the steps from which losses no longer compare with those before; the first adversarial ones are not kept."""
    if gan.weight > 0 and progress.step in (gan.start_step, gan.start_step + gan.cold_steps):
        progress.best.forget()
        why = "the adversarial term joins the loss" if progress.step == gan.start_step else "it has settled"
        run.log(f"step {progress.step}: tracking of the best model starts anew, {why}")


def update_discriminator(
    objective: Objective, optimizer: torch.optim.Optimizer, images: Tensor, step: int, *, measure: bool
) -> dict[str, Tensor | None]:
    """`discriminator_step` as the config says, on a batch and the reconstructions that this step made of it."""
    config, gan = objective.config, objective.config.adversarial
    assert objective.discriminator is not None
    return discriminator_step(
        objective.discriminator,
        optimizer,
        images,
        whole(objective.fakes),
        r1_weight=lazy_r1_weight(gan.r1_gamma, gan.r1_every, step),
        autocast=objective.autocast,
        halved=gan.discriminator_loss == "released",
        clip=config.gradient_clip,
        measure=measure,
        parts=config.gradient_accumulation,
    )


@in_all_processes
@guarded
def train(config: Phase2Config) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best networks go to `<output>/model`, the last to `<output>/model_last`.

    With an adversarial loss the best before `start_step` stays in `model/hyperinverter_before_adversarial.safetensors`.
    Result and errors are those of Phase I's.
    """
    device, domain, gan = set_up(config), config.domain, config.adversarial
    check_divides("schedule.batch_size", config.schedule.batch_size, config.gradient_accumulation)
    if gan.weight > 0:
        check_divides("adversarial.batch_size", gan.batch_size, config.gradient_accumulation)
    check_training_data(config.data)
    start = start_hyperinverter(domain, config.init_from)
    discriminator, used = load_discriminator_of_losses(config, start.frozen)
    names = config.edit_consistency_directions if config.edit_consistency_weight > 0 else []
    directions, hashes = load_steps(domain, names, start.frozen["generator"], device)
    used = {**used, **hashes}
    networks = ["generator", "w_encoder", "layerwise_encoder", "hypernetwork"] + ["discriminator"] * (gan.weight > 0)
    resumed = find_state(config, trainer="phase2", networks=networks, frozen=used)
    model = to_device(start.model, device).train()
    model.generator.synthesis.recompute_from_px = config.recompute_from_px
    model.layerwise_encoder = synchronised(model.layerwise_encoder, config.sync_batchnorm)
    losses = build_losses(config.loss_weights, discriminator=discriminator, loss_resolution=domain.loss_resolution)
    losses = losses.to(device).eval()
    model.draws_px = size = training_resolution(model.generator, domain, losses, is_adversarial=gan.weight > 0)
    seen_px = photo_resolution(size, domain)
    data = open_training_data(config.data, domain, config.seed, model.generator, device, seen_px)
    optimizer = build_optimizer(model.trainable_parameters(), config.optimizer)
    trained = nn.ModuleDict({"layerwise_encoder": model.layerwise_encoder, "hypernetwork": model.hypernetwork})
    parts: Parts = {**dict(trained.items()), "optimizer": optimizer}
    rates = {optimizer: config.optimizer}
    if gan.weight > 0:
        discriminator, optimizer_D = start_discriminator(config, discriminator, device)
        parts |= dict(zip(ADVERSARIAL_PARTS, (discriminator, optimizer_D), strict=True))
        rates[optimizer_D] = gan.optimizer
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    objective = Objective(model, losses, discriminator, config, autocast)
    origin = start.origin
    if resumed.state is None and start.is_new and domain.hypernetwork.init == "gradients":
        origin += "; " + start_from_gradients(model, losses, data[0])
    if resumed.state is None and start.is_extended:
        origin += "; " + open_later_passes(model, losses, data[0])

    def begin(progress: Progress, run: Run) -> int:
        objective.is_adversarial = gan.weight > 0 and progress.step >= gan.start_step
        forget_best_before_another_loss(gan, progress, run)
        return gan.batch_size if objective.is_adversarial else config.schedule.batch_size

    def update(images: Tensor, _: Sequence[str], step: int, measure: bool) -> dict[str, Tensor | None]:
        """One step of E2 and the hypernetworks, and one of D, on the fakes made before that update."""
        pairs = with_edits(config, model, images, step, directions)
        objective.fakes.clear()
        values = step_over_parts(optimizer, objective.of_part, pairs, clip=config.gradient_clip, measure=measure)
        if objective.is_adversarial:
            values |= update_discriminator(objective, optimizer_D, images, step, measure=measure)
        return values

    def write(folder: Path, progress: Progress, measured: dict[str, float] | None) -> None:
        export_part("hyperinverter", trained, domain, start.frozen, folder, progress, measured)
        if measured is not None and gan.weight > 0 and not objective.is_adversarial and is_main():
            best = folder / "hyperinverter.safetensors"
            copy_file(best, best.with_name("hyperinverter_before_adversarial.safetensors"))

    trainee = Trainee(
        trainer="phase2",
        title="Phase II",
        network=nn.ModuleList([model] if discriminator is None or gan.weight == 0 else [model, discriminator]),
        parts=parts,
        rates=rates,
        frozen=used,
        origin=origin,
        update=update,
        measure=objective.of_validation,
        draw=objective.pictures,
        pictures="input_phase1_phase2",
        write=write,
        then=f"{command_of('evaluate')} model={Path(config.output) / 'model'} data.root=FOLDER",
        begin=begin,
        may_be_missing=ADVERSARIAL_PARTS,
    )
    return fit(config, trainee, resumed, data, device)
