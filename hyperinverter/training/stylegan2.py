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

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.checkpoint import save_model
from hyperinverter.config.schema import DomainConfig, OptimizerConfig, StyleGAN2Config
from hyperinverter.data import open_training_data, reports
from hyperinverter.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from hyperinverter.models.build import build_discriminator, build_generator
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.load import load_discriminator, load_generator
from hyperinverter.training.common import Run, set_up
from hyperinverter.training.gan_validation import SampleDistance
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import backward_and_step, build_optimizer
from hyperinverter.training.progress import Progress, due_at, or_stop
from hyperinverter.training.resume import find_state, restore, save_state
from hyperinverter.utils import distributed
from hyperinverter.utils.device import place
from hyperinverter.utils.distributed import (
    check_divides,
    in_all_processes,
    is_main,
    own_rows,
    randn_rows,
    randn_rows_like,
    world_size,
)


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
    check_divides(schedule__batch_size=batch)
    if config.path_length_every and config.path_length_weight:
        check_divides(path_length_batch=batch // config.path_length_batch_shrink)
    networks = ["generator", "discriminator"]
    resumed = find_state(config, trainer="stylegan2", networks=networks, frozen={})
    data, photos = open_training_data(config.data, domain, config.seed)
    G, D = (place(network, device).train() for network in start_networks(config))
    average = deepcopy(G).eval().requires_grad_(False)
    rates = {
        "optimizer_G": lazy(config.optimizer, config.path_length_every),
        "optimizer_D": lazy(config.discriminator_optimizer, config.r1_every),
    }
    optimizer_G = build_optimizer(G.parameters(), rates["optimizer_G"])
    optimizer_D = build_optimizer(D.parameters(), rates["optimizer_D"])
    parts = {"G": G, "D": D, "average": average, "optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    mean_path_length = torch.zeros([], device=device)
    grid_z = torch.randn([64, G.z_dim], generator=torch.Generator().manual_seed(config.seed)).to(device)
    # before random states are restored: building its network draws random numbers
    distance = SampleDistance(photos, schedule.validation_images, batch, config.seed, device)

    # -- resume
    progress = restore(resumed, parts, {parts[name]: rate for name, rate in rates.items()})
    if resumed.state is not None:
        mean_path_length.copy_(resumed.state["mean_path_length"])

    # -- the loop
    with (
        Run(output, config, progress.step) as run,
        tqdm(total=schedule.max_steps, initial=progress.step, mininterval=1, disable=not is_main()) as bar,
    ):
        origin = f"resumed at step {progress.step}" if progress.step else f"from {config.init_from or 'random weights'}"
        run.log(f"StyleGAN2 on {device}: {len(data)} training and {len(photos)} validation images; {origin}")
        if distance.name is None:
            run.log(f"no distance to held-out photos is measured: {distance.reason}")
        run.log(*resumed.notes)
        while progress.step < schedule.max_steps:
            due = due_at(progress.step + 1, schedule)
            reals, _ = data.get(progress.position, batch)
            reals = reals.to(device)

            # generator: its images should look real to D
            D.requires_grad_(False)
            fakes = synthesise(G, batch // world_size(), config.noise_mode, config.style_mixing_probability)
            loss_G = generator_loss(D(fakes))
            norm = backward_and_step(optimizer_G, loss_G, clip=config.gradient_clip, measure=due.look)
            values = {"loss_G": loss_G, "gradient_norm_G": norm}
            if config.path_length_every and progress.step % config.path_length_every == 0 and config.path_length_weight:
                count = batch // config.path_length_batch_shrink // world_size()
                penalty, mean_path_length = path_length_penalty(G, count, config.noise_mode, mean_path_length)
                weight = config.path_length_weight * config.path_length_every
                backward_and_step(optimizer_G, penalty * weight, clip=config.gradient_clip)
                values |= {"path_length": mean_path_length, "path_length_penalty": penalty}

            # discriminator: real against these generated images (new ones would cost a seventh more)
            D.requires_grad_(True)
            real_logits, fake_logits = D(reals), D(fakes.detach())
            loss_D = discriminator_loss(real_logits, fake_logits)
            norm = backward_and_step(optimizer_D, loss_D, clip=config.gradient_clip, measure=due.look)
            values |= {"loss_D": loss_D, "gradient_norm_D": norm, "D_real": real_logits.mean()}
            values |= {"D_fake": fake_logits.mean(), "D_real_positive": (real_logits > 0).float().mean()}
            if config.r1_every and progress.step % config.r1_every == 0 and config.r1_gamma:
                images = reals.detach().requires_grad_(True)
                values["r1"] = r1_penalty(images, D(images))
                backward_and_step(
                    optimizer_D, values["r1"] * (config.r1_gamma / 2 * config.r1_every), clip=config.gradient_clip
                )

            # averaged generator
            progress.step += 1
            progress.position += batch
            half_life = config.ema_kimg * 1000
            if config.ema_rampup is not None:
                half_life = min(half_life, progress.position * config.ema_rampup)
            blend(average, G, 0.5 ** (batch / max(half_life, 1e-8)))
            progress.history.add(progress.step, {"loss": loss_G + loss_D, **values})
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
                value = distance(average) if distance.name else None
                found = {} if value is None else {"loss": value, distance.name: value}
                if progress.log_validation(run, found):
                    export(output / "model", average, D, domain, progress, found)
            if due.save:  # the state last: once it is there, everything before it is
                export(output / "model_last", average, D, domain, progress, progress.last_validation())
                more = {"mean_path_length": mean_path_length}
                save_state(run, config, trainer="stylegan2", frozen={}, progress=progress, parts=parts, more=more)
            if due.stop:
                run.stop(progress.step)
        run.log(*reports(data, photos), progress.conclusion(output))
    return progress.summary()


def start_networks(config: StyleGAN2Config) -> tuple[Generator, Discriminator]:
    """Random networks of the domain's sizes, or those of `init_from`."""
    if config.init_from:
        return load_generator(config.init_from, config.domain), load_discriminator(config.init_from, config.domain)
    return build_generator(config.domain), build_discriminator(config.domain)


def synthesise(G: Generator, count: int, noise_mode: str, mixing_probability: float) -> Tensor:
    """Random images [N,3,R,R]; some take their finer styles from a second latent (style mixing). Updates w_avg.

    With several processes, `count` images of a batch that all of them make.
    """
    device = G.mapping.w_avg.device
    ws = G.mapping(randn_rows(count, G.z_dim, shared=True, device=device), update_w_avg=True)  # [N, L, w_dim]
    if mixing_probability > 0:
        other = G.mapping(randn_rows(count, G.z_dim, shared=True, device=device))
        whole = [count * world_size(), 1, 1]
        crossover = own_rows(torch.randint(1, G.num_ws, whole, device=device))
        mixed = own_rows(torch.rand(whole, device=device)) < mixing_probability
        layer = torch.arange(G.num_ws, device=device).view(1, -1, 1)
        ws = torch.where(mixed & (layer >= crossover), other, ws)
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
    device = G.mapping.w_avg.device
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
