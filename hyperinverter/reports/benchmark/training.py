"""One training step of each phase: ours as the trainers make it, beside the released one where there is one (Phase II).

Both minimise L2 and LPIPS (AlexNet with random weights: its time does not depend on them) at the loss resolution with
the paper's factors; the adversarial step adds D's terms, its update and the lazy R1 update, which is measured as every
16th step pays for it. Letters: N images, R pixels.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperinverter.config.schema import AdversarialConfig, DomainConfig, OptimizerConfig, Phase1Config
from hyperinverter.extractors.base import Extractor
from hyperinverter.losses import FeatureLoss, L2Loss, TotalLoss
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.lpips_network import LpipsNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.pretrained.load import LoadedModel
from hyperinverter.reports.benchmark.clock import UNHEARD, Laps, Rounds, speed_up, summarise, take_turns
from hyperinverter.reports.benchmark.inference import warmed
from hyperinverter.reports.benchmark.release import ReleaseTraining
from hyperinverter.reports.benchmark.sides import SideName, make_images, random_discriminator
from hyperinverter.training.discriminator import discriminator_step
from hyperinverter.training.optim import backward_and_step, build_optimizer
from hyperinverter.training.phase1 import reconstruct
from hyperinverter.training.phase2 import encoder_losses
from hyperinverter.utils.device import arithmetic, tf32_allowed, to_device

WEIGHTS = {"l2": 1.0, "lpips": 0.8}  # the paper's
GAN = AdversarialConfig(weight=0.005)  # the paper's for faces
R1_WEIGHT = GAN.r1_gamma / 2 * GAN.r1_every


class RandomLpips(Extractor):
    """LPIPS with random weights: the work of the published loss without its file."""

    purpose: ClassVar[str] = "the benchmark's loss"
    smallest_px = 32

    def __init__(self) -> None:
        super().__init__()
        self.net = LpipsNetwork("alex")
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        return self.net.features(images)

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return self.net.distance(a, b)


def make_losses(domain: DomainConfig) -> TotalLoss:
    """L2 and LPIPS; L2 alone for images that are too small for AlexNet."""
    pixels = min(domain.resolution, domain.loss_resolution)
    losses = {"l2": L2Loss()} | ({"lpips": FeatureLoss(RandomLpips())} if pixels >= RandomLpips.smallest_px else {})
    return TotalLoss(losses, {name: WEIGHTS[name] for name in losses}, domain.loss_resolution).eval()


class OurPhase1:
    """Phase I's update, as `hyperinverter.training.phase1` makes it; takes placed networks over."""

    def __init__(self, network: HyperInverterNetwork, losses: TotalLoss, name: SideName, device: torch.device) -> None:
        self.generator = network.generator.requires_grad_(False)
        self.w_encoder = network.w_encoder.requires_grad_(True).train()
        self.losses, self.autocast = losses, arithmetic(device, name.arithmetic)
        self.trained = list(self.w_encoder.parameters())
        self.optimizer = build_optimizer(self.trained, Phase1Config().optimizer)

    def step(self, images: Tensor, watch: Laps = UNHEARD) -> Tensor:
        with self.autocast:
            loss, _ = self.losses(reconstruct(self.generator, self.w_encoder, images), images)
        watch.lap("forward")
        backward_and_step(self.optimizer, loss)
        watch.lap("backward_and_optimiser")
        return loss.detach()


class OurPhase2:
    """Phase II's update, as `hyperinverter.training.phase2` makes it, with D's where one is given.

    Args:
        network: placed on its device; taken over, as `discriminator` is.
        recompute_from_px: blocks of G and D from this resolution on keep no activations; None: all do.
    """

    def __init__(
        self,
        network: HyperInverterNetwork,
        losses: TotalLoss,
        name: SideName,
        device: torch.device,
        discriminator: Discriminator | None = None,
        recompute_from_px: int | None = None,
    ) -> None:
        self.model = network.train()
        self.model.generator.synthesis.recompute_from_px = recompute_from_px
        self.model.layerwise_encoder.requires_grad_(True)
        self.model.hypernetwork.requires_grad_(True)
        self.losses, self.autocast = losses, arithmetic(device, name.arithmetic)
        self.trained = self.model.trainable_parameters()
        self.optimizer = build_optimizer(self.trained, OptimizerConfig())
        self.discriminator = discriminator
        if discriminator is not None:
            self.discriminator = discriminator.requires_grad_(True)
            self.discriminator.recompute_from_px = recompute_from_px
            self.optimizer_D = build_optimizer(self.discriminator.parameters(), GAN.optimizer)
            self.discriminator.requires_grad_(False)

    def step(self, images: Tensor, watch: Laps = UNHEARD, *, with_r1: bool = False) -> Tensor:
        with self.autocast:
            values, fakes = encoder_losses(self.model, self.losses, images, self.discriminator, GAN.weight)
        watch.lap("forward")
        backward_and_step(self.optimizer, values["loss"])
        watch.lap("backward_and_optimiser")
        if self.discriminator is not None:
            r1_weight = R1_WEIGHT if with_r1 else 0.0
            discriminator_step(
                self.discriminator, self.optimizer_D, images, fakes, r1_weight=r1_weight, autocast=self.autocast
            )
            watch.lap("discriminator")
        return values["loss"].detach()


