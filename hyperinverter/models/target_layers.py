"""Which weights of a generator the hypernetworks change, read off the generator itself: names, shapes, style indices.

Source: HyperInverter (Dinh et al., CVPR 2022), section 3.2: "layer j receives the style vector indexed by i".
Letters: O output channels, I input channels, k kernel side, L styles.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from hyperinverter.config.domain_schema import TARGET_SETS
from hyperinverter.models.stylegan2.layers import block_resolutions

_KINDS = ("conv0", "conv1", "torgb")  # the order within a block
_NAME = re.compile(r"b(\d+)\.(conv0|conv1|torgb)\.(?:affine\.)?weight")


@dataclass(frozen=True)
class TargetLayer:
    """One weight to change.

    Attributes:
        name: parameter name below `synthesis.`, such as `b8.conv0.weight`.
        shape: (O, I, k, k) of a convolution, (I, w_dim) of a style affine.
        style_index_true: the style (0 to L-1) that the layer receives in the generator.
        style_index_released: the style whose features released checkpoints feed to this layer's hypernetwork: one more
            than the true one for conv0 and conv1 above 4 px, equal to it elsewhere.
        scaled_dim: which channels of it a scale each changes the image: 0 output, 1 input ones. Input ones are always
            right; demodulation takes the scales of output channels away.
        kind: `conv`, `depthwise` or `pointwise` of a convolution between features, `torgb`, or `affine` of a style.
        px: side of the features that the layer puts out.
    """

    name: str
    shape: tuple[int, ...]
    style_index_true: int
    style_index_released: int
    scaled_dim: int = 1
    kind: str = "conv"
    px: int = 0

    @property
    def is_convolution(self) -> bool:
        """And not a style affine."""
        return len(self.shape) == 4

    @property
    def channels(self) -> int:
        """How many channels `scaled_dim` has."""
        return self.shape[self.scaled_dim]

    @property
    def size(self) -> int:
        """How many numbers the weight has."""
        return math.prod(self.shape)


def target_layer(name: str, shape: Sequence[int]) -> TargetLayer:
    """A target layer from its name alone: with l = log2 of the block's resolution, conv0 receives style 2l - 5, conv1
    2l - 4 and torgb 2l - 3 (which it shares with the next block's conv0).

    Raises ValueError: no weight of a StyleGAN2 synthesis network has this name.
    """
    match = _NAME.fullmatch(name)
    level = int(match[1]).bit_length() - 1 if match else 0
    if match is None or 2**level != int(match[1]) or level < 2 or (level == 2 and match[2] == "conv0"):
        raise ValueError(f"{name}: not a weight of a StyleGAN2 synthesis network, such as b8.conv0.weight")
    style = 2 * level - 5 + _KINDS.index(match[2])
    is_shifted = level > 2 and match[2] != "torgb"
    kind = "affine" if "affine" in name else "torgb" if match[2] == "torgb" else "conv"
    return TargetLayer(name, tuple(shape), style, style + is_shifted, kind=kind, px=2**level)


def target_names(resolution: int, target_set: str) -> list[str]:
    """Names of a target set in the published order: low to high resolution, conv0, conv1, torgb; affines after all.

    Args:
        resolution: of the generator, px.
        target_set: see `target_layers`.
    """
    if target_set not in TARGET_SETS:
        raise ValueError(f"target_set: got {target_set!r}, expected one of {', '.join(TARGET_SETS)}")
    kinds = _KINDS[:2] if target_set == "conv_without_bias_without_torgb" else _KINDS
    layers = [f"b{block}.{kind}" for block in block_resolutions(resolution) for kind in kinds][1:]  # 4 px has no conv0
    names = [f"{layer}.weight" for layer in layers]
    if target_set == "all_without_bias":
        names += [f"{layer}.affine.weight" for layer in layers]
    return names


def stylegan2_target_layers(synthesis: nn.Module, target_set: str) -> list[TargetLayer]:
    """`target_layers` of a StyleGAN2 synthesis network, whose parameters have the published names."""
    shapes = {name: parameter.shape for name, parameter in synthesis.named_parameters()}
    resolutions = [int(match[1]) for name in shapes if (match := _NAME.fullmatch(name))]
    if not resolutions:
        raise ValueError("generator: no parameter such as synthesis.b4.conv1.weight; expected a StyleGAN2 generator")
    return [target_layer(name, shapes[name]) for name in target_names(max(resolutions), target_set) if name in shapes]


def target_layers(
    generator: nn.Module, target_set: str = "conv_without_bias", left_out: Sequence[str] = ()
) -> list[TargetLayer]:
    """A generator's target layers, low to high resolution (StyleGAN2: in the published order).

    Args:
        generator: its `synthesis` tells its own (`target_layers`).
        target_set: `conv_without_bias` (every convolution with torgb), `conv_without_bias_without_torgb`, or
            `all_without_bias` (the first set, then the weights of the style affines in the same order).
        left_out: names, or patterns with `*`, of layers that are not to be changed.

    Raises:
        ValueError: unknown target set, a pattern that fits no layer or every layer, or nothing in the generator that
            looks like a synthesis network.
    """
    if target_set not in TARGET_SETS:
        raise ValueError(f"target_set: got {target_set!r}, expected one of {', '.join(TARGET_SETS)}")
    synthesis = generator.get_submodule("synthesis")
    own = getattr(synthesis, "target_layers", None)
    result = stylegan2_target_layers(synthesis, target_set) if own is None else own(target_set)
    for pattern in left_out:
        if not any(fnmatchcase(layer.name, pattern) for layer in result):
            raise ValueError(f"hypernetwork.left_out: {pattern!r} fits none of {', '.join(t.name for t in result)}")
    kept = [layer for layer in result if not any(fnmatchcase(layer.name, pattern) for pattern in left_out)]
    if not kept:
        raise ValueError(f"hypernetwork.left_out: {', '.join(left_out)} leave no layer to change")
    return kept
