"""HyperStyle: `{"state_dict": {"hypernet.…", "decoder.…"}, "latent_avg": …, "opts": …}`, or the hypernetwork alone.

Source: the checkpoints that yuval-alaluf/hyperstyle saves. They leave out the encoder of the first codes, which is a
file of its own (faces_w_encoder.pt). No recorded outputs exist for these networks: names, shapes and the order of
operations are facts of that repository's code, checked by synthetic tests alone. Letters: O/I/k output channels, input
channels and kernel side of a weight.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.backbones.from_state import trunk_of
from hyperinverter.models.hyperstyle import INPUT_CHANNELS, ITERATIONS, HyperStyle, HyperStyleConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers, target_names
from hyperinverter.models.wplus import WPlusConfig
from hyperinverter.published.container import STEMS
from hyperinverter.published.from_published import Published, from_published
from hyperinverter.published.keys import Keys, options
from hyperinverter.published.wplus import Checkpoint, fitting_average, halved, open_checkpoint

WHAT = "HyperStyle"
SHARED = "shared_weight_hypernet."
MAX_LEVEL = 14  # log2 of the resolution; no generator of 16384 px is known
ENCODER_TYPES = {False: "SharedWeightsHyperNetResNet", True: "SharedWeightsHyperNetResNetSeparable"}
INFERRED = ("encoder_type", "layers_to_tune", "input_nc", "output_size")
ASKED = ("n_iters_per_batch", "latent_avg", "w_encoder", "dataset_type", "strides")
OPTIONS = dict.fromkeys((*INFERRED, *ASKED))


def read_hyperstyle(content: Any, source: str, given: dict[str, Any]) -> tuple[HyperStyle, Published]:
    """HyperStyle: images [N, 3, H, W] -> codes and, by parameter name, deltas in weight * (1 + delta).

    The resolution, the predicted layers with their shapes, which of them share the hypernetwork, widths, trunk and
    image size are inferred.

    Options: `w_encoder`, file or content of the encoder of the first codes (without it codes must be given to
    `forward`), or what `from_published` read from it; `latent_avg`, [w_dim] or [L, w_dim], where the file has none;
    `n_iters_per_batch` (from the checkpoint's `opts`, else 5); `dataset_type` (from `opts`; one with "cars" in its name
    takes 4:3 images); `strides` of the trunk's stages (as published); `output_size`, `layers_to_tune` ("0,2,3"),
    `input_nc` and `encoder_type`, as the tensors say.
    """
    chosen = options(given, OPTIONS, WHAT)
    result = open_checkpoint(content, WHAT, source, "hypernet.", STEMS)
    hypernet = Keys(_shared_once(result, result.part("hypernet.")), WHAT, source)
    own_encoder = {} if result.is_alone else result.keys.take_prefix("w_encoder.")
    average = result.average(chosen)
    decoder = result.decoder(average)
    config = _sizes(hypernet, chosen, decoder)
    config.n_iters = result.iterations(chosen, ITERATIONS)
    config.wide = "cars" in result.choose(chosen, "dataset_type", "")
    num_ws = 2 * (config.resolution.bit_length() - 2)
    config.w_dim = decoder.w_dim if decoder is not None else average.shape[1] if average is not None else config.w_dim
    average = fitting_average(hypernet, average, num_ws, config.w_dim)
    config.average_rows = 0 if average is None else len(average)
    w_encoder = _w_encoder(chosen["w_encoder"], own_encoder)
    if w_encoder is not None:
        config.w_encoder = _w_encoder_sizes(w_encoder, num_ws, config)
    state = {f"hypernet.{name}": value for name, value in hypernet.state.items()}
    if w_encoder is not None:
        state |= {f"w_encoder.{name}": value for name, value in w_encoder.state_dict().items()}
    return result.built(lambda: HyperStyle(config), state, average, decoder, {"hyperstyle": config.to_json()})


def _shared_once(found: Checkpoint, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict names the shared matrices once more below every block that uses them; keep one each."""
    before = "" if found.is_alone else "hypernet."
    kept = dict(state)
    for key in state:
        match = re.fullmatch(r"refinement_blocks\.\d+\.hypernet\.(w1|b1|w2|b2)", key)
        if match is None:
            continue
        first = kept.setdefault(SHARED + match[1], state[key])  # a file may keep either name of a shared tensor
        if not torch.equal(first, state[key]):
            raise found.keys.fault(f"{before}{key} differs from {before}{SHARED}{match[1]}, which it is meant to be")
        del kept[key]
        found.ignored[before + key] = f"{before}{SHARED}{match[1]} once more"
    return kept


