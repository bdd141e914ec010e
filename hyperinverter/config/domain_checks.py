"""What the settings of a domain must fulfil beyond their type, and such settings from the plain values of a file."""

import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from hyperinverter.config import domain_schema as s
from hyperinverter.config import rules
from hyperinverter.config.domain_schema import FUSION_NORMS, MAPPERS, MOST_PASSES, FeatureResidualConfig
from hyperinverter.config.rules import Checks, Problem, problems_by

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
LONGEST_LIST = 64  # stages of a trunk, taps of a filter


def _generator(c: s.GeneratorConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "z_dim w_dim")
    yield from rules.between_0_and_1(c, "w_avg_beta")
    yield from rules.choice(c, "architecture", s.GENERATORS)
    yield from _networks(c)
    if c.architecture == s.MOBILE:
        usual = s.GeneratorConfig()
        own = {"z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max", "architecture"}
        foreign = [f.name for f in fields(c) if f.name not in own and getattr(c, f.name) != getattr(usual, f.name)]
        if foreign:
            yield Problem(tuple(foreign), f"is a key of StyleGAN2, which {s.MOBILE} has not; leave it out")


def _discriminator(c: s.DiscriminatorConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "mbstd_group_size cmap_dim")
    yield from rules.at_least(c, 0, "mbstd_num_channels")
    yield from rules.choice(c, "epilogue_activation", s.ACTIVATIONS)
    yield from rules.choice(c, "architecture", s.ARCHITECTURES)
    yield from _networks(c)


def _networks(c: s.GeneratorConfig | s.DiscriminatorConfig) -> Iterator[Problem]:
    yield from rules.at_least(
        c, 1, "channel_base channel_max img_channels mapping_embed_features mapping_layer_features"
    )
    yield from rules.at_least(c, 0, "c_dim mapping_layers")
    yield from rules.choice(c, "activation mapping_activation", s.ACTIVATIONS)
    yield from rules.positive(c, "conv_clamp mapping_lr_multiplier")
    if sum(c.resample_filter) == 0:
        yield Problem(("resample_filter",), f"must be taps with a sum other than zero, got {c.resample_filter}")


def _encoder(c: s.EncoderConfig) -> Iterator[Problem]:
    yield from rules.choice(c, "trunk", s.TRUNKS)
    yield from rules.power_of_two(c, "input_size", 16)
    yield from rules.at_least(c, 1, "stem_width")
    for key in ("widths", "depths", "strides"):
        values = getattr(c, key)
        if len(values) != 4:
            yield Problem((key,), f"must have 4 entries, one per stage; got {len(values)}: {values}")
        elif key == "strides" and not set(values) <= {1, 2}:
            yield Problem((key,), f"each stage keeps (1) or halves (2) the size; got {values}")
        elif min(values) < 1:
            yield Problem((key,), f"each must be 1 or more, got {values}")
    yield from rules.at_least(c, 1, "pool")
    yield from rules.positive(c, "linear_rate")
    if c.trunk == "efficientnet_lite0":
        for key, value in s.EFFICIENTNET_LITE0.items():
            if key != "strides" and getattr(c, key) != value:
                yield Problem(
                    (key,), f"is {value} for trunk efficientnet_lite0, which has one size; got {getattr(c, key)}"
                )
    if c.stem_stride not in (1, 2):
        yield Problem(("stem_stride",), f"must be 1 (3x3 stem) or 2 (7x7 stem), got {c.stem_stride}")


def _layerwise_encoder(c: s.LayerwiseEncoderConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "feature_channels pyramid_channels")
    yield from rules.power_of_two(c, "feature_size", 8)  # the hypernetworks halve it three times
    last = c.input_size // (c.stem_stride * math.prod(c.strides))
    if len(c.strides) == 4 and last < c.feature_size:
        message = (
            f"({c.strides}, stem {c.stem_stride}) bring {c.input_size} px down to {last} px, below feature_size "
            f"({c.feature_size}); write 1 for some strides or raise input_size"
        )
        yield Problem(("strides", "input_size", "stem_stride", "feature_size"), message)


