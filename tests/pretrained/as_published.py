"""The reverse of the readers: networks of this project as NVIDIA and rosinality publish them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.ops.upfirdn2d import setup_filter
from hyperinverter.published import nvidia_tensors as tables
from hyperinverter.published.rosinality import FILTER_GAIN, _filter_names, _names, _shape

SEPARABLE_TAPS = 8  # published filters with as many taps are stored as one row, and applied along each axis


def to_published(network: Generator | Discriminator) -> dict[str, Tensor]:
    """The state dict of a network under the names and in the layout of NVIDIA's class; tensors are copies.

    With `published_arguments` it makes the published network again.
    """
    taps = network.config["resample_filter"]
    return {
        name: (published_filter(value, taps) if name.endswith("resample_filter") else value).detach().clone()
        for name, value in network.state_dict().items()
    }


def published_arguments(network: Generator | Discriminator) -> dict[str, Any]:
    """The keyword arguments of NVIDIA's class for the same network, nested as published."""
    table = tables.GENERATOR if isinstance(network, Generator) else tables.DISCRIMINATOR
    return nest(network.config, table)


def nest(config: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of `translate`: this project's config as the published classes take it."""
    arguments: dict[str, Any] = {}
    for name, ours in table.items():
        group, _, inner = name.rpartition(".")
        (arguments.setdefault(group, {}) if group else arguments)[inner] = config[ours]
    return arguments


def published_filter(f: Tensor, taps: list[float]) -> Tensor:
    """The reverse of `full_filter`, for a filter made of `taps`; others are returned as they are."""
    if f.shape[0] < SEPARABLE_TAPS or not torch.equal(f.cpu(), setup_filter(taps)):
        return f
    return (torch.tensor(taps) / sum(taps)).to(f)


def to_rosinality(generator: Generator) -> dict[str, Any]:
    """A rosinality checkpoint, `{"g_ema": state dict, "latent_avg": [w_dim]}`, of this project's generator.

    Raises:
        ValueError: the published network has no such variant; says what is different.
    """
    config = generator.config
    fixed = {
        "architecture": "skip",
        "c_dim": 0,
        "img_channels": 3,
        "use_noise": True,
        "activation": "lrelu",
        "conv_clamp": None,
        "mapping_activation": "lrelu",
        "z_dim": config["w_dim"],
    }
    differ = [f"{name} is {config[name]!r}, not {value!r}" for name, value in fixed.items() if config[name] != value]
    if config["mapping_layer_features"] not in (None, config["w_dim"]):
        differ.append(f"mapping_layer_features is {config['mapping_layer_features']}, not {config['w_dim']}")
    if generator.mapping.w_avg is None:
        differ.append("it has no w_avg")
    if differ:
        raise ValueError(f"rosinality's StyleGAN2 has no such variant: {'; '.join(differ)}")
    state = {name: value.detach() for name, value in generator.state_dict().items()}
    blocks = len(generator.synthesis.block_resolutions)
    published = {theirs: _given(state[ours], ours) for ours, theirs in _names(blocks, config["mapping_layers"])}
    for ours, theirs in _filter_names(blocks):
        published[theirs] = state[ours] * FILTER_GAIN
    return {"g_ema": published, "latent_avg": state["mapping.w_avg"].clone()}


def _given(value: Tensor, ours: str) -> Tensor:
    """The reverse of `_taken`, a copy."""
    shape = _shape(ours)
    sizes = iter(value.shape)
    return value.clone() if shape is None else value.clone().reshape([size or next(sizes) for size in shape])
