"""Weight residuals of a generator's images, by parameter name: what every synthesis network does with them.

Source: HyperInverter (arXiv:2112.00719), section 3.2: the prediction is added to the stored weight of each layer.
Letters: N images, L styles, O/I/k output and input channels and kernel side, M = N, or 1 for what the batch shares.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

from torch import Tensor, nn

CHANNEL_UNIT = 0.25  # a number x scales its channel by 1 + 0.25 x; twice that, and refined faces have broken textures
NOISE_MODES = ("const", "random", "none")


class Kernel(NamedTuple):
    """A convolution's weight with what does not depend on the style already computed.

    Attributes:
        weight: stored weight plus residual, [M, O, I, k, k].
        energy: `kernel_energy` of it, [M, O, I].
    """

    weight: Tensor
    energy: Tensor


class ChannelScales(NamedTuple):
    """The residual of a convolution's weight that is scaled per channel: stored weight times these numbers.

    `scales`: [M, O, 1, 1, 1] of output or [M, 1, I, 1, 1] of input channels, dimensionless; 0 changes nothing.
    """

    scales: Tensor

    @property
    def factors(self) -> Tensor:
        """What the stored weight is multiplied by, of the shape of `scales`."""
        return 1 + self.scales

    @classmethod
    def of(cls, numbers: Tensor, dim: int) -> "ChannelScales":
        """From numbers [M, channels] in CHANNEL_UNIT; dim 0: of output channels, 1: of input channels."""
        scales = CHANNEL_UNIT * numbers
        return cls(scales[:, :, None, None, None] if dim == 0 else scales[:, None, :, None, None])


class FeatureResidual(NamedTuple):
    """What is added to the features of a layer; its name in a mapping is the layer's, see `feature_layers`.

    `values`: [M, C, r, r].
    """

    values: Tensor


class FeatureCode(NamedTuple):
    """A residual of a layer's features in the few channels in which it was predicted; models/feature_residual.py.

    Attributes:
        numbers: [N, c, p, p], dimensionless, in float32 but as float16 holds them, which is how files keep them.
        ws: the codes that it was predicted at, [N, L, w_dim], from which it is carried to those of an edit.
    """

    numbers: Tensor
    ws: Tensor


Residuals = Mapping[str, Tensor | Kernel | ChannelScales | FeatureResidual]


def dense(parameter: Tensor, residual: "Tensor | Kernel | ChannelScales | FeatureResidual") -> Tensor:
    """A residual as what is added to the stored parameter, [M, *shape of the parameter]."""
    assert not isinstance(residual, Kernel | FeatureResidual), f"a {type(residual).__name__}"
    return parameter * residual.scales if isinstance(residual, ChannelScales) else residual


def rows_of(residuals: Residuals) -> int:
    """How many images residuals are for; 0 of none, 1 of those that a batch shares."""
    return max((len(value[0] if isinstance(value, tuple) else value) for value in residuals.values()), default=0)


def with_residual(parameter: Tensor, residuals: Residuals, name: str) -> Tensor:
    """Stored parameter plus its residual, [M, *shape of the parameter]."""
    residual = residuals.get(name)
    if isinstance(residual, ChannelScales):
        return parameter * residual.factors
    residual = residual_of(residuals, name)
    return parameter.unsqueeze(0) if residual is None else parameter + residual


def residual_of(residuals: Residuals, name: str) -> Tensor | None:
    """The residual of a parameter that is never a `Kernel` or scaled, [M, *shape]; None where it has none."""
    residual = residuals.get(name)
    assert not isinstance(residual, tuple), f"{name}: a {type(residual).__name__}"
    return residual


def feature_residual(residuals: Residuals, layer: str) -> Tensor | None:
    """What is added to the features of a layer, [M, C, r, r]; None where nothing is."""
    residual = residuals.get(layer)
    return residual.values if isinstance(residual, FeatureResidual) else None


def with_feature_residual(x: Tensor, residuals: Residuals, layer: str) -> Tensor:
    """Features [N, C, r, r] of a layer plus their residual, where they have one."""
    values = feature_residual(residuals, layer)
    return x if values is None else x + values


def check_feature_layer(synthesis: nn.Module, layer: str | None) -> tuple[int, int, int]:
    """The shape (C, r, r) of a layer's features.

    `synthesis`: gives `feature_layers`: name -> (C, r). Raises ValueError: it has no such layer; lists those it has.
    """
    layers = cast(dict[str | None, tuple[int, int]], synthesis.feature_layers)
    if layer not in layers:
        known = ", ".join(f"{name} ({px} px)" for name, (_, px) in layers.items())
        raise ValueError(
            f"this {synthesis.resolution} px generator has no layer {layer!r} whose features can be changed; "
            f"write one of {known}"
        )
    channels, px = layers[layer]
    return channels, px, px


def part_of(residuals: Residuals, part: str) -> Residuals:
    """The residuals of one submodule, by their names inside it."""
    if not residuals:
        return residuals
    prefix = part + "."
    return {name.removeprefix(prefix): value for name, value in residuals.items() if name.startswith(prefix)}


def of_image(residuals: Residuals, i: int) -> Residuals:
    """The residuals of one image of a batch; what the batch shares stays."""

    def row(value: Tensor) -> Tensor:
        return value if len(value) == 1 else value[i : i + 1]

    return {name: type(value)(*map(row, value)) if isinstance(value, tuple) else row(value)
            for name, value in residuals.items()}  # fmt: skip


def check_drawing(synthesis: nn.Module, ws: Tensor, residuals: Residuals, noise_mode: str) -> None:
    """Refuse what a synthesis network cannot draw.

    Args:
        synthesis: gives L (`num_ws`), `w_dim`, its parameters and its `resolution`.
        ws: must be [N, L, w_dim].
        noise_mode: must be one of NOISE_MODES.
    Raises:
        ValueError: names what was got and what was expected.
    """
    if ws.ndim != 3 or ws.shape[1:] != (synthesis.num_ws, synthesis.w_dim):
        raise ValueError(f"expected ws [N, {synthesis.num_ws}, {synthesis.w_dim}], got {tuple(ws.shape)}")
    if noise_mode not in NOISE_MODES:
        raise ValueError(f"unknown noise_mode {noise_mode!r}, expected one of {NOISE_MODES}")
    check_residuals(synthesis, residuals, len(ws))


def check_residuals(synthesis: nn.Module, residuals: Residuals, n: int) -> None:
    """Refuse residuals that are not of these parameters, or not for `n` images.

    Raises ValueError: names the residual and the shape that it must have.
    """
    if not residuals:
        return
    parameters = dict(synthesis.named_parameters())
    for name, value in residuals.items():
        if isinstance(value, FeatureResidual):
            features = check_feature_layer(synthesis, name)
            if value.values.shape not in ((1, *features), (n, *features)):
                message = f"must be {(n, *features)} (or N = 1), got {tuple(value.values.shape)}"
                raise ValueError(f"feature residual {name!r} {message}")
            continue
        if name not in parameters:
            raise ValueError(f"weight_residuals: {name!r} is no parameter of this {synthesis.resolution} px generator")
        shape: tuple[int, ...] = parameters[name].shape
        if isinstance(value, ChannelScales):
            if len(shape) != 4 or value.scales.ndim != 5:  # files may be of any origin
                raise ValueError(
                    f"weight residual {name!r} scales channels, in shape {tuple(value.scales.shape)}: expected a "
                    "convolution's weight, and [N, O, 1, 1, 1] or [N, 1, I, 1, 1]"
                )
            dim = 0 if value.scales.shape[1] > 1 else 1
            shape = tuple(size if i == dim else 1 for i, size in enumerate(shape))
        value = value[0] if isinstance(value, tuple) else value
        if value.ndim != len(shape) + 1 or value.shape[1:] != shape or value.shape[0] not in (1, n):
            raise ValueError(f"weight residual {name!r} must be {(n, *shape)} (or N = 1), got {tuple(value.shape)}")
