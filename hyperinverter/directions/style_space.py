"""Single channels of StyleSpace as directions: they add to one layer's style what no step of w could add alone.

Source: StyleSpace (Wu, Lischinski, Shechtman, "StyleSpace Analysis: Disentangled Controls for StyleGAN Image
Generation", CVPR 2021, arXiv:2011.12799). A channel is named by the convolution that reads it: b16.conv0:12.
Letters: N images, C channels of a layer's style.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperinverter.directions.direction import Direction
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers
from hyperinverter.releases.direction_files import STYLE_MARK

MOST_CHANNELS = 2**16  # of a file that may be of any origin
AFFINE = re.compile(r"(.+)\.(affine|modulation)\.weight")


@dataclass
class StyleDirection(Direction):
    """Adds to one channel of one layer's style.

    A strength γ is what is added to the style; a standard deviation is that of the channel over samples of W.

    Attributes:
        vector: along which w moves the channel most, [w_dim], for those who look at it; nothing moves along it.
        layer: name of the style's bias below `synthesis.`.
        channel: of C, counted from 0.
        channels: C.
    """

    layer: str = field(kw_only=True)
    channel: int = field(kw_only=True)
    channels: int = field(kw_only=True)
    adds_vector = False

    def apply(self, inversion: Any, gamma: Tensor, styles: tuple[int, int] | None) -> Any:
        """Raises ValueError where `styles` are given: it moves no style of W."""
        if styles is not None:
            raise ValueError(f"direction {self.name!r} moves one channel, not styles of W; leave `styles` out")
        offset = torch.zeros(1, self.channels, dtype=inversion.ws.dtype, device=inversion.ws.device)
        offset[:, self.channel] = 1
        return inversion.with_offset(self.layer, gamma.reshape(-1, 1) * offset)

    def content(self) -> tuple[dict[str, Tensor], dict]:
        where = {"layer": self.layer, "channel": self.channel, "channels": self.channels}
        return {"direction": self.vector}, {**super().content()[1], "space": "S", "norm": None, **where}


def layers_of(generator: Generator) -> dict[str, str]:
    """Convolution -> name of its style's weight; image heads count too."""
    found = (AFFINE.fullmatch(layer.name) for layer in target_layers(generator, "all_without_bias"))
    return {match[1]: match[0] for match in found if match}


def place_of(config: dict[str, Any]) -> dict[str, Any]:
    """Layer, channel and number of channels from a file's config.

    Raises ValueError: they are not there, or there is no such channel.
    """
    layer, channel, channels = (config.get(key) for key in ("layer", "channel", "channels"))
    whole = isinstance(layer, str) and isinstance(channel, int) and isinstance(channels, int)
    if not (whole and 0 <= config["channel"] < config["channels"] <= MOST_CHANNELS):
        raise ValueError(f"says that it moves channel {channel} of {channels} of layer {layer}; there is none")
    return {"layer": layer, "channel": channel, "channels": channels}


def style_direction(text: str, generator: Generator, generator_hash: str = "") -> StyleDirection:
    """A direction by LAYER:CHANNEL.

    Raises ValueError: it is not written so, or there is no such layer or channel; says which there are.
    """
    layer, _, channel = text.removeprefix(STYLE_MARK).rpartition(":")
    layers = layers_of(generator)
    if layer not in layers:
        raise ValueError(
            f"{text!r} is no channel of a style; write {STYLE_MARK}LAYER:CHANNEL, layers: {', '.join(layers)}"
        )
    weight = generator.synthesis.get_parameter(layers[layer]).detach().float().cpu()  # [C, w_dim]
    number = int(channel) if re.fullmatch(r"[0-9]{1,6}", channel) else len(weight)
    if number >= len(weight):
        raise ValueError(f"{text!r}: {layer} has {len(weight)} channels, counted from 0; got {channel!r}")
    row = weight[number]
    module = generator.synthesis.get_submodule(layers[layer].removesuffix(".weight"))
    z = torch.randn(4000, generator.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        w = generator.mapping(z.to(next(generator.parameters()).device))[:, 0].cpu()
    std = float((w @ row).std()) * float(getattr(module, "weight_gain", 1.0))
    info = {"method": "StyleSpace: one channel of a layer's style", "source": text, "projection_std": std}
    bias = layers[layer].removesuffix("weight") + "bias"
    name = f"{layer}_{number}"
    return StyleDirection(name, row, info, generator_hash, layer=bias, channel=number, channels=len(weight))
