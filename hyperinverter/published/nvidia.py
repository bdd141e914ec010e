"""NVIDIA's StyleGAN2-ADA generator and discriminator as this project's, and back.

The names of the weights are the same on both sides. What has to be found out is what was built: from the tensors as far
as they show it, from the arguments that the file carries, and from options. Sources: see `nvidia_tensors`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from torch import Tensor

from hyperinverter.config.checks import problems
from hyperinverter.config.schema import DiscriminatorConfig, GeneratorConfig
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.models.stylegan2.layers import channel_rule
from hyperinverter.published import nvidia_tensors as tables
from hyperinverter.published.container import beside
from hyperinverter.published.from_published import Published
from hyperinverter.published.keys import Keys, options
from hyperinverter.published.nvidia_tensors import (
    DRAWN,
    TensorSizes,
    discriminator_sizes,
    drawn_noise,
    full_filter,
    generator_sizes,
)
from hyperinverter.published.reading import NetworkStub
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import outline

NetworkT = TypeVar("NetworkT", Generator, Discriminator)


def read_generator(content: Any, source: str, given: dict[str, Any]) -> tuple[Generator, Published]:
    """A StyleGAN2-ADA generator.

    Resolution, sizes, channels, architecture, noise, filter and condition are read off the tensors. What they cannot
    tell comes from the file's `init_kwargs`, else from options.

    Args:
        content: `{"G_ema": ..., ...}` (or "G"), one NetworkStub, or a state dict.
        given: the published arguments, nested as published (`synthesis_kwargs={...}`) or flat. Needed where they are
            not the published defaults: conv_clamp (None), activation ("lrelu"), lr_multiplier (0.01), w_avg_beta
            (0.995; None says that there is no w_avg), mapping_kwargs={"activation": ...} ("lrelu"), and
            resample_filter ([1, 3, 3, 1]) for a state dict without its filters. num_fp16_res has no effect.
    """
    what, table = "a StyleGAN2-ADA generator", tables.GENERATOR
    options(given, dict.fromkeys((*tables.known(table), "num_ws")), "stylegan2_ada_generator")
    num_ws, given = given.get("num_ws"), {name: value for name, value in given.items() if name != "num_ws"}
    result = _find(content, ("G_ema", "G"), tables.GENERATOR_ORDER, what, source)
    keys = Keys(result.state, what, source)
    sizes = generator_sizes(keys)
    keys.agree({"num_ws": num_ws}, num_ws=2 * len(sizes.widths))
    declared, ignored = _declared(result, given, table, source)
    declared = {**(tables.NEWER_GENERATOR if result.is_newer else {}), **declared}
    has_mean = "mapping.w_avg" in keys
    if has_mean != (declared.get("w_avg_beta", 0.995) is not None):
        raise keys.fault(
            "it has mapping.w_avg, but w_avg_beta is None; leave that out"
            if has_mean
            else "it has no mapping.w_avg; if it was trained without one, give w_avg_beta=None"
        )
    state = _state(keys)
    strengths = [name for name in state if name.endswith(".noise_strength")]
    noises = drawn_noise(n for name in strengths if (n := name.replace("_strength", "_const")) not in state)
    ignored |= {"noise_const": DRAWN} if noises else {}
    network = build(keys, Generator, _config(keys, sizes, declared, table), noises | state)
    return network, Published(network.config, {**result.ignored, **ignored, **keys.finish()})


def read_discriminator(content: Any, source: str, given: dict[str, Any]) -> tuple[Discriminator, Published]:
    """A StyleGAN2-ADA discriminator.

    Resolution, channels, architecture, filter, condition and mbstd_num_channels are read off the tensors. What they
    cannot tell comes from the file's `init_kwargs`, else from options.

    Args:
        content: `{"D": ..., ...}`, one NetworkStub, or a state dict.
        given: the published arguments, nested as published (`epilogue_kwargs={...}`) or flat. Needed where they are not
            the published defaults: mbstd_group_size (4; converted TensorFlow networks have None, the whole batch),
            conv_clamp (None), lr_multiplier (0.01), block_kwargs, epilogue_kwargs or mapping_kwargs with their
            activation ("lrelu"), and resample_filter ([1, 3, 3, 1]) for a state dict without its filters.
            num_fp16_res has no effect.
    """
    what, table = "a StyleGAN2-ADA discriminator", tables.DISCRIMINATOR
    options(given, dict.fromkeys(tables.known(table)), "stylegan2_ada_discriminator")
    result = _find(content, ("D",), tables.DISCRIMINATOR_ORDER, what, source)
    keys = Keys(result.state, what, source)
    sizes = discriminator_sizes(keys)
    declared, ignored = _declared(result, given, table, source)
    declared = {**(tables.NEWER_DISCRIMINATOR if result.is_newer else {}), **declared}
    network = build(keys, Discriminator, _config(keys, sizes, declared, table), _state(keys))
    ignored = {**result.ignored, **ignored, **keys.finish()}
    return network, Published(network.config, ignored)


def build(keys: Keys, network_class: type[NetworkT], config: dict[str, Any], state: Mapping[str, Tensor]) -> NetworkT:
    """A network of these arguments with these weights, in which every weight comes from `state`.

    Args:
        state: its weights under this project's names; filters may be left out.
    Raises:
        UserError: the arguments make no network, or the weights are not all of its weights.
    """
    section = GeneratorConfig if network_class is Generator else DiscriminatorConfig
    with keys.refusing((TypeError, ValueError)):
        values = section(**{item.name: config[item.name] for item in fields(section) if item.name in config})
        if faults := [f"{problem.keys[0]} {problem.message}" for problem in problems(values)]:
            raise keys.fault("; ".join(faults))
        network = keys.build(lambda: network_class(**config))
    keys.fill(network, state, keep=r".*\.resample_filter")
    return network


@dataclass
class _Found:
    """One network of a file."""

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    ignored: dict[str, str]
    is_newer: bool  # written by NVlabs/stylegan3


def _find(content: Any, entries: tuple[str, ...], order: tuple[str, ...], what: str, source: str) -> _Found:
    """The network that `entries` name, the first of them that is there; else `content` is the network itself."""
    around = content if isinstance(content, Mapping) else {}
    names = [name for name in (*entries, "state_dict") if name in around]
    chosen = around[names[0]] if names else content
    ignored = beside(name for name in around if name != names[0]) if names else {}
    stubs = [value for value in (content, *around.values()) if isinstance(value, NetworkStub)]
    is_newer = any(_takes_flat_arguments(stub) for stub in stubs)
    if isinstance(chosen, NetworkStub):
        positional = dict(zip(order, chosen.init_args, strict=False))
        return _Found(dict(chosen.state), {**positional, **chosen.init_kwargs}, ignored, is_newer)
    if isinstance(chosen, Mapping) and all(isinstance(name, str) for name in chosen) and (names or not stubs):
        return _Found(dict(chosen), {}, ignored, is_newer)
    expected = f"expected {' or '.join(entries)}, or a state dict"
    raise UserError(f"{source}: not {what}: {expected}; it holds {outline(content)}")


def _takes_flat_arguments(stub: NetworkStub) -> bool:
    """Whether a generator was built by NVlabs/stylegan3, whose StyleGAN2 takes the synthesis arguments flat."""
    inner = {name.partition(".")[2] for name in tables.GENERATOR if name.startswith("synthesis_kwargs.")}
    flat = (inner | {"num_fp16_res", "fused_modconv_default"}) & set(stub.init_kwargs)
    return "z_dim" in stub.init_kwargs and bool(flat)


def _declared(
    result: _Found, given: dict[str, Any], table: Mapping[str, str], source: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """What file and options say, by this project's names; an option may not contradict the file."""
    try:
        declared, ignored = tables.translate(result.arguments, table)
    except ValueError as error:
        raise UserError(f"{source}: the arguments it was built with: {error}") from error
    wished, ignored_options = tables.translate(given, table)
    for name, value in wished.items():
        if name in declared and declared[name] != value:
            raise UserError(f"{source}: {name}={value!r} was given, but the file says {declared[name]!r}; leave it out")
    return {**declared, **wished}, {**ignored, **ignored_options}


