"""What is timed against what: the released way and ours, each under a name such as `reference`, `fp32`, `bf16_compile`.

fp32 computes in float32 throughout; tf32 lets a GPU round the factors of products to 10 bits, as PyTorch does with
convolutions unless set otherwise; bf16 and fp16 run networks under autocast. `_compile` adds torch.compile;
in training, `_recompute` lets the large blocks compute their activations again in the backward pass.

Weights are trained ones, or random ones of the domain's real sizes: time and memory do not depend on them. What does is
how far a fast mode's images are from those of float32, so random residuals are made large enough to change the image
visibly.
"""

from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters import HyperInverter, Inverter
from hyperinverter.models.build import build_discriminator, build_hyperinverter
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.pretrained.load import LoadedModel, load_model
from hyperinverter.releases.obtain import obtain
from hyperinverter.reports.benchmark.clock import REST, UNHEARD, Laps
from hyperinverter.reports.benchmark.counting import StageHooks
from hyperinverter.reports.benchmark.release import Release
from hyperinverter.utils.device import tf32_allowed

RESIDUAL_GAIN = 2  # on residuals of rms 0.01 to 0.02 (init `signal_preserving`), added to weights of about 1
NOISE_STRENGTH = 0.1  # of every layer; 0 at the start of a training, and then its noise would not be measured
TRUNCATION = 0.7


def with_hidden_size(domain: DomainConfig, hidden_size: int | None) -> DomainConfig:
    """A copy of the domain with another D; None keeps its own."""
    domain = deepcopy(domain)
    if hidden_size is not None:
        domain.hypernetwork.hidden_size = hidden_size
    return domain


def make_model(domain: DomainConfig, *, trained: bool = False, seed: int = 0) -> LoadedModel:
    """E1, E2, hypernetworks and generator on the CPU, in eval mode.

    Args:
        trained: read the domain's weights; False draws random ones.
    Raises:
        FileNotFoundError, UserError: the trained weights are not there or do not fit.
    """
    if trained:
        return load_model(obtain(domain, "hyperinverter"))
    torch.manual_seed(seed)
    network = random_network(domain).eval()
    hashes = dict.fromkeys(("generator", "w_encoder", "hyperinverter"), "random")
    generator, w_encoder = network.generator, network.w_encoder
    return LoadedModel(network, generator, w_encoder, domain, domain.name, "random", hashes, Path())


def random_network(domain: DomainConfig) -> HyperInverterNetwork:
    """The whole method with random weights whose Phase II changes the image."""
    domain = deepcopy(domain)
    domain.hypernetwork.init = "signal_preserving"
    network = build_hyperinverter(domain)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".w2"):
                parameter.mul_(RESIDUAL_GAIN)
            elif name.endswith("noise_strength"):
                parameter.fill_(NOISE_STRENGTH)
    return network


def random_discriminator(domain: DomainConfig) -> Discriminator:
    torch.manual_seed(0)
    return build_discriminator(domain)


@torch.no_grad()
def make_images(model: LoadedModel | Inverter, count: int, seed: int = 0) -> Tensor:
    """Samples of the model's generator, clamped to [-1, 1], [N, 3, R, R] on its device."""
    generator = model.generator
    device = next(generator.parameters()).device
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    images = [generator(one.to(device), truncation_psi=TRUNCATION) for one in z.split(1)]
    return torch.cat(images).clamp(-1, 1)


@dataclass(frozen=True)
class SideName:
    """A name of `hyperinverter.config.report_schema`, taken apart."""

    is_reference: bool
    precision: str  # fp32 | tf32 | bf16 | fp16
    compiled: bool
    recomputes: bool

    @classmethod
    def of(cls, name: str) -> "SideName":
        words = name.split("_")
        precision = next((word for word in words if word in ("tf32", "bf16", "fp16")), "fp32")
        return cls(words[0] == "reference", precision, "compile" in words, "recompute" in words)

    @property
    def is_tf32(self) -> bool:
        return self.precision == "tf32"

    @property
    def arithmetic(self) -> str:
        """What networks compute in: tf32 is fp32 whose products may be rounded."""
        return "fp32" if self.is_tf32 else self.precision


class ReferenceSide:
    """The released way, from an image to its reconstruction. `batch_size`: generators to hold."""

    def __init__(self, model: LoadedModel, batch_size: int, name: SideName) -> None:
        self.release = Release(model.network, model.domain, batch_size)
        self.allows_tf32 = name.is_tf32

    @torch.no_grad()
    def __call__(self, images: Tensor, watch: Laps = UNHEARD) -> Tensor:
        with tf32_allowed(self.allows_tf32):
            return self.release(images, watch).reconstruction


class OurSide:
    """Our way as a user calls it: `invert`, then `render`."""

    def __init__(self, model: LoadedModel, name: SideName, device: torch.device) -> None:
        self.inverter = HyperInverter(model).to(device).accelerate(name.arithmetic, name.compiled)
        self.allows_tf32 = name.is_tf32
        # hooks would break the compiled graphs: a compiled side has no stages
        self.hooks = None if name.compiled else StageHooks(self.inverter.network)

    def __call__(self, images: Tensor, watch: Laps = UNHEARD) -> Tensor:
        with tf32_allowed(self.allows_tf32):
            if self.hooks is not None:
                self.hooks.start(watch)
            inversion = self.inverter.invert(images, batch_size=len(images))
            reconstruction = self.inverter.render(inversion, batch_size=len(images))
            watch.lap(REST)
            return reconstruction


def make_side(name: str, model: LoadedModel, batch_size: int, device: torch.device) -> "ReferenceSide | OurSide":
    """A side by its name. The model is moved to the device; the reference shares its tensors, ours gets a copy."""
    parts = SideName.of(name)
    model.network.to(device)
    if parts.is_reference:
        return ReferenceSide(model, batch_size, parts)
    return OurSide(copied(model), parts, device)


def copied(model: LoadedModel) -> LoadedModel:
    """A copy whose networks a side may convert."""
    own = copy(model)
    own.network = deepcopy(model.network)
    own.generator, own.w_encoder = own.network.generator, own.network.w_encoder
    return own
