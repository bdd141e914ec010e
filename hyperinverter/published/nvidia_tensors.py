"""What tensors and arguments of a StyleGAN2-ADA network tell about it, under their published names and under ours.

Source: `training/networks.py` of NVlabs/stylegan2-ada-pytorch (native and converted by its `legacy.py`), and
`training/networks_stylegan2.py` of NVlabs/stylegan3, which takes the synthesis arguments flat and has other defaults.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperinverter.models.stylegan2.layers import RESAMPLE_TAPS
from hyperinverter.ops.upfirdn2d import setup_filter
from hyperinverter.published.container import MADE
from hyperinverter.published.keys import Keys

# published argument (dotted: inside these keyword arguments) -> argument of this project
MAPPING = {
    "mapping_kwargs.num_layers": "mapping_layers",
    "mapping_kwargs.embed_features": "mapping_embed_features",
    "mapping_kwargs.layer_features": "mapping_layer_features",
    "mapping_kwargs.activation": "mapping_activation",
    "mapping_kwargs.lr_multiplier": "mapping_lr_multiplier",
}
GENERATOR = {
    "z_dim": "z_dim",
    "c_dim": "c_dim",
    "w_dim": "w_dim",
    "img_resolution": "resolution",
    "img_channels": "img_channels",
    "synthesis_kwargs.channel_base": "channel_base",
    "synthesis_kwargs.channel_max": "channel_max",
    "synthesis_kwargs.architecture": "architecture",
    "synthesis_kwargs.resample_filter": "resample_filter",
    "synthesis_kwargs.conv_clamp": "conv_clamp",
    "synthesis_kwargs.use_noise": "use_noise",
    "synthesis_kwargs.activation": "activation",
    **MAPPING,
    "mapping_kwargs.w_avg_beta": "w_avg_beta",
}
DISCRIMINATOR = {
    "c_dim": "c_dim",
    "img_resolution": "resolution",
    "img_channels": "img_channels",
    "architecture": "architecture",
    "channel_base": "channel_base",
    "channel_max": "channel_max",
    "conv_clamp": "conv_clamp",
    "cmap_dim": "cmap_dim",
    "block_kwargs.activation": "activation",
    "block_kwargs.resample_filter": "resample_filter",
    "epilogue_kwargs.mbstd_group_size": "mbstd_group_size",
    "epilogue_kwargs.mbstd_num_channels": "mbstd_num_channels",
    "epilogue_kwargs.activation": "epilogue_activation",
    **MAPPING,
}
GROUPS = ("mapping_kwargs", "synthesis_kwargs", "block_kwargs", "epilogue_kwargs")
# positional arguments in order, for the rare file that has some
GENERATOR_ORDER = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
DISCRIMINATOR_ORDER = ("c_dim", "img_resolution", "img_channels", "architecture", "channel_base", "channel_max")

_HALF = "everything is computed in float32; half precision at high resolutions was for speed"
_TRAINING = "matters in training only"
NO_EFFECT = {
    "num_fp16_res": _HALF,
    "fp16_channels_last": _HALF,
    "fused_modconv_default": "both ways to modulate give the same numbers",
    "freeze_layers": _TRAINING,
    "freeze_embed": _TRAINING,
    "epochs": _TRAINING,
}
# what NVlabs/stylegan3 takes where an argument is absent and NVlabs/stylegan2-ada-pytorch takes something else
NEWER_GENERATOR = {"conv_clamp": 256, "w_avg_beta": 0.998}
NEWER_DISCRIMINATOR = {"conv_clamp": 256}
DRAWN = f"{MADE}drawn from a normal distribution (seed 0), so that fine grain differs"


def flat(table: Mapping[str, str]) -> dict[str, str]:
    """Published names without their group -> this project's. Of equal ones, "activation" is the synthesis layers'.

    A discriminator has three activations and no such usage: there the name is left out, to be given with its group.
    """
    names = {name.rpartition(".")[2]: ours for name, ours in reversed(table.items())}
    if table is DISCRIMINATOR:
        names.pop("activation")
    return names


def known(table: Mapping[str, str]) -> list[str]:
    """Every name under which an argument may be given at the top level."""
    groups = {name.partition(".")[0] for name in table if "." in name}
    return [*flat(table), *sorted(groups), *NO_EFFECT]


def translate(arguments: Mapping[str, Any], table: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Published arguments, nested or flat, by this project's names.

    Returns:
        name -> value, and the published names that have no effect here with the reason.
    Raises:
        ValueError: an argument is not known, or is no group of arguments where it should be one.
    """
    declared: dict[str, Any] = {}
    ignored: dict[str, str] = {}
    for name, value, group in _walk(arguments):
        dotted = f"{group}.{name}" if group else name
        ours = table.get(dotted) or (None if group else flat(table).get(name))
        if ours is not None:
            declared[ours] = taps(value) if ours == "resample_filter" else value
        elif name in NO_EFFECT:
            ignored[dotted] = NO_EFFECT[name]
        else:
            raise ValueError(f"unknown argument {dotted}; known are: {', '.join([*table, *NO_EFFECT])}")
    return declared, ignored


