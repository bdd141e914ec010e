"""Train a StyleGAN2 generator and discriminator on one's own images: the generator that both inversion phases build on.

Non-saturating loss, lazy R1, path-length regularisation, style mixing, averaged generator, mirror flips.
Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (arXiv:1912.04958), sections 3
and appendix B; the averaging half-life counted in images and the R1 rule of thumb 0.0002 R^2 / batch follow Karras et
al., NeurIPS 2020 (arXiv:2006.06676), appendix C. Letters: N images, R pixels, L styles.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hyperinverter.config.schema import OptimizerConfig, StyleGAN2Config
from hyperinverter.data.loader import open_training_data, reports
from hyperinverter.losses.adversarial import generator_loss, lazy_r1_weight
from hyperinverter.models.build import build_discriminator, build_generator
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.files import command_for
from hyperinverter.pretrained.load import load_discriminator, load_generator
from hyperinverter.releases.obtain import obtain
from hyperinverter.training.augment import Augmentation
from hyperinverter.training.common import set_up
from hyperinverter.training.discriminator import discriminator_step
from hyperinverter.training.export import export_gan
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import build_optimizer, set_rates, split_microbatches, step_over_parts, whole
from hyperinverter.training.progress import due_at, open_run
from hyperinverter.training.resume import Parts, Resumed, find_state, restore, save_state
from hyperinverter.training.start import notes_on_photos
from hyperinverter.training.state_checks import read_from
from hyperinverter.training.validation import SampleDistance
from hyperinverter.utils import distributed
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import (
    check_divides,
    in_all_processes,
    is_main,
    own_rows,
    place_of,
    randn_rows,
    randn_rows_like,
    world_size,
)
from hyperinverter.utils.text import expanded


@in_all_processes
@guarded
def train(config: StyleGAN2Config) -> dict[str, float]:
    """Train until `schedule.max_steps`; the averaged generator and D nearest to held-out photos go to `<output>/model`.

    The last ones go to `<output>/model_last`; without a distance to held-out photos both folders hold the last ones.

    Returns:
        The last logged scalars ("train/..."), the last distance ("validation/..."), "best/loss", "best/step".
    Raises:
        UserError: the losses are no longer finite, the checkpoint does not fit the config, or the data cannot be used.
        FileNotFoundError: the photos or the weights to continue from are not there.
    """
    # -- set up: networks, data, optimisers
    device, domain, output = set_up(config), config.domain, Path(config.output)
    schedule, batch = config.schedule, config.schedule.batch_size
    check_batch(config)
    resumed = find_state(config, trainer="stylegan2", networks=["generator", "discriminator"], frozen={})
    data, photos = open_training_data(config.data, domain, config.seed, device=device)
    G, D, is_fresh = start_networks(config)
    G, D = to_device(G, device).train(), to_device(D, device).train()
    average = deepcopy(G).eval().requires_grad_(False)
    G.synthesis.recompute_from_px = D.recompute_from_px = config.recompute_from_px
    rate_G = lazy(config.optimizer, config.path_length_every)
    rate_D = lazy(config.discriminator_optimizer, config.r1_every)
    optimizer_G, optimizer_D = build_optimizer(G.parameters(), rate_G), build_optimizer(D.parameters(), rate_D)
    rates = {optimizer_G: rate_G, optimizer_D: rate_D}
    parts: Parts = {"G": G, "D": D, "average": average, "optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    augment = Augmentation(config.augment, config.augment_target, config.augment_kimg, device)
    objective = Objective(config, G, D, augment, torch.zeros([], device=device))
    grid_z = torch.randn([64, G.z_dim], generator=torch.Generator().manual_seed(config.seed)).to(device)
    # before random states are restored: building its network draws random numbers
    distance = SampleDistance(photos, schedule.validation_images, batch, config.seed, device)

    # -- resume
    progress = restore(resumed, parts, rates, data=(data, photos))
    objective.restore(resumed)
    origin = f"resumed at step {progress.step}" if progress.step else f"from {config.init_from or 'random weights'}"

    with open_run(config, progress) as (run, bar):
        run.log(f"StyleGAN2 on {place_of(device)}: {progress.data()}; {origin}")
        if distance.name is None:
            run.log(f"no distance to held-out photos is measured: {distance.reason}")
        run.log(*resumed.notes, *notes_on_photos(data, domain, progress.step))
        if is_fresh and not progress.step:
            run.log(f"{config.init_from} holds no discriminator: a new one starts from random weights")

        while progress.step < schedule.max_steps:
            # -- one step of G, of D, and of the averaged generator
            due = due_at(progress.step + 1, schedule)
            images = data.get(progress.position, batch)[0].to(device)
            set_rates(progress.step, schedule, rates)
            values = update_generator(objective, optimizer_G, progress.step, measure=due.look)
            values |= update_discriminator(objective, optimizer_D, images, progress.step, measure=due.look)
            blend(average, G, kept_share(progress.position + batch, batch, config.ema_kimg, config.ema_rampup))
            values["loss"] = cast(Tensor, values["loss_G"]) + cast(Tensor, values["loss_D"])
            due = progress.step_done(due, schedule, values, images=batch)
            bar.update()
            if not due.look:
                continue

            # -- log
            progress.history.stop_if_not_finite(config, run.checkpoints)
            if due.log:
                progress.log_losses(run)
                bar.set_postfix({name: f"{progress.scalars[f'train/{name}']:.2f}" for name in ("loss_G", "loss_D")})

            # -- pictures, distance to held-out photos, best model
            if due.images and is_main():
                with torch.no_grad():
                    run.images(progress.step, "fakes", average(grid_z, truncation_psi=0.7))
            if due.validation:
                measured: dict[str, float] = {}
                if distance.name is not None:
                    measured["loss"] = measured[distance.name] = distance(average)
                if progress.log_validation(run, measured):
                    export_gan(output / "model", average, D, domain, progress, measured)

            # -- save, the state last: once it is there, everything before it is
            if due.save:
                export_gan(output / "model_last", average, D, domain, progress, progress.last_validation())
                more = objective.state()
                save_state(run, config, trainer="stylegan2", frozen={}, progress=progress, parts=parts, more=more)
            if due.stop:
                run.stop(progress.step)

        then = command_for("w_encoder", domain.name, output / "model")
        run.log(*reports(data, photos), progress.conclusion(output, then))
    return progress.summary()


@dataclass
class Objective:
    """What the two networks minimise, on a part of a batch; gradients of gradients stay in float32.

    Attributes:
        mean_path_length: running mean [] of path lengths.
        fakes: images [N,3,R,R] of the generator's parts of this step, which D sees next.
    """

    config: StyleGAN2Config
    G: Generator
    D: Discriminator
    augment: Augmentation
    mean_path_length: Tensor
    fakes: list[Tensor] = field(default_factory=list)

    def g_loss(self, drawn: tuple[Tensor, ...]) -> dict[str, Tensor]:
        with self.autocast:
            images = render(self.G, drawn, self.config.noise_mode)
            logits = self.D(self.augment(images)).float()
        self.fakes.append(images.detach())
        return {"loss": generator_loss(logits)}

    def path_length_loss(self, size: int) -> dict[str, Tensor]:
        config, decay = self.config, 1 - 0.99 ** (1 / self.config.gradient_accumulation)
        penalty, mean = path_length_penalty(self.G, size, config.noise_mode, self.mean_path_length, decay=decay)
        self.mean_path_length.copy_(mean)
        return {"loss": penalty * (config.path_length_weight * config.path_length_every), "penalty": penalty}

    @property
    def autocast(self) -> torch.autocast:
        device, is_half = self.mean_path_length.device.type, self.config.precision == "bf16"
        return torch.autocast(device, torch.bfloat16, enabled=is_half)

    def state(self) -> dict[str, Any]:
        """Running values, for a training state."""
        return {"mean_path_length": self.mean_path_length, "augment": self.augment.state}

    def restore(self, resumed: Resumed) -> None:
        if resumed.state is None:
            return
        with read_from(f"{resumed.source}: the checkpoint of step {resumed.state['step']}"):
            self.mean_path_length.copy_(resumed.state["mean_path_length"].reshape([]))
            for name, value in resumed.state.get("augment", {}).items():
                self.augment.state[name].copy_(value)


def update_generator(
    objective: Objective, optimizer: torch.optim.Optimizer, step: int, *, measure: bool
) -> dict[str, Tensor | None]:
    """One step towards images that look real to D, then one on path lengths where they are due."""
    config, G, count = objective.config, objective.G, objective.config.gradient_accumulation
    own = config.schedule.batch_size // world_size()
    objective.D.requires_grad_(False)
    objective.fakes.clear()
    parts = (split_microbatches(x, count) for x in draw(G, own, config.style_mixing_probability))
    drawn = list(zip(*parts, strict=True))
    output = step_over_parts(optimizer, objective.g_loss, drawn, clip=config.gradient_clip, measure=measure)
    values = {"loss_G": output["loss"], "gradient_norm_G": output["gradient_norm"]}
    if config.path_length_every and step % config.path_length_every == 0 and config.path_length_weight:
        sizes = [own // count // config.path_length_batch_shrink] * count
        output = step_over_parts(optimizer, objective.path_length_loss, sizes, clip=config.gradient_clip)
        values |= {"path_length": objective.mean_path_length.clone(), "path_length_penalty": output["penalty"]}
    return values


def update_discriminator(
    objective: Objective, optimizer: torch.optim.Optimizer, reals: Tensor, step: int, *, measure: bool
) -> dict[str, Tensor | None]:
    """One step on photos [N,3,R,R] against G's images of this step (new ones would cost a seventh more), then R1.

    R1 is left out in steps where it is not due.
    """
    config, augment = objective.config, objective.augment
    values = discriminator_step(
        objective.D,
        optimizer,
        reals,
        whole(objective.fakes),
        r1_weight=lazy_r1_weight(config.r1_gamma, config.r1_every, step),
        autocast=objective.autocast,
        halved=False,
        clip=config.gradient_clip,
        measure=measure,
        parts=config.gradient_accumulation,
        change=augment,
        tell=lambda real: {"D_real_positive": (real > 0).float().mean(), "sign": real.sign().mean()},
    )
    sign = cast(Tensor, values.pop("sign"))
    if augment.kinds:
        augment.adjust(sign, config.schedule.batch_size)
        values |= {f"augment_{name}": value.clone() for name, value in augment.state.items()}
    return values


def check_batch(config: StyleGAN2Config) -> None:
    """Refuse a batch that processes, microbatches or the path length cannot share."""
    batch = config.schedule.batch_size
    check_divides("schedule.batch_size", batch, config.gradient_accumulation)
    if config.path_length_every and config.path_length_weight:
        measured_on = batch // config.gradient_accumulation // config.path_length_batch_shrink
        check_divides("schedule.batch_size over path_length_batch_shrink", measured_on)


def start_networks(config: StyleGAN2Config) -> tuple[Generator, Discriminator, bool]:
    """Random networks of the domain's sizes, or those of `init_from`; and whether that has no discriminator.

    A new one takes its place: of many published generators there is none.
    """
    if not config.init_from:
        return cast(Generator, build_generator(config.domain)), build_discriminator(config.domain), False
    G = load_generator(obtain(config.init_from, "generator"), config.domain)
    path = expanded(config.init_from)
    try:
        source = obtain(path.parent if path.is_file() else config.init_from, "discriminator")
        return G, load_discriminator(source, config.domain), False
    except FileNotFoundError:
        return G, build_discriminator(config.domain), True


def draw(G: Generator, count: int, mixing_probability: float) -> tuple[Tensor, ...]:
    """What `render` makes images of: latents [N, z_dim], second latents, and from which layer on they decide [N, 1, 1].

    Without style mixing the first alone. With several processes, `count` images of a batch that all of them make.
    """
    device = next(G.parameters()).device
    z = randn_rows(count, G.z_dim, shared=True, device=device)
    if mixing_probability == 0:
        return (z,)
    other = randn_rows(count, G.z_dim, shared=True, device=device)
    everyone = [count * world_size(), 1, 1]
    crossover = own_rows(torch.randint(1, G.num_ws, everyone, device=device))
    mixed = own_rows(torch.rand(everyone, device=device)) < mixing_probability
    return z, other, crossover.where(mixed, torch.full_like(crossover, G.num_ws))


def render(G: Generator, drawn: tuple[Tensor, ...], noise_mode: str) -> Tensor:
    """Images [N,3,R,R] of what `draw` gave, or of a part of it. Updates w_avg."""
    z, *mixing = drawn
    ws = G.mapping(z, update_w_avg=True)  # [N, L, w_dim]
    if mixing:
        other, crossover = mixing
        layer = torch.arange(G.num_ws, device=ws.device).view(1, -1, 1)
        ws = torch.where(layer >= crossover, G.mapping(other), ws)
    return G.synthesis(ws, noise_mode=noise_mode)


def path_length_penalty(
    G: Generator, count: int, noise_mode: str, mean: Tensor, decay: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Squared distance of |J^T y| from its running mean, y random image noise.

    Args:
        count: images of this process to measure on; at least one is taken.
        mean: running mean of the path length, [].
    Returns:
        Penalty [] and the updated running mean [] (detached).
    Source: Karras et al., CVPR 2020, section 3.2, equation 4.
    """
    device = next(G.parameters()).device
    ws = G.mapping(randn_rows(max(count, 1), G.z_dim, shared=True, device=device))
    images = G.synthesis(ws, noise_mode=noise_mode)
    noise = randn_rows_like(images, shared=True) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)  # [N, L, w_dim]
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = mean.lerp(distributed.average(lengths.mean().detach()), decay)
    return (lengths - mean).square().mean(), mean


def lazy(config: OptimizerConfig, every: int) -> OptimizerConfig:
    """Adam's rate and momenta that allow for a regularisation step every `every` steps (Karras 2020, appendix B)."""
    ratio = every / (every + 1) if every else 1.0
    return replace(config, lr=config.lr * ratio, betas=[beta**ratio for beta in config.betas])


def kept_share(images_seen: int, batch: int, kimg: float, rampup: float | None) -> float:
    """How much of the averaged generator a step keeps, 0 to 1 (Karras 2020, appendix B; the ramp-up is ADA's).

    Args:
        images_seen: since the start of training, with this step's.
        batch: images of this step.
        kimg: half-life: after so many thousand images a half is left.
        rampup: early on the half-life is only this part of the images seen, so that random weights are soon gone;
            None: from the start as long as later.
    """
    half_life = kimg * 1000 if rampup is None else min(kimg * 1000, images_seen * rampup)
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def blend(average: Generator, current: Generator, keep: float) -> None:
    """average <- keep * average + (1 - keep) * current for parameters; buffers (w_avg, noise) are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - keep)
    for old, new in zip(average.buffers(), current.buffers(), strict=True):
        old.copy_(new)
