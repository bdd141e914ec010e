"""Projection: find the code whose image is closest to a target by gradient descent, one image at a time.

Source: StyleGAN2 (Karras et al., CVPR 2020, arXiv:1912.04958), appendix D, with the constants of NVIDIA's projector
(stylegan2-ada-pytorch) as HyperInverter and PTI vendor it; its argument names carry over. Images are in [-1, 1] here
and were in [0, 255] there; the feature network is handed in.
Letters: L styles, R resolution, r the size of a noise input.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from hyperinverter.models.stylegan2 import Generator

SPACES = ("w", "w_plus")
ADAM_BETAS = (0.9, 0.999)
SMALLEST_NOISE = 8  # pixels; noise inputs are halved down to this when their autocorrelation is measured
CHUNK = 1000  # codes that the mapping network computes at a time
RAMP_UP, RAMP_DOWN = 0.05, 0.25  # parts of the run over which the learning rate rises and falls
NOISE = 0.05  # standard deviation of the latent's noise at the start, in units of W's spread
NOISE_RAMP = 0.75  # part of the run after which that noise is zero
AUTOCORRELATION_WEIGHT = 1e5  # of the penalty on the noise inputs' autocorrelation

OnStep = Callable[[int, float, Tensor, Tensor], None]  # step, learning rate, loss before it, latent after it


class FeatureNetwork(Protocol):
    """What measures images against each other; every Extractor does."""

    def features(self, images: Tensor) -> Any:
        """Features of images [1, 3, R, R] in [-1, 1], differentiable."""

    def distance(self, a: Any, b: Any) -> Tensor:
        """Distance [1] between two results of `features`."""


@dataclass(frozen=True)
class WStatistics:
    """Where W lies: the starting point, and the unit of the exploring noise.

    Attributes:
        mean: [w_dim].
        std: root of the mean squared distance from `mean`, a distance in W.
    """

    mean: Tensor
    std: float


@dataclass(frozen=True)
class Projection:
    """What `project` found.

    Attributes:
        ws: [1, L, w_dim].
        noise: name of the noise input ("b8.conv0.noise_const") -> its optimised value [r, r]. The published methods
            throw it away and render with the generator's own noise.
        losses: before each update, [steps].
    """

    ws: Tensor
    noise: dict[str, Tensor]
    losses: Tensor


def w_statistics(generator: Generator, w_avg_samples: int = 10_000) -> WStatistics:
    """Mean and spread of W over mapped samples (published: 10000; PTI: 600), drawn as published from NumPy's seed 123.

    Raises ValueError: no samples.
    """
    if w_avg_samples < 1:
        raise ValueError(f"w_avg_samples is {w_avg_samples}; expected at least 1, published 10000")
    parameter = next(generator.parameters())
    z = torch.from_numpy(np.random.RandomState(123).randn(w_avg_samples, generator.z_dim)).to(parameter)
    with torch.no_grad():
        w = torch.cat([generator.mapping(some)[:, 0] for some in z.split(CHUNK)])  # [n, w_dim]
        mean = w.mean(dim=0)
        return WStatistics(mean, math.sqrt(float((w - mean).square().sum()) / w_avg_samples))


def project(
    generator: Generator,
    target: Tensor,
    features: FeatureNetwork,
    statistics: WStatistics,
    *,
    space: str = "w",
    steps: int = 1000,
    initial_learning_rate: float = 0.01,
    feature_px: int | None = 256,
    seed: int = 0,
    draw: Callable[[Tensor], Tensor] | None = None,
    progress: str = "project",
    on_step: OnStep | None = None,
) -> Projection:
    """Optimise a code, and the generator's noise inputs with it, until the image resembles the target.

    Adam on latent and noise; the learning rate ramps up linearly and down along a cosine; decaying noise on the latent
    explores W; the noise inputs are kept from carrying the image by a penalty on their autocorrelation, and brought
    back to mean 0 and mean square 1 after every step; the generator gets them times its `noise_scales`. The generator
    itself is left as it is.

    Args:
        generator: in eval mode, without class conditioning; its own parameters get no gradients.
        target: [1, 3, R, R] in [-1, 1].
        features: measures how far images are apart.
        statistics: of the generator's W (`w_statistics`); the code starts from its mean.
        space: w, one code for all styles, or w_plus, one per style.
        steps: updates. Published: 600 (HyperInverter, W), 2000 (HyperInverter, W+), 450 (PTI), 1000 (NVIDIA).
        initial_learning_rate: the highest one. PTI's setting `first_inv_lr` (5e-3) never took effect: its projector
            overwrites it with this schedule before the first update.
        feature_px: larger images are compared at this size, a power of two: the target's box mean, and what the
            generator draws at this `resolution`, which an early head does where there is one; None: at R.
        seed: of the noise, drawn on the CPU so that every device sees the same numbers.
        draw: replaces `seed`: called like `torch.randn_like`, once per noise input in the order of the layers, then
            once per step with the latent.
        progress: label of the progress bar that runs of at least 100 steps show.
        on_step: called after every update with step, learning rate, loss (before it) and latent (after it).
    Raises:
        ValueError: an argument does not fit; says which.
    """
    _check(generator, target, space, steps)
    start = statistics.mean.detach().to(next(generator.parameters()))
    latent = start.repeat(1, 1 if space == "w" else generator.num_ws, 1).requires_grad_()  # [1, 1 or L, w_dim]
    draw = draw or _seeded(seed)
    # Detached: a generator whose parameters require gradients is neither slowed down nor changed.
    frozen = {name: parameter.detach() for name, parameter in generator.synthesis.named_parameters()}
    scales = generator.synthesis.noise_scales()
    px = min(feature_px or generator.resolution, generator.resolution)
    buffers = {name: generator.synthesis.get_buffer(name) for name in scales}
    noise = {name: draw(buffer).to(buffer, copy=True).detach().requires_grad_() for name, buffer in buffers.items()}
    optimizer = torch.optim.Adam([latent, *noise.values()], lr=initial_learning_rate, betas=ADAM_BETAS)
    losses = []
    with torch.enable_grad(), progress_bar(progress, steps) as bar:
        with torch.no_grad():
            wanted = features.features(_reduced(target.to(latent), px))
        for step in range(steps):
            t = step / steps
            rate = initial_learning_rate * learning_rate_ramp(t)
            for group in optimizer.param_groups:
                group["lr"] = rate
            reach = statistics.std * NOISE * max(0.0, 1 - t / NOISE_RAMP) ** 2
            ws = (latent + draw(latent.detach()) * reach).expand(-1, generator.num_ws, -1)  # [1, L, w_dim]
            inputs = {name: value * scales[name] for name, value in noise.items()}
            drawing = {"noise_mode": "const", "resolution": px}
            image = functional_call(generator.synthesis, {**frozen, **inputs}, (ws,), drawing)
            distance = features.distance(wanted, features.features(image)).sum()
            loss = distance + AUTOCORRELATION_WEIGHT * noise_autocorrelation(noise.values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            _normalise(noise.values())
            losses.append(loss.detach())
            if on_step is not None:
                on_step(step, rate, losses[-1], latent.detach())
            bar.update()
    styles = latent.detach().expand(-1, generator.num_ws, -1).clone()
    result = {name: value.detach() * scales[name] for name, value in noise.items()}
    return Projection(styles, result, torch.stack(losses))


def learning_rate_ramp(t: float) -> float:
    """Factor on the learning rate at t in [0, 1) of the run: 0 at the start, 1 in the middle, near 0 at the end."""
    down = 0.5 - 0.5 * math.cos(min(1.0, (1 - t) / RAMP_DOWN) * math.pi)
    return down * min(1.0, t / RAMP_UP)


def noise_autocorrelation(noise: Iterable[Tensor]) -> Tensor:
    """How far noise inputs are from white: squared correlation with themselves one pixel on, over both axes and sizes.

    Each input [r, r] counts at its own size and halved (by mean of 2 x 2) as long as it is larger than 8 px.
    """
    total = torch.zeros(())
    for value in noise:
        level = value[None, None]  # [1, 1, r, r]
        total = total.to(level)
        while True:
            for axis in (3, 2):
                total = total + (level * level.roll(1, axis)).mean().square()
            if level.shape[-1] <= SMALLEST_NOISE:
                break
            level = F.avg_pool2d(level, 2)
    return total


@torch.no_grad()
def _normalise(noise: Iterable[Tensor]) -> None:
    """Mean 0, then mean square 1, in place."""
    for value in noise:
        value -= value.mean()
        value *= value.square().mean().rsqrt()


def _reduced(images: Tensor, px: int) -> Tensor:
    return images if images.shape[-1] == px else F.adaptive_avg_pool2d(images, px)


def _seeded(seed: int) -> Callable[[Tensor], Tensor]:
    random = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=random, dtype=like.dtype).to(like.device)


def _check(generator: Generator, target: Tensor, space: str, steps: int) -> None:
    size = generator.resolution
    if tuple(target.shape) != (1, 3, size, size):
        raise ValueError(f"target has shape {tuple(target.shape)}; expected (1, 3, {size}, {size}), one image")
    if space not in SPACES:
        raise ValueError(f"space is {space!r}; write one of {', '.join(SPACES)}")
    if steps < 1:
        raise ValueError(f"steps is {steps}; write at least 1")


@contextmanager
def progress_bar(label: str, steps: int, shortest: int = 100) -> Iterator[tqdm]:
    """A bar that goes away when the run is done; none for a shorter one. Into a file it writes every other second."""
    often = {"mininterval": 0.1 if sys.stderr.isatty() else 2.0}
    with tqdm(total=steps, desc=label, unit="step", leave=False, disable=steps < shortest, **often) as bar:
        yield bar