def taps(value: Any) -> list[float]:
    """A published resample_filter as a list of taps; None stands for no filter, the single tap 1.

    Raises ValueError: it is not one row of numbers.
    """
    row = [1.0] if value is None else [value] if isinstance(value, int | float) else value
    if not isinstance(row, list | tuple) or not row or not all(isinstance(tap, int | float) for tap in row):
        raise ValueError(f"resample_filter must be one row of numbers such as [1, 3, 3, 1], got {value!r}")
    return [float(tap) for tap in row]


def _walk(arguments: Mapping[str, Any]) -> Iterable[tuple[str, Any, str]]:
    """(name, value, group or "") of every argument."""
    for name, value in arguments.items():
        if name not in GROUPS:
            yield name, value, ""
        elif isinstance(value, Mapping):
            yield from ((inner, entry, name) for inner, entry in value.items())
        elif value is not None:
            raise ValueError(f"{name} must be a mapping of arguments, got {value!r}")


@dataclass
class TensorSizes:
    """Read off tensors.

    Attributes:
        config: arguments of this project's network.
        widths: resolution of a block in pixels -> its channels.
        implied: argument -> the value that None stands for.
    """

    config: dict[str, Any]
    widths: dict[int, int]
    implied: dict[str, Any] = field(default_factory=dict)


def generator_sizes(keys: Keys) -> TensorSizes:
    """Sizes and variant of a generator, from tensors under the published names."""
    resolutions = _resolutions(keys, r"synthesis\.b(\d{1,5})\.conv1\.weight", 4)
    widths = {res: _size(keys, f"synthesis.b{res}.conv1.weight", 0, 4) for res in resolutions}
    last = f"synthesis.b{resolutions[-1]}"
    w_dim = _size(keys, "synthesis.b4.conv1.affine.weight", 1, 2)
    in_skip, in_resnet = "synthesis.b4.torgb.weight" in keys, f"{last}.skip.weight" in keys
    mapping, latent = _mapping(keys, w_dim)
    if latent < 1:
        raise keys.fault("mapping.fc0.weight leaves no room for a latent beside the condition")
    config = {
        "resolution": resolutions[-1],
        "z_dim": latent,
        "w_dim": w_dim,
        "img_channels": _size(keys, f"{last}.torgb.weight", 0, 4),
        "architecture": "skip" if in_skip else "resnet" if in_resnet else "orig",
        "use_noise": "synthesis.b4.conv1.noise_strength" in keys,
        **mapping,
        **_filter(keys, f"{last}.resample_filter"),
    }
    return TensorSizes(config, widths, {"mapping_embed_features": w_dim, "mapping_layer_features": w_dim})


def discriminator_sizes(keys: Keys) -> TensorSizes:
    """Sizes and variant of a discriminator, from tensors under the published names."""
    resolutions = _resolutions(keys, r"b(\d{1,5})\.conv0\.weight", 8)
    widths = {4: _size(keys, "b4.conv.weight", 0, 4)}
    widths |= {res: _size(keys, f"b{res}.conv0.weight", 0, 4) for res in resolutions}
    first = f"b{resolutions[-1]}"
    in_skip, in_resnet = "b4.fromrgb.weight" in keys, f"{first}.skip.weight" in keys
    config = {
        "resolution": resolutions[-1],
        "img_channels": _size(keys, f"{first}.fromrgb.weight", 1, 4),
        "architecture": "skip" if in_skip else "resnet" if in_resnet else "orig",
        "mbstd_num_channels": _size(keys, "b4.conv.weight", 1, 4) - widths[4],
        "c_dim": 0,
        **_filter(keys, f"{first}.resample_filter"),
    }
    implied = {}
    if "mapping.embed.weight" in keys:
        cmap_dim = _size(keys, "b4.out.weight", 0, 2)
        config |= {"cmap_dim": cmap_dim, **_mapping(keys, cmap_dim)[0]}
        implied = {"cmap_dim": widths[4], "mapping_embed_features": cmap_dim, "mapping_layer_features": cmap_dim}
    return TensorSizes(config, widths, implied)


