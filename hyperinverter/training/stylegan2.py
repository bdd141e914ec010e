"""Train a StyleGAN2 generator and discriminator on one's own images: the generator that both inversion phases build on.

Non-saturating loss, lazy R1, path-length regularisation, style mixing, averaged generator, mirror flips.
Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (arXiv:1912.04958), sections 3
and appendix B; the averaging half-life counted in images and the R1 rule of thumb 0.0002 R^2 / batch follow Karras et
al., NeurIPS 2020 (arXiv:2006.06676), appendix C. Letters: N images, R pixels, L styles.
"""

import math
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.checkpoint import save_model
from hyperinverter.config.schema import DomainConfig, OptimizerConfig, StyleGAN2Config
from hyperinverter.data import open_training_data, reports
from hyperinverter.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    lazy_r1_weight,
    r1_penalty,
    real_and_fake_logits,
)
from hyperinverter.models.build import build_discriminator, build_generator
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.files import command_for
from hyperinverter.pretrained.load import load_discriminator, load_generator
from hyperinverter.releases.obtain import obtain
from hyperinverter.training.augment import Augmentation
from hyperinverter.training.common import Run, set_up
from hyperinverter.training.gan_validation import SampleDistance
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import (
    build_optimizer,
    set_rates,
    split_microbatches,
    step_over_parts,
)
from hyperinverter.training.progress import Progress, due_at, or_stop
from hyperinverter.training.resume import Parts, find_state, restore, save_state
from hyperinverter.training.start import notes_on_photos
from hyperinverter.training.state_checks import read_from
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
    device = set_up(config)
    domain, schedule = config.domain, config.schedule
    output, batch = Path(config.output), schedule.batch_size
    check_divides("schedule.batch_size", batch, config.gradient_accumulation)
    if config.path_length_every and config.path_length_weight:
        measured_on = batch // config.gradient_accumulation // config.path_length_batch_shrink
        check_divides("schedule.batch_size over path_length_batch_shrink", measured_on)
    networks = ["generator", "discriminator"]
    resumed = find_state(config, trainer="stylegan2", networks=networks, frozen={})
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
    mean_path_length = torch.zeros([], device=device)
    augment = Augmentation(config.augment, config.augment_target, config.augment_kimg, device)
    grid_z = torch.randn([64, G.z_dim], generator=torch.Generator().manual_seed(config.seed)).to(device)
    # before random states are restored: building its network draws random numbers
    distance = SampleDistance(photos, schedule.validation_images, batch, config.seed, device)

    # -- resume
    progress = restore(resumed, parts, rates, data=(data, photos))
    if resumed.state is not None:
        with read_from(f"{resumed.source}: the checkpoint of step {progress.step}"):
            mean_path_length.copy_(resumed.state["mean_path_length"].reshape([]))
            for name, value in resumed.state.get("augment", {}).items():
                augment.state[name].copy_(value)

    # -- what the two networks minimise, on a part of a batch; gradients of gradients stay in float32
    count, fakes, signs = config.gradient_accumulation, [], []  # of this step: images for D, and signs of its logits
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")

    def g_loss(drawn: tuple[Tensor, ...]) -> dict[str, Tensor]:
        with autocast:
            images = render(G, drawn, config.noise_mode)
            logits = D(augment(images)).float()
        fakes.append(images.detach())
        return {"loss": generator_loss(logits)}

    def path_length_loss(size: int) -> dict[str, Tensor]:
        penalty, mean = path_length_penalty(G, size, config.noise_mode, mean_path_length, decay=1 - 0.99 ** (1 / count))
        mean_path_length.copy_(mean)
        return {"loss": penalty * (config.path_length_weight * config.path_length_every), "penalty": penalty}

    def d_loss(pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        with autocast:
            real, fake = (logits.float() for logits in real_and_fake_logits(D, *map(augment, pair)))
        signs.append(real.detach().sign().mean())
        positive = (real > 0).float().mean()
        loss = discriminator_loss(real, fake)
        return {"loss": loss, "D_real": real.mean(), "D_fake": fake.mean(), "D_real_positive": positive}

    def r1_loss(images: Tensor) -> dict[str, Tensor]:
        images = augment(images).detach().requires_grad_(True)
        r1 = r1_penalty(images, D(images))
        return {"loss": r1 * lazy_r1_weight(config.r1_gamma, config.r1_every, progress.step), "r1": r1}

    # -- the loop
    with (
        Run(output, config, progress.step) as run,
        tqdm(total=schedule.max_steps, initial=progress.step, mininterval=1, disable=not is_main()) as bar,
    ):
        origin = f"resumed at step {progress.step}" if progress.step else f"from {config.init_from or 'random weights'}"
        run.log(f"StyleGAN2 on {place_of(device)}: {len(data)} training and {len(photos)} validation images; {origin}")
        if distance.name is None:
            run.log(f"no distance to held-out photos is measured: {distance.reason}")
        run.log(*resumed.notes, *notes_on_photos(data, domain, progress.step))
        if is_fresh and not progress.step:
            run.log(f"{config.init_from} holds no discriminator: a new one starts from random weights")
        while progress.step < schedule.max_steps:
            due = due_at(progress.step + 1, schedule)
            images, _ = data.get(progress.position, batch)
            reals, own = split_microbatches(images.to(device), count), batch // world_size()
            set_rates(progress.step, schedule, rates)

            # generator: its images should look real to D
            D.requires_grad_(False)
            fakes.clear()
            drawn = zip(
                *(split_microbatches(x, count) for x in draw(G, own, config.style_mixing_probability)), strict=True
            )
            found = step_over_parts(optimizer_G, g_loss, list(drawn), clip=config.gradient_clip, measure=due.look)
            values = {"loss_G": found["loss"], "gradient_norm_G": found["gradient_norm"]}
            if config.path_length_every and progress.step % config.path_length_every == 0 and config.path_length_weight:
                size = own // count // config.path_length_batch_shrink
                found = step_over_parts(optimizer_G, path_length_loss, [size] * count, clip=config.gradient_clip)
                values |= {"path_length": mean_path_length.clone(), "path_length_penalty": found["penalty"]}

            # discriminator: real against these generated images (new ones would cost a seventh more)
            D.requires_grad_(True)
            signs.clear()
            pairs = list(zip(reals, fakes, strict=True))
            found = step_over_parts(optimizer_D, d_loss, pairs, clip=config.gradient_clip, measure=due.look)
            values |= {"loss_D": found.pop("loss"), "gradient_norm_D": found.pop("gradient_norm"), **found}
            if lazy_r1_weight(config.r1_gamma, config.r1_every, progress.step) > 0:
                values["r1"] = step_over_parts(optimizer_D, r1_loss, reals, clip=config.gradient_clip)["r1"]
            if augment.kinds:
                augment.adjust(torch.stack(signs).mean(), batch)
                values |= {f"augment_{name}": value.clone() for name, value in augment.state.items()}

            # averaged generator
            progress.step += 1
            progress.position += batch
            blend(average, G, kept_share(progress.position, batch, config.ema_kimg, config.ema_rampup))
            both = cast(Tensor, values["loss_G"]) + cast(Tensor, values["loss_D"])
            progress.history.add(progress.step, {"loss": both, **values})
            bar.update()
            due = or_stop(due, progress.step, schedule)
            if not due.look:
                continue

            # log, pictures, distance, save
            progress.history.stop_if_not_finite(config, run.checkpoints)
            if due.log:
                progress.log_losses(run)
                bar.set_postfix({name: f"{progress.scalars[f'train/{name}']:.2f}" for name in ("loss_G", "loss_D")})
            if due.images and is_main():
                with torch.no_grad():
                    run.images(progress.step, "fakes", average(grid_z, truncation_psi=0.7))
            if due.validation:
                measured: dict[str, float] = {}
                if distance.name is not None:
                    measured["loss"] = measured[distance.name] = distance(average)
                if progress.log_validation(run, measured):
                    export(output / "model", average, D, domain, progress, measured)
            if due.save:  # the state last: once it is there, everything before it is
                export(output / "model_last", average, D, domain, progress, progress.last_validation())
                more = {"mean_path_length": mean_path_length, "augment": augment.state}
                save_state(run, config, trainer="stylegan2", frozen={}, progress=progress, parts=parts, more=more)
            if due.stop:
                run.stop(progress.step)
        then = command_for("w_encoder", domain.name, output / "model")
        run.log(*reports(data, photos), progress.conclusion(output, then))
    return progress.summary()


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


def synthesise(G: Generator, count: int, noise_mode: str, mixing_probability: float) -> Tensor:
    """Random images [N,3,R,R]; some take their finer styles from a second latent (style mixing). Updates w_avg.

    With several processes, `count` images of a batch that all of them make.
    """
    return render(G, draw(G, count, mixing_probability), noise_mode)


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


def export(
    folder: Path, G: Generator, D: Discriminator, domain: DomainConfig, progress: Progress, measured: dict[str, float]
) -> None:
    """Write the averaged generator and the discriminator as a model folder, in one process."""
    if not is_main():
        return
    head = {"domain": domain.name, "kind": domain.kind, "resolution": domain.resolution}
    head |= {"loss_resolution": domain.loss_resolution, "alignment": domain.alignment}
    info = {"trainer": "train_stylegan2", "step": progress.step, "images_seen": progress.position}
    info["validation"] = measured
    config = {**head, "generator": asdict(domain.generator)}
    digest = save_model(folder / "generator.safetensors", G, kind="generator", config=config, info=info)
    config = {**head, "discriminator": asdict(domain.discriminator)}
    needs = {"generator": digest}
    save_model(folder / "discriminator.safetensors", D, kind="discriminator", config=config, requires=needs, info=info)
