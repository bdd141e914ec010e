"""Which weights of a generator the hypernetworks change, read off the generator itself: names, shapes, style indices.

Source: HyperInverter (Dinh et al., CVPR 2022), section 3.2: "layer j receives the style vector indexed by i".
Letters: O output channels, I input channels, k kernel side, L styles.
"""

import math
import re
from dataclasses import dataclass

from torch import nn

from hyperinverter.config.schema import TARGET_SETS

_CONV_WEIGHT = re.compile(r"b(\d+)\.(conv0|conv1|torgb)\.weight")
_ORDER = {"conv0": 0, "conv1": 1, "torgb": 2}


@dataclass(frozen=True)
class TargetLayer:
    """One weight to change.

    Attributes:
        name: parameter name below `synthesis.`, such as `b8.conv0.weight`.
        shape: (O, I, k, k) of a convolution, (I, w_dim) of a style affine.
        style_index_true: the style (0 to L-1) that the layer receives in the generator.
        style_index_released: the style whose features released checkpoints feed to this layer's hypernetwork: one more
            than the true one for conv0 and conv1 above 4 px, equal to it elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    style_index_true: int
    style_index_released: int

    @property
    def size(self) -> int:
        """How many numbers the weight has."""
        return math.prod(self.shape)


def target_layers(generator: nn.Module, target_set: str = "conv_without_bias") -> list[TargetLayer]:
    """List a StyleGAN2 generator's target layers in the published order: low to high resolution, conv0, conv1, torgb.

    Args:
        generator: any module whose `synthesis` has the published parameter names (`b8.conv0.weight`, ...).
        target_set: `conv_without_bias` (every convolution with torgb), `conv_without_bias_without_torgb`, or
            `all_without_bias` (the first set, then the weights of the style affines in the same order).

    Raises:
        ValueError: unknown target set, or nothing in the generator that looks like a StyleGAN2 synthesis network.
    """
    if target_set not in TARGET_SETS:
        raise ValueError(f"target_set: got {target_set!r}, expected one of {', '.join(TARGET_SETS)}")
    shapes = {name: tuple(parameter.shape) for name, parameter in generator.synthesis.named_parameters()}
    convolutions = sorted(
        (int(match[1]), _ORDER[match[2]], match[2], name) for name in shapes if (match := _CONV_WEIGHT.fullmatch(name))
    )
    if not convolutions:
        raise ValueError("generator: no parameter such as synthesis.b4.conv1.weight; expected a StyleGAN2 generator")
    targets = []
    style = 0  # a torgb shares its style with the next block's conv0, so only convolutions move on
    for resolution, _, kind, name in convolutions:
        released = style + (1 if resolution > 4 and kind != "torgb" else 0)
        targets.append(TargetLayer(name, shapes[name], style, released))
        style += kind != "torgb"
    if target_set == "conv_without_bias_without_torgb":
        return [target for target in targets if ".torgb." not in target.name]
    if target_set == "all_without_bias":
        return targets + [_affine(target, shapes) for target in targets]
    return targets


def _affine(target: TargetLayer, shapes: dict[str, tuple[int, ...]]) -> TargetLayer:
    """The style affine of the same layer: another weight, the same style."""
    name = target.name.removesuffix("weight") + "affine.weight"
    return TargetLayer(name, shapes[name], target.style_index_true, target.style_index_released)
