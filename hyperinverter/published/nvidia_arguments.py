"""The arguments of NVIDIA's StyleGAN2-ADA networks under their published names and under this project's.

Source: `training/networks.py` of NVlabs/stylegan2-ada-pytorch (native and converted by its `legacy.py`), and
`training/networks_stylegan2.py` of NVlabs/stylegan3, which takes the synthesis arguments flat and has other defaults.
"""

from collections.abc import Iterable, Mapping
from typing import Any

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
