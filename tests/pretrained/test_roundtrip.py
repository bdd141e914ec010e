"""Ours -> published naming -> ours is the identity, bit for bit, for configurations drawn at random."""

from typing import Any

import torch
from as_published import published_arguments, to_published, to_rosinality
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.ops.bias_act import ACTIVATION_GAINS
from hyperinverter.published import from_published
from hyperinverter.published.reading import NetworkStub

drawn = settings(deadline=None, max_examples=15, derandomize=True)
TAPS = st.sampled_from([[1.0, 3.0, 3.0, 1.0], [1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 4.0, 1.0], [1.0] * 8])
ACTIVATIONS = st.sampled_from(sorted(ACTIVATION_GAINS))
ARCHITECTURES = st.sampled_from(["orig", "skip", "resnet"])
CLAMPS = st.sampled_from([None, 0.75, 256.0])
SIZES = st.integers(1, 12)


@st.composite
def channels(draw: st.DrawFn) -> dict[str, int]:
    """Resolution 8 to 64 with a channel rule; the smallest base that gives these widths, as the reader finds it."""
    resolution = 2 ** draw(st.integers(3, 6))
    channel_max = 4 * draw(st.integers(1, 6))
    channel_base = resolution * draw(st.integers(1, channel_max))
    widths = {res: min(channel_base // res, channel_max) for res in (4, 8, 16, 32, 64) if res <= resolution}
    return {
        "resolution": resolution,
        "channel_base": max(width * res for res, width in widths.items()),
        "channel_max": max(widths.values()),
    }


@st.composite
def generators(draw: st.DrawFn) -> dict[str, Any]:
    c_dim = draw(st.sampled_from([0, 0, 3]))
    w_dim = draw(SIZES)
    layers = draw(st.integers(1, 3))
    other = st.one_of(st.none(), SIZES.filter(lambda size: size != w_dim))  # w_dim itself is written as None
    return {
        **draw(channels()),
        "z_dim": draw(SIZES),
        "w_dim": w_dim,
        "c_dim": c_dim,
        "mapping_layers": layers,
        "mapping_embed_features": draw(other) if c_dim else None,
        "mapping_layer_features": draw(other) if layers > 1 else None,
        "mapping_activation": draw(ACTIVATIONS),
        "mapping_lr_multiplier": draw(st.sampled_from([0.01, 0.1, 1.0])),
        "architecture": draw(ARCHITECTURES),
        "img_channels": draw(st.sampled_from([1, 3, 4])),
        "use_noise": draw(st.booleans()),
        "activation": draw(ACTIVATIONS),
        "resample_filter": draw(TAPS),
        "conv_clamp": draw(CLAMPS),
        "w_avg_beta": draw(st.sampled_from([0.995, 0.998, None])),
    }


@st.composite
def discriminators(draw: st.DrawFn) -> dict[str, Any]:
    c_dim = draw(st.sampled_from([0, 0, 3]))
    rule = draw(channels())
    cmap_dim = draw(st.one_of(st.none(), SIZES.filter(lambda size: size != rule["channel_max"]))) if c_dim else None
    return {
        **rule,
        "c_dim": c_dim,
        "cmap_dim": cmap_dim,
        "mapping_layers": draw(st.integers(0, 2)),
        "mbstd_group_size": draw(st.sampled_from([None, 1, 2, 4])),
        "mbstd_num_channels": draw(st.sampled_from([0, 1, 2])),
        "architecture": draw(ARCHITECTURES),
        "img_channels": draw(st.sampled_from([1, 3])),
        "activation": draw(ACTIVATIONS),
        "epilogue_activation": draw(ACTIVATIONS),
        "resample_filter": draw(TAPS),
        "conv_clamp": draw(CLAMPS),
    }


def filled(network: nn.Module) -> nn.Module:
    """No weight, noise or mean is at its first value, which a reader could put there by itself."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not name.endswith("resample_filter"):
                tensor.normal_()
    return network.eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@drawn
@given(generators(), st.integers(0, 2**31))
def test_nvidia_generators(config: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    generator = filled(Generator(**config))
    stub = NetworkStub("Generator", published_arguments(generator), to_published(generator))
    again = from_published({"G_ema": stub}, "stylegan2_ada_generator")
    assert again.config == generator.config
    assert same(again, generator)
    z, c = torch.randn(2, config["z_dim"]), torch.randn(2, 3) if config["c_dim"] else None
    assert torch.equal(again(z, c=c), generator(z, c=c))


@drawn
@given(discriminators(), st.integers(0, 2**31))
def test_nvidia_discriminators(config: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    discriminator = filled(Discriminator(**config))
    stub = NetworkStub("Discriminator", published_arguments(discriminator), to_published(discriminator))
    again = from_published({"D": stub}, "stylegan2_ada_discriminator")
    assert again.config == discriminator.config
    assert same(again, discriminator)
    images = torch.randn(4, config["img_channels"], config["resolution"], config["resolution"])
    c = torch.randn(4, 3) if config["c_dim"] else None
    assert torch.equal(again(images, c), discriminator(images, c))


@drawn
@given(channels(), SIZES, st.integers(0, 3), TAPS, st.integers(0, 2**31))
def test_rosinality_generators(rule: dict[str, int], style_dim: int, n_mlp: int, taps: list[float], seed: int) -> None:
    torch.manual_seed(seed)
    sizes = {"z_dim": style_dim, "w_dim": style_dim, "mapping_layers": n_mlp}
    generator = filled(Generator(**rule, **sizes, resample_filter=taps))
    again = from_published(to_rosinality(generator), "rosinality_generator")
    assert again.config == generator.config
    assert same(again, generator)
    z = torch.randn(2, style_dim)
    assert torch.equal(again(z, 0.5), generator(z, 0.5))
