"""The model and the images of a measurement: trained weights, or random ones of the domain's real sizes.

Time and memory do not depend on the weights. What does depend on them is how far a fast mode's images are from those of
float32, so random residuals are made large enough to change the image visibly.
"""

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.build import build_discriminator, build_hyperinverter
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.pretrained.load import LoadedModel, load_model
from hyperinverter.releases.obtain import obtain

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


def random_discriminator(domain: DomainConfig, seed: int = 0) -> Discriminator:
    torch.manual_seed(seed)
    return build_discriminator(domain)


@torch.no_grad()
def make_images(model: LoadedModel, count: int, seed: int = 0) -> Tensor:
    """Samples of the model's generator, clamped to [-1, 1], [N, 3, R, R] on its device."""
    generator = model.generator
    device = next(generator.parameters()).device
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    images = [generator(one.to(device), truncation_psi=TRUNCATION) for one in z.split(1)]
    return torch.cat(images).clamp(-1, 1)
