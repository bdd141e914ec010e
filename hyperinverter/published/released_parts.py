"""HyperInverter's networks from their bare published keys; every size that the tensors show is read off them.

Source: published layout of E1, E2 and the weight regressors (VinAIResearch/HyperInverter). Letters: D hidden size, C
feature channels, O/I/k output channels, input channels and kernel side of a target, L styles.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from hyperinverter.config.schema import EncoderConfig, HypernetworkConfig, LayerwiseEncoderConfig
from hyperinverter.models.backbones.from_state import trunk_of
from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder, pyramid_level
from hyperinverter.models.hypernetwork import Hypernetwork, WeightRegressor, regressor_name
from hyperinverter.models.stylegan2.layers import block_resolutions
from hyperinverter.models.target_layers import TargetLayer, target_layer, target_names
from hyperinverter.published.keys import Keys
from hyperinverter.utils.state_dicts import shortened


def w_encoder(
    keys: Keys, *, input_size: int, strides: Sequence[int] | None = None, w_dim: int | None = None
) -> tuple[WEncoder, dict[str, Any]]:
    """E1 and what builds it again."""
    config, channels = _trunk(keys, input_size, strides)
    if "linear.weight" not in keys or "output_layer_2.0.weight" in keys:
        raise keys.fault(
            "it has no single linear layer behind its trunk; an encoder with one output per style is read as "
            "layerwise_encoder, psp, e4e or restyle"
        )
    result = keys.shape("linear.weight")[0]
    keys.agree({"w_dim": w_dim}, w_dim=result)
    network = keys.build(lambda: WEncoder(config, w_dim=result, input_channels=channels))
    keys.fill(network, keys.take_prefix(""))
    return network, {"w_encoder": asdict(config), "w_dim": result, "input_channels": channels}


def layerwise_encoder(
    keys: Keys, *, input_size: int, strides: Sequence[int] | None = None, feature_size: int | None = None, **told: Any
) -> tuple[LayerwiseEncoder, dict[str, Any]]:
    """E2 and what builds it again; `told`: n_styles, output_size, encoder_type, which the tensors show."""
    trunk, channels = _trunk(keys, input_size, strides)
    if channels != 3:
        raise keys.fault(f"its first convolution reads {channels} channels, expected 3")
    pattern = re.compile(r"styles\.(\d+)\.convs\.\d+\.weight")
    heads = [int(match[1]) for key in keys.state if (match := pattern.fullmatch(key))]
    if not heads:
        raise keys.fault("it has no heads such as styles.0.convs.0.weight")
    result = max(heads) + 1
    encoder_type = ("ResNet" if trunk.trunk == "resnet" else "") + "LayerWiseEncoder"
    keys.agree(told, n_styles=result, output_size=2 ** (result // 2 + 1), encoder_type=encoder_type)
    config = LayerwiseEncoderConfig(
        **asdict(trunk),
        feature_channels=keys.shape("styles.0.convs.0.weight")[0],
        feature_size=_feature_size(keys, trunk, [heads.count(style) for style in range(result)], feature_size),
    )
    network = keys.build(lambda: LayerwiseEncoder(config, num_styles=result))
    keys.fill(network, keys.take_prefix(""))
    return network, {"layerwise_encoder": asdict(config), "num_styles": result}


def hypernetwork(
    keys: Keys, *, weight_layout: str, style_index: str, **told: Any
) -> tuple[Hypernetwork, dict[str, Any]]:
    """The hypernetworks of all layers, keys such as `b8_conv0_weight.w1`, and what builds them again.

    `told`: hidden_dim, input_dim, output_size, target_shape_name, n_styles, which the tensors show.
    """
    names = {key.split(".")[0].replace("_", ".") for key in keys.state}
    resolution, target_set = _target_set(keys, names)
    num_ws = 2 * len(block_resolutions(resolution))
    first = target_names(resolution, target_set)[0]
    sizes = _regressor_sizes(keys, f"{regressor_name(first)}.")
    keys.agree(told, hidden_dim=sizes["hidden_size"], input_dim=sizes["feature_channels"])
    keys.agree(told, output_size=resolution, target_shape_name=target_set, n_styles=num_ws)
    targets = [_target(keys, name) for name in target_names(resolution, target_set)]
    layout = {"weight_layout": weight_layout, "style_index": style_index}
    network = keys.build(lambda: Hypernetwork(targets, num_ws, **sizes, **layout))
    keys.fill(network.weight_regressors, keys.take_prefix(""))
    config = HypernetworkConfig(
        hidden_size=sizes["hidden_size"],
        target_set=target_set,
        fusion_channels=sizes["fusion_channels"],
        transformer_channels=sizes["transformer_channels"],
        weight_layout=weight_layout,
        style_index=style_index,
    )
    return network, {
        "resolution": resolution,
        "num_ws": num_ws,
        "hypernetwork": asdict(config),
        "feature_channels": sizes["feature_channels"],
        "feature_size": sizes["feature_size"],
        "target_shapes": {target.name: list(target.shape) for target in targets},
    }


def regressor(
    keys: Keys, *, weight_layout: str, kernel_size: int | None = None, out_channels: int | None = None, **told: Any
) -> tuple[WeightRegressor, dict[str, Any]]:
    """The hypernetwork of one layer, whose name is not known, and what builds it again.

    `told`: hidden_dim, input_dim, in_channels, which the tensors show.
    """
    sizes = _regressor_sizes(keys, "")
    keys.agree(told, hidden_dim=sizes["hidden_size"], input_dim=sizes["feature_channels"])
    inputs, columns = _matrix_sizes(keys, "")
    k = kernel_size
    if k is None:  # StyleGAN2's channels are powers of two and torgb's three: none divides by 9 of itself
        k = round((columns / out_channels) ** 0.5) if out_channels else 3 if columns % 9 == 0 else 1
    if k < 1 or columns % k**2:
        raise keys.fault(f"w2 has {columns} columns, which are no O*k*k with k = {k}; give another kernel_size")
    keys.agree({**told, "out_channels": out_channels}, out_channels=columns // k**2, in_channels=inputs)
    config = {"shape": [columns // k**2, inputs, k, k], **sizes, "weight_layout": weight_layout}
    network = keys.build(lambda: WeightRegressor(**config))
    keys.fill(network, keys.take_prefix(""))
    return network, config


def _trunk(keys: Keys, input_size: int, strides: Sequence[int] | None) -> tuple[EncoderConfig, int]:
    with keys.refusing():
        return trunk_of(keys.state, input_size, strides)


def _feature_size(keys: Keys, trunk: EncoderConfig, convolutions: list[int], declared: int | None) -> int:
    """Side in px of every head's output: the one to which each head's stride-2 convolutions lead from its own map.

    A head on a map that has this side already has one convolution, of stride 1; its tensors are those of one halving,
    so such an encoder (never released) must tell its feature_size.
    """
    after_stem = (trunk.input_size - 1) // trunk.stem_stride + 1
    sides = list(accumulate(trunk.strides, lambda side, stride: (side - 1) // stride + 1, initial=after_stem))
    maps = [sides[4 - pyramid_level(style)] for style in range(len(convolutions))]  # coarse: after the last stage
    size = maps[0] >> convolutions[0] if declared is None else declared
    fits = [side == size << n or (side == declared and n == 1) for side, n in zip(maps, convolutions, strict=True)]
    if size > 0 and all(fits):
        return size
    raise keys.fault(
        f"its heads have {convolutions} convolutions on maps of {maps} px, which do not all end at one size; give the "
        f"input_size, strides or feature_size that it was trained with"
    )


def _target_set(keys: Keys, names: set[str]) -> tuple[int, str]:
    """Resolution and target set of exactly these layers."""
    with keys.refusing():
        resolution = max(int(target_layer(name, ()).name[1:].split(".")[0]) for name in names)
    target_set = (
        "all_without_bias"
        if any(".affine." in name for name in names)
        else "conv_without_bias"
        if any(".torgb." in name for name in names)
        else "conv_without_bias_without_torgb"
    )
    missing = [name for name in target_names(resolution, target_set) if name not in names]
    if missing:
        raise keys.fault(f"{target_set} at {resolution} px needs {len(missing)} more layers: {shortened(missing)}")
    return resolution, target_set


def _target(keys: Keys, name: str) -> TargetLayer:
    """The layer with its shape: a convolution is 3x3, torgb 1x1, an affine a matrix."""
    inputs, columns = _matrix_sizes(keys, prefix := f"{regressor_name(name)}.")
    if ".affine." in name:
        return target_layer(name, (columns, inputs))
    k = 1 if ".torgb." in name else 3
    if columns % k**2:
        raise keys.fault(f"{prefix}w2 has {columns} columns, which are no O*{k}*{k}")
    return target_layer(name, (columns // k**2, inputs, k, k))


def _matrix_sizes(keys: Keys, prefix: str) -> tuple[int, int]:
    """I and O*k*k of one regressor from w1 [D, I*D] and w2 [D, O*k*k]."""
    w1, w2 = keys.shape(f"{prefix}w1"), keys.shape(f"{prefix}w2")
    if len(w1) != 2 or len(w2) != 2 or w1[0] != w2[0] or not w1[0] or w1[1] % w1[0]:
        raise keys.fault(f"{prefix}w1 {w1} and {prefix}w2 {w2}: expected [D, I*D] and [D, O*k*k]")
    return w1[1] // w1[0], w2[1]


def _regressor_sizes(keys: Keys, prefix: str) -> dict[str, int]:
    """What all regressors of a release have in common, by the names of `WeightRegressor`."""
    fusion = keys.shape(f"{prefix}fusion.0.weight")
    first = keys.shape(f"{prefix}feature_extractor.0.weight")
    pattern = re.compile(re.escape(prefix) + r"feature_extractor\.\d+\.weight")
    halvings = sum(pattern.fullmatch(key) is not None for key in keys.state) - 1
    if len(fusion) != 4 or fusion[1] % 2 or halvings < 1:
        raise keys.fault(f"{prefix}fusion.0.weight {fusion} on two feature maps, and {halvings + 1} convolutions after")
    if len(first) != 4 or 0 in (*fusion, *first):
        shapes = f"{prefix}fusion.0.weight {fusion} and {prefix}feature_extractor.0.weight {first}"
        raise keys.fault(f"{shapes}: expected [O, I, k, k]")
    _matrix_sizes(keys, prefix)
    return {
        "hidden_size": keys.shape(f"{prefix}w1")[0],
        "feature_channels": fusion[1] // 2,
        "feature_size": 2**halvings,
        "fusion_channels": fusion[0],
        "transformer_channels": first[0],
    }
