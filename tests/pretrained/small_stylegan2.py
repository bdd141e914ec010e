"""Small StyleGAN2 networks in which every weight matters, and their published state dicts, whole and damaged."""

from typing import Any

import torch
from as_published import published_arguments, to_published
from torch import Tensor

from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.published.reading import NetworkStub

SMALL = {"resolution": 16, "z_dim": 6, "w_dim": 8, "channel_base": 128, "channel_max": 16, "mapping_layers": 3}
SMALL_D = {"resolution": 16, "channel_base": 128, "channel_max": 16}


def make_generator(**changes: Any) -> Generator:
    torch.manual_seed(0)
    generator = Generator(**{**SMALL, **changes})
    with torch.no_grad():
        for name, tensor in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                tensor.add_(0.3 * torch.randn_like(tensor))
        if generator.mapping.w_avg is not None:
            generator.mapping.w_avg.normal_()
    return generator


def make_discriminator(**changes: Any) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(**{**SMALL_D, **changes})


def stub_of(network: Generator | Discriminator, **changes: Any) -> NetworkStub:
    return NetworkStub(type(network).__name__, {**published_arguments(network), **changes}, to_published(network))


def broken(state: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    """A state dict with some entries replaced, or taken out where the new value is None."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in {**state, **named}.items() if value is not None}
