"""Train a StyleGAN2 generator and discriminator on one's own images: the generator that both inversion phases build on.

Non-saturating loss, lazy R1, path-length regularisation, style mixing, averaged generator, mirror flips.
Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (arXiv:1912.04958), sections 3
and appendix B; the averaging half-life counted in images and the R1 rule of thumb 0.0002 R^2 / batch follow Karras et
al., NeurIPS 2020 (arXiv:2006.06676), appendix C. Letters: N images, R pixels, L styles.
"""

import math
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from tqdm import tqdm

from hyperinverter.checkpoint import load_training_state, rng_state, save_model, save_training_state, set_rng_state
from hyperinverter.config.schema import DomainConfig, OptimizerConfig, StyleGAN2Config
from hyperinverter.data import open_training_data
from hyperinverter.losses.adversarial import generator_loss, r1_penalty
from hyperinverter.models.build import build_discriminator, build_generator
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.load import load_discriminator, load_generator
from hyperinverter.training.common import Run, set_up
from hyperinverter.training.gan_validation import SampleDistance
from hyperinverter.training.resume import forget_later_stats
from hyperinverter.utils.errors import UserError


def train(config: StyleGAN2Config) -> dict[str, float]:
    """Train until `schedule.max_steps`; the averaged generator and D nearest to held-out photos go to `<output>/model`.

    The last ones go to `<output>/model_last`; without held-out photos both folders hold the last ones.

    Returns:
        The last logged scalars.
    Raises:
        UserError: the losses are no longer finite, or the data cannot be used; says what to do.
    """
    # -- set up: networks, data, optimisers
    device = set_up(config)
    domain, schedule = config.domain, config.schedule
    batch = schedule.batch_size
    data, photos = open_training_data(config.data, domain, config.seed)
    if config.init_from:
        G = load_generator(config.init_from, domain).to(device)
        D = load_discriminator(config.init_from, domain).to(device)
    else:
        G, D = build_generator(domain).to(device), build_discriminator(domain).to(device)
    if device.type == "cpu":  # convolutions of the CPU library run up to twice as fast with channels innermost
        G, D = G.to(memory_format=torch.channels_last), D.to(memory_format=torch.channels_last)
    average = deepcopy(G).eval().requires_grad_(False)
    opt_G = lazy_adam(G, config.optimizer, config.path_length_every)
    opt_D = lazy_adam(D, config.discriminator_optimizer, config.r1_every)
    mean_path_length = r1 = torch.zeros([], device=device)
    grid_z = torch.randn([64, domain.generator.z_dim], generator=torch.Generator().manual_seed(config.seed)).to(device)

    # -- resume
    step, best = 0, math.inf
    checkpoints = Path(config.output) / "checkpoints"
    if config.resume != "never":
        state = load_training_state(checkpoints if config.resume == "auto" else config.resume)
        if state is not None:
            if state["sizes"] != sizes(domain):
                raise UserError(
                    f"{config.output}: its checkpoint is of other networks ({state['sizes']}) than this config "
                    f"({sizes(domain)}); give another output, or the same sizes"
                )
            for name, part in {"G": G, "D": D, "average": average, "opt_G": opt_G, "opt_D": opt_D}.items():
                part.load_state_dict(state[name])
            mean_path_length.copy_(state["mean_path_length"])
            set_rng_state(state["rng"])
            step, best = state["step"], state.get("best", math.inf)
            forget_later_stats(Path(config.output), step)
    distance = SampleDistance(photos, schedule.validation_images, batch, config.seed, device)
    scalars: dict[str, float] = {}

    # -- the loop
    with Run(config.output, config) as run, tqdm(total=schedule.max_steps, initial=step, mininterval=1) as bar:
        run.log(f"{'resumed at' if step else 'start at'} step {step}, {device}, {len(data)} training images")
        if distance.name is None:
            run.log(f"no distance to held-out photos is measured: {distance.reason}")
        while step < schedule.max_steps:
            real, _ = data.get(step * batch, batch)
            real = real.to(device)

            # generator: its images should look real to D
            D.requires_grad_(False)
            fake = synthesise(G, batch, config.noise_mode, config.style_mixing_probability)
            loss_G = generator_loss(D(fake))
            update(opt_G, loss_G, G, config.gradient_clip)
            if config.path_length_every and step % config.path_length_every == 0 and config.path_length_weight:
                path_loss, mean_path_length = path_length_penalty(
                    G, batch // config.path_length_batch_shrink, config.noise_mode, mean_path_length
                )
                update(
                    opt_G, path_loss * (config.path_length_weight * config.path_length_every), G, config.gradient_clip
                )

            # discriminator: real against these generated images (new ones would cost a seventh more)
            D.requires_grad_(True)
            logits_real, logits_fake = D(real), D(fake.detach())
            loss_D = softplus(-logits_real).mean() + softplus(logits_fake).mean()
            update(opt_D, loss_D, D, config.gradient_clip)
            if config.r1_every and step % config.r1_every == 0:
                images = real.detach().requires_grad_(True)
                r1 = r1_penalty(images, D(images))
                update(opt_D, r1 * (config.r1_gamma / 2 * config.r1_every), D, config.gradient_clip)

            # averaged generator
            step += 1
            half_life = config.ema_kimg * 1000
            if config.ema_rampup is not None:
                half_life = min(half_life, step * batch * config.ema_rampup)
            blend(average, G, 0.5 ** (batch / max(half_life, 1e-8)))
            bar.update()

            # log, pictures, save
            if step % schedule.log_every == 0 or step == 1 or step == schedule.max_steps:
                scalars = {
                    "loss/G": loss_G.item(),
                    "loss/D": loss_D.item(),
                    "D/real": logits_real.mean().item(),
                    "D/fake": logits_fake.mean().item(),
                    "D/real_positive": (logits_real > 0).float().mean().item(),
                    "loss/r1": r1.item(),
                    "path_length": mean_path_length.item(),
                    "images": float(step * batch),
                }
                stop_when_not_finite(scalars, step, checkpoints)
                run.scalars(step, scalars)
                bar.set_postfix(
                    G=f"{scalars['loss/G']:.2f}", D=f"{scalars['loss/D']:.2f}", kimg=f"{step * batch / 1000:.1f}"
                )
            if step % schedule.images_every == 0 or step == schedule.max_steps:
                with torch.no_grad():
                    run.images(step, "fakes", average(grid_z, truncation_psi=0.7))
            if distance.name and (step % schedule.validate_every == 0 or step == schedule.max_steps):
                found = distance(average)
                run.scalars(step, {f"validation/{distance.name}": found, "images": float(step * batch)})
                run.log(f"step {step}: {distance.name} {found:.3f}, best before {best:.3f}")
                if found < best:
                    best = found
                    export(Path(config.output) / "model", average, D, domain, step * batch, {distance.name: found})
            if step % schedule.save_every == 0 or step == schedule.max_steps:
                stop_when_not_finite({"loss/G": loss_G.item(), "loss/D": loss_D.item()}, step, checkpoints)
                state = {
                    "sizes": sizes(domain),
                    "G": G.state_dict(),
                    "D": D.state_dict(),
                    "average": average.state_dict(),
                    "opt_G": opt_G.state_dict(),
                    "opt_D": opt_D.state_dict(),
                    "mean_path_length": mean_path_length,
                    "best": best,
                    "rng": rng_state(),
                }
                save_training_state(run.checkpoints, step, state, schedule.keep_checkpoints)
                export(Path(config.output) / "model_last", average, D, domain, step * batch)
                if distance.name is None:
                    export(Path(config.output) / "model", average, D, domain, step * batch)
        run.log(f"done at step {step}: {scalars}")
    return scalars


