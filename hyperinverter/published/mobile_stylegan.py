"""MobileStyleGAN's generator as the package `random-face` publishes it: two OpenVINO graphs become a MobileGenerator.

Modulations, depthwise kernels, biases and the input have names in the graph. Kernels into which demodulation was folded
have none, so each convolution is named by the bias that is added behind it; its noise is what is added in between.
Source: MobileStyleGAN (Belousov, 2021, arXiv:2104.04767).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperinverter.config.schema import GeneratorConfig
from hyperinverter.models.mobile_stylegan import MobileGenerator, band_order, mean_w
from hyperinverter.models.stylegan2.layers import channel_rule
from hyperinverter.published.from_published import Published
from hyperinverter.published.keys import Keys, options
from hyperinverter.published.reading import IrLayer, IrNetwork
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import printable

WHAT = "MobileStyleGAN's generator (random_face)"
GRAPHS = ("MappingNetwork", "SynthesisNetwork")
MOST_MAPPING_LAYERS = 64
LR_MULTIPLIER = GeneratorConfig().mapping_lr_multiplier


def read_generator(content: Any, source: str, given: dict[str, Any]) -> tuple[MobileGenerator, Published]:
    """The generator, with `w_avg` computed, which the package has not. No options.

    Raises UserError: a graph is missing, lacks a constant, or its constants make no generator; names what.
    """
    options(given, {}, WHAT)
    values = content.values() if isinstance(content, Mapping) else ()
    graphs = {value.name: _Graph(value, source) for value in values if isinstance(value, IrNetwork)}
    if missing := [part for part in GRAPHS if part not in graphs]:
        raise UserError(f"{source}: not {WHAT}: it has no graph {missing[0]}")
    mapping, synthesis = (graphs[part] for part in GRAPHS)
    state = {**mapping.mapping(), **synthesis.synthesis()}
    keys = Keys(state, WHAT, source)
    config = _sizes(keys)
    # sizes come out of the file: nothing is allocated before the shapes were compared
    with keys.refusing((RuntimeError, ValueError)), torch.device("meta"):
        network = MobileGenerator(**config)
    stored = _stored({name: keys.take(name) for name in keys.left()}, len(network.synthesis.layers))
    stored["mapping.w_avg"] = torch.zeros(config["w_dim"])
    keys.fill(network, stored, assign=True)
    network.mapping.w_avg.copy_(mean_w(network.mapping))
    return network, Published(network.config, keys.finish())


def _sizes(keys: Keys) -> dict[str, int]:
    """Arguments of the generator that these tensors make."""
    layers = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in keys.state)
    widths = {4: keys.shape("synthesis.conv1.bias")[0]}
    for key in keys.state:
        if match := re.fullmatch(r"synthesis\.layers\.(\d{1,2})\.conv2\.bias", key):
            widths[8 * 2 ** int(match[1])] = keys.shape(key)[0]
    with keys.refusing():
        channel_base, channel_max = channel_rule(widths)
    return {
        "resolution": 2 * max(widths),
        "z_dim": keys.shape("mapping.fc0.weight")[-1],
        "w_dim": keys.shape(f"mapping.fc{layers - 1}.bias")[0],
        "mapping_layers": layers,
        "channel_base": channel_base,
        "channel_max": channel_max,
    }


def _stored(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """From published values to what the generator stores: equalised mapping, bands in another order.

    Only single operations of float32, so that every machine writes the same numbers: other files name their hash.
    """
    stored = dict(state)
    for name, value in state.items():
        if name.startswith("mapping.") and name.endswith(".weight") and value.ndim == 2:
            stored[name] = value * (math.sqrt(value.shape[1]) / LR_MULTIPLIER)
        elif name.startswith("mapping."):
            stored[name] = value / LR_MULTIPLIER
    banded = ["conv1.weight", "conv1.bias", "to_img.weight", "to_img.bias"]  # rows that enter a Haar transform
    banded += [f"layers.{i}.up.modulation.{kind}" for i in range(layers) for kind in ("weight", "bias")]
    banded += [f"layers.{i}.conv2.{kind}" for i in range(layers - 1) for kind in ("pointwise", "bias")]
    for name in banded:
        value = state.get(f"synthesis.{name}")
        if value is not None and value.ndim and len(value) % 4 == 0:  # else its shape is refused
            stored[f"synthesis.{name}"] = value[band_order(len(value))]
    return stored


class _Graph:
    """One of the graphs, asked for constants by where they stand."""

    def __init__(self, network: IrNetwork, source: str) -> None:
        self.network, self.source = network, source
        self.named = {layer.name: layer for layer in network.layers.values() if layer.tensor is not None}

    def mapping(self) -> dict[str, Tensor]:
        """Name -> tensor of every fully connected layer, found from the output backwards."""
        result: list[tuple[Tensor, Tensor]] = []
        (node, *_), seen = self.network.of_kind("Result") or (None,), set()
        while node is not None:
            if node.number in seen:
                raise self._fault("it leads back into itself")
            seen.add(node.number)
            if node.kind == "MatMul":
                result.append((self._weight(node), self._value(self._add(node), 1).flatten()))
            node = self.network.source(node, 0)
        if not result or len(result) > MOST_MAPPING_LAYERS:
            raise self._fault(f"{len(result)} fully connected layers lie between input and output")
        state = {}
        for number, (weight, bias) in enumerate(reversed(result)):
            state |= {f"mapping.fc{number}.weight": weight, f"mapping.fc{number}.bias": bias}
        return state

    def synthesis(self) -> dict[str, Tensor]:
        """Name -> tensor of everything that the synthesis network stores."""
        state = {"synthesis.input": self._named("m.input.input")}
        for convolution in self.network.of_kind("Convolution"):
            added, noise = self._add(convolution), None
            if not self._behind(added, 1).name.endswith(".bias"):
                noise, added = self._value(added, 1), self._add(added)
            bias = self._behind(added, 1)
            match = re.fullmatch(r"m\.((?:layers\.\d{1,2}\.)?(conv1|conv2|to_img))\.bias", bias.name)
            if match is None:
                raise self._fault(f"the bias behind {convolution.name} is called {bias.name!r:.80}")
            name = f"synthesis.{'to_img' if match[2] == 'to_img' else match[1]}"
            if f"{name}.bias" in state:
                raise self._fault(f"it has {match[1]} twice")
            before = self.network.source(convolution, 0)
            separable = before is not None and before.kind == "GroupConvolution"
            state[f"{name}.{'pointwise' if separable else 'weight'}"] = self._value(convolution, 1)
            if separable:
                depthwise = self._value(before, 1)  # [C, 1, 1, 3, 3]: groups first
                state[f"{name}.depthwise"] = depthwise.flatten(1, 2) if depthwise.ndim == 5 else depthwise
            state[f"{name}.bias"] = bias.tensor.flatten()
            if noise is not None:
                state[f"{name}.noise_const"] = noise.flatten(0, 2) if noise.ndim == 4 else noise
            state |= self._modulation(f"m.{match[1]}.conv.modulation", f"{name}.modulation")
        for layer in list(self.named):
            if match := re.fullmatch(r"m\.(layers\.\d{1,2}\.up\.modulation)\.weight", layer):
                state |= self._modulation(f"m.{match[1]}", f"synthesis.{match[1]}")
        return state

    def _modulation(self, published: str, ours: str) -> dict[str, Tensor]:
        weight = self.named.get(f"{published}.weight")
        product = next((user for user in self.network.users(weight) if user.kind == "MatMul"), None) if weight else None
        if product is None:
            raise self._fault(f"it has no {published}.weight that is multiplied")
        return {f"{ours}.weight": self._weight(product), f"{ours}.bias": self._named(f"{published}.bias").flatten()}

    def _weight(self, product: IrLayer) -> Tensor:
        """The constant of a matrix product as [out, in]."""
        weight = self._value(product, 1)
        return weight if product.attributes.get("transpose_b") == "true" else weight.t().contiguous()

    def _named(self, name: str) -> Tensor:
        if name not in self.named:
            raise self._fault(f"it has no constant {name}")
        return self.named[name].tensor

    def _add(self, layer: IrLayer) -> IrLayer:
        """The addition of a constant behind a layer."""
        for user in self.network.users(layer):
            if user.kind == "Add" and user.inputs.get(0) == layer.number:
                return user
        raise self._fault(f"nothing is added to {layer.name!r:.80}")

    def _behind(self, layer: IrLayer, port: int) -> IrLayer:
        """The constant behind an input, past a reshape."""
        result = self.network.source(layer, port)
        if result is not None and result.kind == "Reshape":
            result = self.network.source(result, 0)
        if result is None or result.tensor is None:
            raise self._fault(f"input {port} of {layer.name!r:.80} is no constant")
        return result

    def _value(self, layer: IrLayer, port: int) -> Tensor:
        return self._behind(layer, port).tensor

    def _fault(self, message: str) -> UserError:
        return UserError(f"{self.source}: not {WHAT}: {self.network.name!r:.40}: {printable(message, longest=300)}")