def full_filter(f: Tensor) -> Tensor:
    """A published filter as this project keeps it, [T, T]: one row [T] stands for both axes."""
    return torch.outer(f, f) if f.ndim == 1 else f


def taps_of(f: Tensor, keys: Keys, key: str) -> list[float]:
    """The taps that make a filter of the sum 1, as small whole numbers where they are such.

    `f`: [T, T], or its row [T]. Raises UserError: no row of taps makes it.
    """
    f = f.detach().cpu().float()
    if f.ndim not in (1, 2) or f.shape[0] == 0 or len(set(f.shape)) != 1 or not torch.isfinite(f).all():
        raise keys.fault(f"{key} has shape {tuple(f.shape)}, expected a square filter or its row")
    f = full_filter(f)
    if _same(f, setup_filter(RESAMPLE_TAPS)):
        return list(RESAMPLE_TAPS)
    row = f.sum(dim=1)
    present = row.abs()[row.abs() > 1e-6]
    scaled = row / present.min() if len(present) else row
    taps = (scaled.round() if torch.allclose(scaled, scaled.round(), atol=1e-4) else row).tolist()
    if abs(sum(taps)) < 1e-6 or not _same(f, setup_filter(taps)):
        raise keys.fault(f"{key} is not made of one row of taps with the sum 1, as published filters are")
    return taps


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-6)


def _resolutions(keys: Keys, pattern: str, smallest: int) -> list[int]:
    """The resolutions of the blocks, each twice the one before."""
    found = sorted({int(match[1]) for key in keys.state if (match := re.fullmatch(pattern, key))})
    if not found or found != [smallest * 2**i for i in range(len(found))]:
        raise keys.fault(
            f"its blocks have the resolutions {found or 'none'}, expected {smallest}, {2 * smallest}, ... px"
        )
    return found


def _mapping(keys: Keys, w_dim: int) -> tuple[dict[str, Any], int]:
    """Arguments of the mapping network, and the size of its latent."""
    layers = 0
    while f"mapping.fc{layers}.weight" in keys:
        layers += 1
    embedded = 0
    config: dict[str, Any] = {"mapping_layers": layers, "c_dim": 0}
    if "mapping.embed.weight" in keys:
        embedded = _size(keys, "mapping.embed.weight", 0, 2)
        config |= {"c_dim": _size(keys, "mapping.embed.weight", 1, 2), "mapping_embed_features": embedded}
    if layers > 1:
        config["mapping_layer_features"] = _size(keys, "mapping.fc0.weight", 0, 2)
    return config, (_size(keys, "mapping.fc0.weight", 1, 2) if layers else w_dim) - embedded


def _filter(keys: Keys, key: str) -> dict[str, list[float]]:
    """{"resample_filter": taps}, or {} where the file leaves filters out."""
    return {"resample_filter": taps_of(keys.state[key], keys, key)} if key in keys else {}


def _size(keys: Keys, key: str, dimension: int, dimensions: int) -> int:
    """One size of a tensor that must have so many dimensions."""
    return keys.take(key, (None,) * dimensions).shape[dimension]


def drawn_noise(names: Iterable[str]) -> dict[str, Tensor]:
    """Constant noise for generators that were saved without theirs: normal, of a fixed seed.

    `names`: this project's, as synthesis.b64.conv0.noise_const.
    """
    random = torch.Generator().manual_seed(0)
    sides = {name: int(re.search(r"\.b(\d+)\.", name)[1]) for name in names}
    return {name: torch.randn(side, side, generator=random) for name, side in sides.items()}