def synthesise(G: Generator, count: int, noise_mode: str, mixing_probability: float) -> Tensor:
    """Random images [N,3,R,R]; some take their finer styles from a second latent (style mixing). Updates w_avg."""
    device = G.mapping.w_avg.device
    ws = G.mapping(torch.randn([count, G.z_dim], device=device), update_w_avg=True)  # [N, L, w_dim]
    if mixing_probability > 0:
        other = G.mapping(torch.randn([count, G.z_dim], device=device))
        crossover = torch.randint(1, G.num_ws, [count, 1, 1], device=device)
        mixed = torch.rand([count, 1, 1], device=device) < mixing_probability
        layer = torch.arange(G.num_ws, device=device).view(1, -1, 1)
        ws = torch.where(mixed & (layer >= crossover), other, ws)
    return G.synthesis(ws, noise_mode=noise_mode)


def path_length_penalty(
    G: Generator, count: int, noise_mode: str, mean: Tensor, decay: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Squared distance of |J^T y| from its running mean, y random image noise.

    Args:
        count: images to measure on; at least one is taken.
        mean: running mean of the path length, [].
    Returns:
        Penalty [] and the updated running mean [] (detached).
    Source: Karras et al., CVPR 2020, section 3.2, equation 4.
    """
    device = G.mapping.w_avg.device
    ws = G.mapping(torch.randn([max(count, 1), G.z_dim], device=device))
    images = G.synthesis(ws, noise_mode=noise_mode)
    noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)  # [N, L, w_dim]
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = mean.lerp(lengths.mean().detach(), decay)
    return (lengths - mean).square().mean(), mean


def lazy_adam(module: nn.Module, config: OptimizerConfig, every: int) -> torch.optim.Adam:
    """Adam whose rate and momenta allow for a regularisation step every `every` steps (Karras 2020, appendix B)."""
    ratio = every / (every + 1) if every else 1.0
    betas = tuple(beta**ratio for beta in config.betas)
    return torch.optim.Adam(module.parameters(), lr=config.lr * ratio, betas=betas, eps=config.eps)


def update(optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module, clip: float | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()


@torch.no_grad()
def blend(average: Generator, current: Generator, keep: float) -> None:
    """average <- keep * average + (1 - keep) * current for parameters; buffers (w_avg, noise) are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - keep)
    for old, new in zip(average.buffers(), current.buffers(), strict=True):
        old.copy_(new)


