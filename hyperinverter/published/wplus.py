"""pSp, e4e and ReStyle: `{"state_dict": {"encoder.…", "decoder.…"}, "latent_avg": …, "opts": …}`, or the encoder alone.

Source: the checkpoints that eladrich/pixel2style2pixel, omertov/encoder4editing and yuval-alaluf/restyle-encoder save.
pSp's GradualStyleEncoder and e4e's Encoder4Editing have equal tensors, and so have ReStyle's two kinds of encoders; the
kind, the run's `opts` or the option `encoder_type` distinguish them. Letters: L styles, w_dim numbers of a style.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.backbones.from_state import trunk_of
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus import ENCODERS, ReStyleModel, WPlusConfig, WPlusModel, build_model
from hyperinverter.models.wplus.encoders import RESNET_PREFIX
from hyperinverter.models.wplus.model import RESTYLE_ITERATIONS
from hyperinverter.published.container import STEMS, prefix_of, unwrap
from hyperinverter.published.from_published import Published
from hyperinverter.published.keys import Keys, options
from hyperinverter.published.rosinality import read_generator

# names that other published repositories give to the same class
OTHER_NAMES = {
    "EncoderUsingLastLayerIntoW": "BackboneEncoderUsingLastLayerIntoW",  # HyperInverter, on ResNet34
    "WEncoder": "BackboneEncoderUsingLastLayerIntoW",  # HyperStyle
    "SingleStyleCodeEncoder": "BackboneEncoderUsingLastLayerIntoW",  # e4e
    "WPlusEncoder": "BackboneEncoderUsingLastLayerIntoWPlus",  # e4e's followers
}
# read one after the other (plain) or as w and differences from it (progressive): equal tensors
PLAIN_OR_PROGRESSIVE = {
    "pyramid": ("GradualStyleEncoder", "Encoder4Editing"),
    "backbone": ("BackboneEncoder", "ProgressiveBackboneEncoder"),
}
# what is read from a run's options, and of which type it must be to count
READ_OPTS = {
    "encoder_type": str,
    "dataset_type": str,
    "start_from_latent_avg": bool,
    "n_iters_per_batch": int,
    "output_size": int,
    "stylegan_size": int,
}
OPTS = "the training run's options; what the tensors cannot show was read from them"
INFERRED = ("n_styles", "input_nc", "output_size", "stylegan_size", "learn_in_w")
ASKED = ("encoder_type", "input_size", "strides", "latent_avg", "start_from_latent_avg", "dataset_type")
OPTIONS = dict.fromkeys((*INFERRED, *ASKED))


def read_psp(content: Any, source: str, given: dict[str, Any]) -> tuple[WPlusModel, Published]:
    """pSp: images [N, C, H, W] -> ws [N, L, w_dim]; the attribute `encoder` gives the codes without the average.

    Architecture, trunk, L, w_dim, input channels and image size are inferred. From options, else from the checkpoint's
    `opts`: `encoder_type` (published class, where two have equal tensors; else GradualStyleEncoder, BackboneEncoder),
    `start_from_latent_avg` (True where there is an average code), `dataset_type` (one with "cars" in its name takes
    4:3 images).

    Options: `latent_avg`, [w_dim] or [L, w_dim], where the file has none; `strides` of the trunk's stages (as
    published); `input_size`, which an encoder without heads does not show (256); `n_styles`, `input_nc`, `learn_in_w`
    and `output_size` or `stylegan_size` of the generator in px, as the tensors say (an encoder into W without decoder
    has no number of styles: 1024 px then).
    """
    return _read(content, source, given, "pSp")


def read_e4e(content: Any, source: str, given: dict[str, Any]) -> tuple[WPlusModel, Published]:
    """e4e: as `read_psp`, but the first head gives w and the others differences from it, unless `encoder_type` differs.

    The released checkpoints keep the discriminator of codes and optimisers; they are ignored by name.
    """
    return _read(content, source, given, "e4e")


def read_restyle(content: Any, source: str, given: dict[str, Any]) -> tuple[ReStyleModel, Published]:
    """ReStyle on pSp or e4e: images [N, 3, H, W] -> ws [N, L, w_dim] after `n_iters_per_batch` iterations.

    As `read_psp`; of an encoder alone `encoder_type` must be given, since the tensors of ReStyle-pSp (BackboneEncoder)
    and ReStyle-e4e (ProgressiveBackboneEncoder) are alike. More options: `n_iters_per_batch` (from `opts`, else 5).
    """
    return _read(content, source, given, "ReStyle")


def _read(content: Any, source: str, given: dict[str, Any], family: str) -> tuple[Any, Published]:
    what = f"an encoder of {family}"
    is_restyle = family == "ReStyle"
    chosen = options(given, OPTIONS | ({"n_iters_per_batch": None} if is_restyle else {}), what)
    result = open_checkpoint(content, what, source, "encoder.", STEMS)
    encoder = Keys(result.part("encoder."), what, source)
    average = result.average(chosen)
    decoder = result.decoder(average)
    config = _sizes(encoder, family, chosen, result.opts, decoder, average)
    average = fitting_average(encoder, average, config.num_styles, config.w_dim)
    is_added = bool(result.choose(chosen, "start_from_latent_avg", average is not None)) or is_restyle
    if is_added and average is None and not is_restyle:
        raise encoder.fault(
            "start_from_latent_avg is set, but it has no latent_avg; give latent_avg=[w_dim] or [L, w_dim], or "
            "start_from_latent_avg=False"
        )
    config.average_rows = 0 if average is None else len(average)
    config.start_from_latent_avg = is_added
    config.wide = "cars" in result.choose(chosen, "dataset_type", "")
    if is_restyle:
        config.n_iters = result.iterations(chosen, RESTYLE_ITERATIONS)
    state = {f"encoder.{name}": value for name, value in encoder.state.items()}
    return result.built(lambda: build_model(config), state, average, decoder, {family.lower(): config.to_json()})


@dataclass
class Checkpoint:
    """A checkpoint taken apart: its tensors, the run's options, the average code, what was ignored.

    `is_alone`: it is the state dict of one network, without a prefix.
    """

    keys: Keys
    opts: dict[str, Any]
    latent_avg: Any
    ignored: dict[str, str]
    is_alone: bool

    def choose(self, given: Mapping[str, Any], name: str, default: Any) -> Any:
        """An option that was given, else the training run's, else the default."""
        return next((value for value in (given[name], self.opts.get(name)) if value is not None), default)

    def average(self, given: Mapping[str, Any]) -> Tensor | None:
        """The average code as [1 or L, w_dim], given or the file's, from whatever shape it was saved in."""
        value = given["latent_avg"] if given["latent_avg"] is not None else self.latent_avg
        if value is None:
            return None
        if not isinstance(value, Tensor) or value.ndim not in (1, 2, 3) or not value.is_floating_point():
            shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise self.keys.fault(f"latent_avg is {shape}; expected floats [w_dim] or [L, w_dim]")
        return value.detach().float().cpu().reshape(-1, value.shape[-1])

    def iterations(self, given: Mapping[str, Any], default: int) -> int:
        """How often the method refines its result."""
        value = self.choose(given, "n_iters_per_batch", default)
        if not isinstance(value, int) or value < 1:
            raise self.keys.fault(f"n_iters_per_batch is {value!r}, expected at least 1")
        return value

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one network, without its prefix; all of them where there is only one."""
        return self.keys.take_prefix("" if self.is_alone else name)

    def decoder(self, average: Tensor | None) -> Generator | None:
        """The generator, where the checkpoint holds it; its w_avg is the average code."""
        state = {} if self.is_alone else self.keys.take_prefix("decoder.")
        if not state:
            return None
        given = {} if average is None else {"latent_avg": average.mean(0) if len(average) > 1 else average[0]}
        decoder, report = read_generator(state, f"{self.keys.source} (decoder)", given)
        self.ignored |= {f"decoder.{key}": why for key, why in report.ignored.items()}
        return decoder.eval()

    def built(
        self,
        build: Callable[[], Any],
        state: dict[str, Tensor],
        average: Tensor | None,
        decoder: Generator | None,
        sizes: dict[str, Any],
    ) -> tuple[Any, Published]:
        """The method with these weights around its decoder, and what was read; refuses tensors that are left over."""
        with self.keys.refusing():
            network = self.keys.build(build)
        self.keys.fill(network, state if average is None else state | {"latent_avg": average})
        network.decoder = decoder
        sizes["generator"] = None if decoder is None else dict(decoder.config)
        return network, Published(sizes, self.ignored | self.keys.finish())


def open_checkpoint(content: Any, what: str, source: str, network: str, marks: tuple[str, ...]) -> Checkpoint:
    """Take a checkpoint of this family apart.

    Args:
        content: the checkpoint, a flat state dict of it, or the state dict of one network.
        network: prefix of the network that it must hold, "encoder.".
        marks: keys of which that network has at least one.
    """
    state, ignored = unwrap(content, what, source)
    ignored.pop("latent_avg", None)
    if "opts" in ignored:
        ignored["opts"] = OPTS
    opts = content.get("opts")
    opts = opts if isinstance(opts, Mapping) else {}
    opts = {name: opts[name] for name, kind in READ_OPTS.items() if isinstance(opts.get(name), kind)}
    keys = Keys(state, what, source)
    prefix = prefix_of(state, (network, ""), marks)
    if prefix is None:
        raise keys.fault(f"it has none of {', '.join(marks)}, bare or below {network}")
    return Checkpoint(keys, opts, content.get("latent_avg"), ignored, is_alone=not prefix)


def fitting_average(keys: Keys, average: Tensor | None, num_styles: int, w_dim: int) -> Tensor | None:
    """The average code checked against the codes it is added to; one code repeated too often or too seldom is one."""
    if average is None:
        return None
    if average.shape[1] != w_dim:
        raise keys.fault(f"latent_avg has {average.shape[1]} numbers, the codes have {w_dim}")
    if len(average) in (1, num_styles):
        return average
    if not torch.equal(average, average[:1].expand_as(average)):
        raise keys.fault(f"latent_avg has {len(average)} different codes, expected 1 or {num_styles}")
    return average[:1].clone()


def _sizes(
    keys: Keys,
    family: str,
    chosen: dict[str, Any],
    opts: dict[str, Any],
    decoder: Generator | None,
    average: Tensor | None,
) -> WPlusConfig:
    """Read the encoder's sizes off its tensors and hold the given options against them."""
    with keys.refusing():
        trunk, channels = trunk_of(keys.state, strides=chosen["strides"])
    hidden = None
    architecture = _architecture(keys)
    if architecture in PLAIN_OR_PROGRESSIVE:
        w_dim = keys.shape("styles.0.linear.weight", 2)[0]
        num_styles = len({key.split(".")[1] for key in keys.state if key.startswith("styles.")})
        halvings = sum(re.fullmatch(r"styles\.0\.convs\.\d+\.weight", key) is not None for key in keys.state)
        trunk = halved(trunk, halvings)
    else:
        trunk = replace(trunk, input_size=chosen["input_size"] or trunk.input_size)
        numbers, inputs = keys.shape("linear.weight", 2)
        into_w = architecture.endswith("IntoW")
        w_dim = numbers if into_w else average.shape[1] if average is not None else inputs
        num_styles, rest = divmod(numbers, w_dim)
        if rest:
            raise keys.fault(f"linear.weight gives {numbers} numbers, which are no codes of {w_dim}")
        hidden = None if into_w else inputs
        if into_w:
            num_styles = _styles_of_generator(chosen, opts, decoder)
    size = 2 ** (num_styles // 2 + 1)
    keys.agree(chosen, n_styles=num_styles, output_size=size, stylegan_size=size, input_size=trunk.input_size)
    keys.agree(chosen, input_nc=channels, learn_in_w=architecture.endswith("IntoW"))
    if decoder is not None and (decoder.w_dim != w_dim or decoder.num_ws > num_styles):
        raise keys.fault(
            f"its encoder gives {num_styles} codes of {w_dim}, its decoder takes {decoder.num_ws} of {decoder.w_dim}"
        )
    encoder_type = _encoder_type(keys, architecture, family, chosen["encoder_type"], opts, trunk.trunk == "resnet")
    return WPlusConfig(encoder_type, num_styles, w_dim, channels, trunk, hidden)


def halved(trunk: EncoderConfig, halvings: int) -> EncoderConfig:
    """The trunk for images whose last map is halved so often to one pixel."""
    return replace(trunk, input_size=trunk.stem_stride * math.prod(trunk.strides) << halvings)


def _architecture(keys: Keys) -> str:
    """pyramid, backbone, or the published class where the tensors name it."""
    if "styles.0.linear.weight" in keys:
        return "pyramid" if "latlayer1.weight" in keys else "backbone"
    if "linear.weight" not in keys:
        raise keys.fault("it has neither heads (styles.0.linear.weight) nor a last layer (linear.weight)")
    return "BackboneEncoderUsingLastLayerInto" + ("WPlus" if "output_layer_2.3.weight" in keys else "W")


def _styles_of_generator(chosen: dict[str, Any], opts: dict[str, Any], decoder: Generator | None) -> int:
    """How often an encoder into W repeats its code: by the decoder, else by the size that options or run name."""
    if decoder is not None:
        return decoder.num_ws
    sizes = [values.get(name) for values in (chosen, opts) for name in ("output_size", "stylegan_size")]
    size = next((size for size in sizes if size), 1024)
    return chosen["n_styles"] or 2 * int(size).bit_length() - 4


def _encoder_type(
    keys: Keys, architecture: str, family: str, given: str | None, opts: dict[str, Any], is_resnet: bool
) -> str:
    """Our name of the published class: given, named by the run, or the family's own where tensors do not show."""
    candidates = PLAIN_OR_PROGRESSIVE.get(architecture, (architecture,))
    named = given if given is not None else opts.get("encoder_type")
    if named is None:
        if len(candidates) == 1 or family == "pSp":
            return candidates[0]
        if family == "e4e" or architecture == "pyramid":
            return candidates[family == "e4e"]
        raise keys.fault(
            f"its tensors do not tell ReStyle-pSp from ReStyle-e4e; give encoder_type={candidates[0]!r} or "
            f"{candidates[1]!r}, as the training run was told"
        )
    bare = named.removeprefix(RESNET_PREFIX)
    ours = OTHER_NAMES.get(bare, bare)
    if ours not in candidates or (named.startswith(RESNET_PREFIX) and not is_resnet):
        prefix = RESNET_PREFIX if is_resnet else ""
        message = "was given" if given is not None else "stands in its opts"
        fitting = " or ".join(prefix + name for name in candidates)
        known = "" if ours in ENCODERS else f" (known: {', '.join(ENCODERS)})"
        remedy = "" if given is not None else f"; if that is what it is under another name, give encoder_type={fitting}"
        raise keys.fault(f"encoder_type {named!r} {message}{known}, but its tensors are those of {fitting}{remedy}")
    return ours
