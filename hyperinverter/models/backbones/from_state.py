"""Read a trunk's sizes off a state dict under the published names, so that no reader keeps a table of its own.

Sources: IR-SE as in ArcFace (Deng et al., CVPR 2019), ResNet (He et al., CVPR 2016); unit counts from their tables.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from torch import Tensor

from hyperinverter.config.schema import EncoderConfig

# number of units -> units of each stage; needed where two stages are equally wide, else the widths tell
IR_DEPTHS = {24: [3, 4, 14, 3], 49: [3, 13, 30, 3], 50: [3, 8, 36, 3]}
RESNET_DEPTHS = {8: [2, 2, 2, 2], 16: [3, 4, 6, 3]}
# what the tensors do not show, as published
IR_STRIDES = [2, 2, 2, 2]
RESNET_STRIDES = [1, 2, 2, 2]


def trunk_of(
    state: Mapping[str, Tensor], input_size: int = 256, strides: Sequence[int] | None = None
) -> tuple[EncoderConfig, int]:
    """Kind and sizes of the trunk whose tensors lie in a state dict, beside others.

    Args:
        state: published key -> tensor, without a prefix such as `encoder.`.
        input_size: side in px of the images it takes, which the tensors do not show.
        strides: of the four stages, which they do not show either; None: as published.
    Returns:
        The config and the number of input channels.
    Raises:
        ValueError: it holds no such trunk, or its stages cannot be distinguished; says what was found.
    """
    kind = "resnet" if "conv1.weight" in state else "ir"
    stem_key = "conv1.weight" if kind == "resnet" else "input_layer.0.weight"
    if stem_key not in state:
        raise ValueError("it has neither input_layer.0.weight (an IR-SE trunk) nor conv1.weight (a ResNet trunk)")
    stem = state[stem_key]
    # The convolution that sets a unit's width; body.3.res_layer.3.weight or body.3.conv2.weight.
    pattern = re.compile(r"body\.(\d+)\." + (r"conv2" if kind == "resnet" else r"res_layer\.3") + r"\.weight")
    units = {int(match[1]): value for key, value in state.items() if (match := pattern.fullmatch(key))}
    result = {number: value.shape[0] for number, value in units.items() if value.ndim == 4}
    if stem.ndim != 4 or not result or sorted(result) != list(range(len(result))):
        raise ValueError(
            f"its trunk is not whole: {stem_key} has shape {tuple(stem.shape)}, units found: {len(result)}"
        )
    if kind == "ir" and "body.0.res_layer.5.fc1.weight" in state:
        kind = "ir_se"
    widths, depths = _stages([result[i] for i in range(len(result))], kind)
    config = EncoderConfig(
        trunk=kind,
        input_size=input_size,
        stem_width=stem.shape[0],
        widths=widths,
        depths=depths,
        strides=list(strides if strides is not None else RESNET_STRIDES if kind == "resnet" else IR_STRIDES),
        stem_stride=1 if stem.shape[-1] == 3 else 2,  # 3x3 or 7x7
    )
    return config, stem.shape[1]


def _stages(unit_widths: list[int], kind: str) -> tuple[list[int], list[int]]:
    """Widths and depths of the four stages from the width of every unit."""
    depths = (RESNET_DEPTHS if kind == "resnet" else IR_DEPTHS).get(len(unit_widths))
    if depths is not None:
        ends = [sum(depths[: stage + 1]) for stage in range(4)]
        stages = [unit_widths[end - depth : end] for end, depth in zip(ends, depths, strict=True)]
        if all(len(set(stage)) == 1 for stage in stages):
            return [stage[0] for stage in stages], list(depths)
    runs = [(width, len(list(units))) for width, units in groupby(unit_widths)]
    if len(runs) != 4:
        raise ValueError(
            f"its trunk has {len(unit_widths)} units of widths {', '.join(str(width) for width, _ in runs)}; expected "
            f"four stages of different widths, or as many units as IR-50, IR-101, IR-152, ResNet18 or ResNet34"
        )
    return [width for width, _ in runs], [depth for _, depth in runs]