def stop_when_not_finite(scalars: dict[str, float], step: int, checkpoints: Path) -> None:
    bad = [name for name, value in scalars.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"step {step}: {', '.join(bad)} is no longer a finite number; training stopped before saving, the last "
            f"good checkpoint is in {checkpoints}. Try a lower optimizer.lr, a higher r1_gamma, or gradient_clip=10"
        )


def sizes(domain: DomainConfig) -> dict:
    """What has to agree between a checkpoint and a config."""
    return {
        "resolution": domain.resolution,
        "generator": asdict(domain.generator),
        "discriminator": asdict(domain.discriminator),
    }


def export(
    folder: Path, G: Generator, D: Discriminator, domain: DomainConfig, images_seen: int, measured: dict | None = None
) -> None:
    """Write the averaged generator and the discriminator as a model folder."""
    head = {"domain": domain.name, "kind": domain.kind, "resolution": domain.resolution}
    head |= {"loss_resolution": domain.loss_resolution, "alignment": domain.alignment}
    info = {"trainer": "train_stylegan2", "images_seen": images_seen, "validation": measured or {}}
    digest = save_model(
        folder / "generator.safetensors",
        G,
        kind="generator",
        config={**head, "generator": asdict(domain.generator)},
        info=info,
    )
    save_model(
        folder / "discriminator.safetensors",
        D,
        kind="discriminator",
        config={**head, "discriminator": asdict(domain.discriminator)},
        requires={"generator": digest},
        info=info,
    )