def _sizes(keys: Keys, chosen: dict[str, Any], decoder: Generator | None) -> HyperStyleConfig:
    """Everything that the tensors show, held against the given options."""
    layers = {
        int(m[1]) for key in keys.state if (m := re.fullmatch(r"refinement_blocks\.(\d+)\.convs\.0\.weight", key))
    }
    if not layers:
        raise keys.fault("it has no refinement_blocks.*, which predict the changes of each layer")
    shared = sorted(number for number in layers if f"refinement_blocks.{number}.linear.weight" in keys)
    others = sorted(layers - set(shared))
    token_size, columns = keys.shape(SHARED + "w1", 2)
    rows = keys.shape(SHARED + "w2", 2)[1] // token_size
    resolution = _resolution(keys, max(layers), chosen["output_size"], decoder)
    is_separable = any(".make_kernel_in." in key for key in keys.state)

    config = HyperStyleConfig(
        resolution,
        _layer_shapes(keys, sorted(layers), shared, rows, columns, resolution, decoder),
        shared,
        is_separable,
        _trunk(keys, shared, others, chosen["strides"]),
        token_size=token_size,
        shared_rows=rows,
        shared_columns=columns,
    )
    for numbers, width in ((shared, "shared_width"), (others, "width")):
        if numbers:
            block = f"refinement_blocks.{numbers[0]}."
            setattr(config, width, keys.shape(f"{block}convs.0.weight", 4)[0])
            config.code_size = keys.shape(f"{block}convs.{_convolutions(keys, block)[-1]}.weight", 4)[0]
    keys.agree(chosen, input_nc=INPUT_CHANNELS, layers_to_tune=",".join(str(i) for i in sorted(layers)))
    if any(target_names(resolution, "conv_without_bias")[i].find("torgb") < 0 for i in others):
        keys.agree(chosen, encoder_type=ENCODER_TYPES[is_separable])
    return config


def _resolution(keys: Keys, last: int, given: int | None, decoder: Generator | None) -> int:
    """Of the decoder; else the smallest generator that has the last predicted layer, or a larger one that is given."""
    if decoder is not None:
        keys.agree({"output_size": given}, output_size=decoder.resolution)
        resolution = decoder.resolution
    else:
        level = max(3, math.ceil((last - 1) / 3) + 2)  # 2 layers at 4 px, 3 at every other resolution
        if level > MAX_LEVEL:
            raise keys.fault(f"it changes layer {last}, which no generator has")
        resolution = 2**level if given is None else given
    count = len(target_names(resolution, "conv_without_bias"))
    if last >= count:
        raise keys.fault(f"it changes layer {last}, but a {resolution} px generator has {count} layers")
    return resolution


def _trunk(keys: Keys, shared: list[int], others: list[int], strides: list[int] | None) -> EncoderConfig:
    """The trunk's sizes; the images' size follows from how often a block halves the trunk's last map."""
    with keys.refusing():
        trunk, channels = trunk_of(keys.state, strides=strides)
    if channels != INPUT_CHANNELS:
        raise keys.fault(f"its first convolution reads {channels} channels, expected {INPUT_CHANNELS}: two images")
    block = f"refinement_blocks.{(shared or others)[0]}."
    halvings = len(_convolutions(keys, block))
    if shared:
        halvings -= 1  # the first convolution of a shared block keeps the size
    elif f"{block}output.1.weight" in keys:
        halvings += 1  # the pooling takes the place of the last one
    return halved(trunk, halvings)


def _convolutions(keys: Keys, block: str) -> list[int]:
    """Numbers of a block's convolutions, rising."""
    pattern = re.compile(re.escape(block) + r"convs\.(\d+)\.weight")
    return sorted(int(match[1]) for key in keys.state if (match := pattern.fullmatch(key)))


def _layer_shapes(
    keys: Keys,
    results: list[int],
    shared: list[int],
    rows: int,
    columns: int,
    resolution: int,
    decoder: Generator | None,
) -> dict[int, tuple[int, ...]]:
    """(O, I, k, k) of every predicted layer: of the decoder, else from the sizes of the blocks."""
    if decoder is not None:
        layers = target_layers(decoder)
        return {number: tuple(layers[number].shape) for number in results}
    names = target_names(resolution, "conv_without_bias")
    result: dict[int, tuple[int, ...]] = {}
    # conv1 before conv0 of its block, whose O is its own
    for number in sorted(results, key=lambda i: (names[i].split(".")[0], "conv0" in names[i])):
        block = f"refinement_blocks.{number}.output."
        if number in shared:
            result[number] = (columns // 9 if columns % 9 == 0 else columns, rows, 3, 3)
        elif f"{block}0.make_kernel_in.weight" in keys:
            parts = (f"{block}0.kernel_linear_{part}.weight" for part in ("out", "in"))
            result[number] = (*(keys.shape(part, 2)[0] for part in parts), 3, 3)
        elif "torgb" in names[number]:
            result[number] = (3, keys.shape(f"{block}0.weight", 4)[0] // 3, 1, 1)
        else:
            product = keys.shape(f"{block}1.weight", 4)[0]
            out_channels = math.isqrt(product) if "conv1" in names[number] else result.get(number + 1, (0,))[0]
            if not out_channels or product % out_channels:
                raise keys.fault(f"the shape of {names[number]} does not follow from its tensors without the decoder")
            result[number] = (out_channels, product // out_channels, 3, 3)
    return result


def _w_encoder(given: nn.Module | Mapping[str, Any] | str | Path | None, own: dict[str, Tensor]) -> nn.Module | None:
    """The encoder of the first codes: given, else of the checkpoint itself, as `from_published` reads it."""
    if isinstance(given, nn.Module):
        if not isinstance(getattr(given, "published", None), Published):
            raise ValueError("w_encoder is a module of unknown sizes; give what from_published(..., 'w_encoder') read")
        return given
    if given is None and not own:
        return None
    return from_published(own if given is None else given, "w_encoder")


def _w_encoder_sizes(w_encoder: nn.Module, num_ws: int, config: HyperStyleConfig) -> WPlusConfig:
    """The same encoder as part of the method."""
    sizes = w_encoder.published.config
    trunk = EncoderConfig(**sizes["w_encoder"])
    kind = "BackboneEncoderUsingLastLayerIntoW"
    return WPlusConfig(kind, num_ws, sizes["w_dim"], trunk=replace(trunk, init=None), wide=config.wide)