@dataclass(frozen=True)
class Trainer:
    """A `step`(images, watch), and the parameters whose gradients it makes."""

    step: Callable[..., Tensor]
    trained: list[Tensor]


def make_trainer(phase: str, name: str, model: LoadedModel, batch_size: int, device: torch.device) -> Trainer | None:
    """The trainer of a phase by the name of a side; None where the release has none (Phase I)."""
    parts, losses = SideName.of(name), make_losses(model.domain).to(device)
    adversarial = phase == "phase2_adversarial"
    discriminator = to_device(random_discriminator(model.domain), device) if adversarial else None
    model.network.to(device)
    own: OurPhase1 | OurPhase2 | ReleaseTraining
    if parts.is_reference:
        if phase == "phase1":
            return None
        own = ReleaseTraining(model.network, model.domain, losses, batch_size, discriminator, GAN.weight, R1_WEIGHT)
    elif phase == "phase1":
        own = OurPhase1(to_device(deepcopy(model.network), device), losses, parts, device)
    else:
        network = to_device(deepcopy(model.network), device)
        own = OurPhase2(network, losses, parts, device, discriminator, recompute_from(model.domain, parts))
    return Trainer(tf32_allowed(parts.is_tf32)(own.step), own.trained)


def recompute_from(domain: DomainConfig, name: SideName) -> int | None:
    """The three largest resolutions hold nearly all activations of a generator, and a third of its work."""
    return max(domain.resolution // 4, 8) if name.recomputes else None


def measure_training(
    phase: str, model: LoadedModel, batch_size: int, names: list[str], rounds: Rounds, device: torch.device
) -> dict[str, Any]:
    """Steps of every side in turn, from equal weights on equal images.

    Returns:
        Per side its times, and against the first one the speed-up and how far loss and gradients of the first step
        are apart, relative to the first side's: "loss_difference", "gradient_difference" (norm of the difference).
    """
    torch.manual_seed(0)
    losses_seed = torch.get_rng_state()
    trainers = {}
    for name in names:
        torch.set_rng_state(losses_seed)  # the same random LPIPS on every side
        trainer = make_trainer(phase, name, model, batch_size, device)
        if trainer is not None:
            trainers[name] = trainer
    # Phase II trains towards images that its generator does not draw as they are
    images = make_images(model, batch_size, seed=1).to(device)
    starts = {name: _first_step(trainer, images) for name, trainer in trainers.items()}
    calls = {name: (lambda watch, t=trainer: t.step(images, watch)) for name, trainer in trainers.items()}
    readings = take_turns(calls, device, warmed(rounds, device))
    result: dict[str, Any] = {name: {"stages": summarise(readings[name], batch_size)} for name in trainers}
    if phase == "phase2_adversarial":
        with_r1 = {n: (lambda watch, t=t: t.step(images, watch, with_r1=True)) for n, t in trainers.items()}
        lazy = take_turns(with_r1, device, Rounds(most=2, least=1, seconds=rounds.seconds / 4))
        for name in trainers:
            extra = summarise(lazy[name])["total"]["median_ms"] - result[name]["stages"]["total"]["median_ms"]
            result[name]["r1_extra_ms"] = extra  # every 16th step
    first = next(iter(trainers))
    for name in list(trainers)[1:]:
        loss, gradients = starts[name]
        loss_first, gradients_first = starts[first]
        off = sum((a - b).square().sum().item() for a, b in zip(gradients, gradients_first, strict=True))
        norm = sum(b.square().sum().item() for b in gradients_first)
        result[name] |= {
            "compared_with": first,
            "speed_up": speed_up(readings[first], readings[name]),
            "loss_difference": abs(loss - loss_first) / abs(loss_first),
            "gradient_difference": (off / max(norm, 1e-30)) ** 0.5,
        }
    return {"phase": phase, "batch_size": batch_size, "sides": result}


def _first_step(trainer: Trainer, images: Tensor) -> tuple[float, list[Tensor]]:
    """Loss and gradients of a trainer's first step, on the CPU; its kernels are chosen and its buffers made."""
    loss = trainer.step(images).item()
    given = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.trained]  # None: a head nobody reads
    return loss, [gradient.detach().float().cpu().clone() for gradient in given]
