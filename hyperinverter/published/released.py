"""Readers of HyperInverter's released checkpoints: E1, E2, the hypernetworks, and the whole of them.

Source: the layout of VinAIResearch/HyperInverter's checkpoints, `{"state_dict": {"w_encoder.…", "w_bar_encoder.…",
"hypernet.weight_regressors.…", "discriminator.…"}, "opts": …}`; E1 alone as pSp, e4e and HyperStyle save their W
encoders.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import Hypernetwork, WeightRegressor
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.published import released_parts
from hyperinverter.published.container import STEMS, UNUSED, prefix_of, unwrap
from hyperinverter.published.from_published import Published, from_published
from hyperinverter.published.keys import Keys, options

# what a checkpoint can hold beside the network that is wanted
NETWORKS = {
    "encoder": "an encoder",
    "decoder": "a generator",
    "discriminator": "a discriminator, which only training needs",
    "w_encoder": "E1",
    "w_bar_encoder": "E2",
    "hypernet": "the hypernetworks",
}


def read_w_encoder(content: Any, source: str, given: dict[str, Any]) -> tuple[WEncoder, Published]:
    """E1: IR-SE50, IR-50, ResNet34 or another trunk of their kinds, and one linear layer.

    A bare state dict, a checkpoint with `encoder.` (pSp, e4e, HyperStyle, HyperInverter's W encoders) or `w_encoder.`
    (HyperInverter's whole release). Trunk, depths, widths, stem and w_dim are inferred.

    Options: `input_size` (256) and `strides` of the four stages (as published), which the tensors do not show; `w_dim`.
    """
    what = "a W encoder (E1)"
    chosen = options(given, {"input_size": 256, "strides": None, "w_dim": None}, what)
    prefixes = ("w_encoder.", "encoder.", "")
    keys, ignored = _one_network(content, what, source, prefixes, STEMS)
    network, config = released_parts.w_encoder(keys, **chosen)
    return network, Published(config, ignored | keys.finish())


def read_layerwise_encoder(content: Any, source: str, given: dict[str, Any]) -> tuple[LayerwiseEncoder, Published]:
    """E2: trunk, feature pyramid and one head per style, bare or below `w_bar_encoder.`.

    Trunk, number of styles, feature channels and feature size are inferred.

    Options: `input_size` (256) and `strides` of the four stages (as published), which the tensors do not show;
    `n_styles`, `output_size` (of the generator, px), `encoder_type` and `feature_size`, as the tensors say.
    """
    what = "a layer-wise encoder (E2)"
    read_off = ("n_styles", "output_size", "encoder_type", "feature_size")
    chosen = options(given, {"input_size": 256, "strides": None} | dict.fromkeys(read_off), what)
    prefixes = ("w_bar_encoder.", "encoder.", "")
    keys, ignored = _one_network(content, what, source, prefixes, STEMS)
    network, config = released_parts.layerwise_encoder(keys, **chosen)
    return network, Published(config, ignored | keys.finish())


def read_hypernetwork(
    content: Any, source: str, given: dict[str, Any]
) -> tuple[Hypernetwork | WeightRegressor, Published]:
    """All hypernetworks (`weight_regressors.b4_conv1_weight.w1`, ...) or one of them (`w1`, `b1`, `w2`, ...).

    Layers, resolution, target set, D and the shape of every layer are inferred.

    Options: `weight_layout` and `style_index` (both `released`, see `Hypernetwork`; a wrong one loads as well and only
    shows in the images); `hidden_dim`, `input_dim`, `output_size`, `target_shape_name`, `n_styles`, as the tensors say;
    of a single one `kernel_size` (else 3 where w2's columns divide by 9, as every 3x3 target's do), `out_channels`,
    `in_channels`.
    """
    what = "HyperInverter's hypernetworks"
    of_one = ("kernel_size", "out_channels", "in_channels")
    of_all = ("output_size", "target_shape_name", "n_styles")
    layout = {"weight_layout": "released", "style_index": "released"}
    chosen = options(given, layout | dict.fromkeys(("hidden_dim", "input_dim", *of_all, *of_one)), what)
    is_one = "w1" in unwrap(content, what, source)[0]
    for name in of_all if is_one else of_one:
        if chosen.pop(name) is not None:
            raise ValueError(f"{source}: {name} says nothing about {'one regressor' if is_one else 'all regressors'}")
    if is_one:
        chosen.pop("style_index")  # decides which features a regressor receives, not what it does with them
        keys, ignored = _one_network(content, what, source, ("",), ["w1"])
        network, config = released_parts.regressor(keys, **chosen)
    else:
        prefixes = ("hypernet.weight_regressors.", "weight_regressors.", "")
        keys, ignored = _one_network(content, what, source, prefixes, ["b4_conv1_weight.w1"])
        network, config = released_parts.hypernetwork(keys, **chosen)
    return network, Published(config, ignored | keys.finish())


def read_hyperinverter(content: Any, source: str, given: dict[str, Any]) -> tuple[HyperInverterNetwork, Published]:
    """The whole release: E1, E2 and the hypernetworks of one file, around a generator that it does not hold.

    Options: `generator`, needed: a Generator, which gets frozen, or the file or content that `stylegan2_ada_generator`
    reads; `w_encoder`, likewise, in place of the file's own E1; `discriminator` (False): True reads it into
    `published.others`; `input_size` (256), `weight_layout`, `style_index` and what the tensors say (`output_size`,
    `n_styles`, `hidden_dim`, `target_shape_name`, `encoder_type`) as for the parts.
    """
    what = "a HyperInverter release"
    of_e2 = ("n_styles", "output_size", "encoder_type")
    of_h = ("hidden_dim", "target_shape_name", "weight_layout", "style_index")
    known = dict.fromkeys((*of_e2, *of_h, "generator", "w_encoder")) | {"discriminator": False, "input_size": 256}
    chosen = options(given, known | {"weight_layout": "released", "style_index": "released"}, what)
    state, ignored = unwrap(content, what, source)
    keys = Keys(state, what, source)
    if chosen["generator"] is None:
        raise keys.fault("it holds no generator: give generator= its .pkl file, its state dict, or a Generator")

    size = {"input_size": chosen["input_size"]}
    sizes = size | {name: chosen[name] for name in of_e2}
    e2, config = _part(keys, "w_bar_encoder.", released_parts.layerwise_encoder, sizes)
    sizes = {name: chosen[name] for name in of_h}
    hypernetwork, more = _part(keys, "hypernet.weight_regressors.", released_parts.hypernetwork, sizes)
    config |= more
    if chosen["w_encoder"] is not None:
        keys.ignore(r"w_encoder\..+", "another E1 was given as w_encoder=")
        e1 = _given_network(chosen["w_encoder"], WEncoder, "w_encoder")
        config |= e1.published.config if hasattr(e1, "published") else {}
    elif keys.left("w_encoder."):
        e1, more = _part(keys, "w_encoder.", released_parts.w_encoder, size)
        config |= more
    else:
        raise keys.fault(
            "it has no w_encoder.* (E1): give w_encoder= a W encoder's file, its state dict, or a WEncoder"
        )
    others = {}
    if chosen["discriminator"]:
        weights = keys.take_prefix("discriminator.")
        if not weights:
            raise keys.fault("it has no discriminator.*; leave discriminator= out")
        others["discriminator"] = from_published(weights, "stylegan2_ada_discriminator")
    keys.ignore(r"discriminator\..+", f"{NETWORKS['discriminator']}; discriminator=True reads it")
    ignored |= keys.finish()

    generator = _given_network(chosen["generator"], Generator, "stylegan2_ada_generator")
    with keys.refusing():
        network = HyperInverterNetwork(generator, e1, e2, hypernetwork)
    config |= {"generator": dict(generator.config)}
    return network, Published(config, ignored, others=others)


def _one_network(
    content: Any, what: str, source: str, prefixes: tuple[str, ...], marks: list[str] | tuple[str, ...]
) -> tuple[Keys, dict[str, str]]:
    """The keys of the wanted network without its prefix, and what of the checkpoint is ignored, with reasons.

    The first prefix below which one of the marking keys lies is the network's.
    """
    state, ignored = unwrap(content, what, source)
    keys = Keys(state, what, source)
    prefix = prefix_of(state, prefixes, marks)
    if prefix is None:
        raise keys.fault(f"it has no {' or '.join(marks)}, bare or below {' '.join(filter(None, prefixes))}")
    wanted = keys.take_prefix(prefix)
    for name, meaning in NETWORKS.items():
        keys.ignore(rf"{name}\..+", f"another network of the checkpoint: {meaning}")
    keys.ignore("latent_avg", UNUSED["latent_avg"])
    return Keys(wanted, what, source), ignored | keys.finish()


def _part(keys: Keys, prefix: str, build: Any, given: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    weights = keys.take_prefix(prefix)
    if not weights:
        raise keys.fault(f"it has no {prefix}* ({NETWORKS[prefix.split('.')[0]]})")
    part = Keys(weights, f"{keys.what}: {prefix}*", keys.source)
    built = build(part, **given)
    part.finish()
    return built


def _given_network(given: Any, expected: type[nn.Module], kind: str) -> nn.Module:
    """A network given as itself, or as what `from_published` reads."""
    if not isinstance(given, nn.Module):
        return from_published(given, kind)
    if not isinstance(given, expected):
        raise ValueError(f"got a {type(given).__name__}, expected a {expected.__name__} or what {kind} reads")
    return given