def _config(keys: Keys, sizes: TensorSizes, declared: dict[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of this project's network: the tensors' and, where these say nothing, those that were given."""
    published = {ours: name.rpartition(".")[2] for name, ours in table.items()}
    for name, value in sizes.config.items():
        keys.agree({published[name]: declared.get(name)}, **{published[name]: value})
    with keys.refusing((TypeError, ValueError)):
        by_rule = channel_rule(sizes.widths)
        channel_base, channel_max = (
            declared.get(name) or rule for name, rule in zip(("channel_base", "channel_max"), by_rule, strict=True)
        )
        ruled = {res: min(channel_base // res, channel_max) for res in sizes.widths}
    if ruled != sizes.widths:
        rule = f"channel_base={channel_base} and channel_max={channel_max}"
        raise keys.fault(f"{rule} give the channels {ruled} (resolution: channels), its tensors have {sizes.widths}")
    # What None stands for is written as None, as the published arguments do.
    result = {k: None if sizes.implied.get(k) == value else value for k, value in sizes.config.items()}
    return {**declared, **result, "channel_base": channel_base, "channel_max": channel_max}


def _state(keys: Keys) -> dict[str, Tensor]:
    """All tensors; the names are this project's too."""
    state = {name: keys.take(name) for name in keys.state}
    return {name: full_filter(value) if name.endswith("resample_filter") else value for name, value in state.items()}