def _hypernetwork(c: s.HypernetworkConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "hidden_size fusion_channels transformer_channels")
    yield from rules.choice(c, "target_set", s.TARGET_SETS)
    yield from rules.choice(c, "weight_layout", s.WEIGHT_LAYOUTS)
    yield from rules.choice(c, "style_index", s.STYLE_INDICES)
    yield from rules.choice(c, "init", s.HYPERNETWORK_INITS)
    yield from rules.choice(c, "token_range", s.TOKEN_RANGES)
    yield from rules.choice(c, "mapper", MAPPERS)
    yield from rules.choice(c, "fusion_norm", FUSION_NORMS)
    yield from rules.at_least(c, 1, "passes")
    if c.passes > MOST_PASSES:
        yield Problem(("passes",), f"must be {MOST_PASSES} or less, got {c.passes}")
    if c.passes > 1 and not c.use_w_image_features:
        message = "has E2 look at what was drawn, which use_w_image_features: false leaves out; write true"
        yield Problem(("passes", "use_w_image_features"), message)
    if c.mapper == "channel_scales" and (c.token_range != "signed" or c.init == "gradients"):
        message = "scales up and down from 0; write token_range: signed and init: signal_preserving"
        yield Problem(("mapper", "token_range", "init"), message)
    if c.mapper == "channel_scales" and c.target_set == "all_without_bias":
        message = "scales convolutions, not the style affines of all_without_bias; write target_set: conv_without_bias"
        yield Problem(("mapper", "target_set"), message)
    if c.init == "gradients" and c.token_range != "signed":
        message = "starts tokens at 0, where the ReLU of non_negative ones has no gradient; write token_range: signed"
        yield Problem(("init", "token_range"), message)


def _domain(c: s.DomainConfig) -> Iterator[Problem]:
    yield from rules.not_empty(c, "name")
    yield from rules.file_names(c, "name directions" if c.name else "directions")
    yield from rules.choice(c, "kind", ("faces", "scenes"))
    yield from rules.choice(c, "alignment", ("ffhq", "none"))
    yield from rules.power_of_two(c, "resolution loss_resolution", 8)
    if c.alignment == "ffhq" and c.kind == "scenes":
        yield Problem(("alignment", "kind"), "ffhq aligns faces, but kind is scenes; write alignment: none")
    if c.w_encoder.init == s.FROM_E1:
        message = f"{s.FROM_E1} is E1 itself, from which only layerwise_encoder can start; write init: null"
        yield Problem(("w_encoder.init",), message)
    if c.layerwise_encoder.init == s.FROM_E1:
        for key in ("trunk", "stem_width", "stem_stride", "widths", "depths"):
            e1, e2 = getattr(c.w_encoder, key), getattr(c.layerwise_encoder, key)
            if e1 != e2:
                message = f"starts E2 from E1, but {key} is {e2} for E2 and {e1} for E1; make them equal, or init: null"
                yield Problem(("layerwise_encoder.init", f"layerwise_encoder.{key}"), message)


DOMAIN_CHECKS: Checks = {
    **rules.by_section(_generator, _discriminator, _encoder, _layerwise_encoder, _hypernetwork, _domain),
    FeatureResidualConfig: lambda c: rules.at_least(c, 1, "channels width"),
}


def recorded_section(section_class: type[T], values: object, name: str) -> T:
    """One section; keys that are absent keep their defaults.

    Args:
        values: as JSON gives them.
        name: how the refusal calls the section.
    Raises:
        ValueError: no mapping, an unknown key, a value of another type or out of range; names the first few.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no mapping")
    if foreign := sorted(set(values) - {field.name for field in fields(section_class)}):
        raise ValueError(f"{name} has {', '.join(foreign[:3])[:100]}, which this version does not know")
    hints = get_type_hints(section_class)
    if missing := [field.name for field in fields(section_class) if _is_required(field) and field.name not in values]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    if wrong := [key for key, value in values.items() if not _is(value, hints[key])]:
        raise ValueError(f"{name}.{wrong[0]} is of the wrong type")
    section = section_class(**values)
    if problem := next(problems_by(DOMAIN_CHECKS, section), None):
        raise ValueError(f"{name}.{problem.keys[0]} {problem.message}"[:300])
    return section


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _is(value: object, hint: Any) -> bool:
    return any(_is_one(value, option) for option in rules.options(hint))


def _is_one(value: object, kind: Any) -> bool:
    if isinstance(value, list | tuple) and type(value) is get_origin(kind):
        return len(value) <= LONGEST_LIST and all(_is(entry, get_args(kind)[0]) for entry in value)
    if get_origin(kind) is dict:
        key, inside = get_args(kind)
        return isinstance(value, dict) and all(_is(k, key) and _is(v, inside) for k, v in value.items())
    if kind is float:
        return type(value) in (int, float) and abs(cast(float, value)) < 1e30  # NaN is not
    if kind is int:
        return type(value) is int and abs(value) < 2**31
    return type(value) is kind
