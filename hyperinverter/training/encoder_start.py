"""What pSp, e4e, ReStyle and HyperStyle start from: their networks around a generator, and their trunk's weights."""

from dataclasses import dataclass, field, fields

from hyperinverter.config.encoder_schema import TrainEncoderConfig
from hyperinverter.config.schema import FROM_E1, EncoderConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.hyperstyle import HyperStyle, HyperStyleConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus import Encoder4Editing, ProgressiveBackboneEncoder, WPlusConfig, WPlusModel, build_model
from hyperinverter.models.wplus.encoders import start_at_w
from hyperinverter.pretrained.load import fill, hash_of, load_w_encoder
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.start import load_trunk, to_continue
from hyperinverter.utils.errors import UserError

# published: which encoder each method has; ReStyle's reads one map in place of three
ENCODER_TYPES = {
    "psp": "GradualStyleEncoder",
    "e4e": "Encoder4Editing",
    "restyle over psp": "BackboneEncoder",
    "restyle over e4e": "ProgressiveBackboneEncoder",
}
INTO_W = "BackboneEncoderUsingLastLayerIntoW"  # Phase I's E1


@dataclass(frozen=True)
class EncoderStart:
    """A method before its training.

    Attributes:
        model: the whole, around its generator.
        trained: what is trained of it; `part` is its name.
        origin: a sentence on where it starts from.
        frozen: part -> weights hash of what it is built on beside the generator.
    """

    model: WPlusModel | HyperStyle
    trained: Trunk
    part: str
    origin: str
    frozen: dict[str, str] = field(default_factory=dict)


def start_encoder(config: TrainEncoderConfig, generator: Generator) -> EncoderStart:
    """The method's networks: going on from `init_from`, else with the trunk that the domain names, else random."""
    model: WPlusModel | HyperStyle
    trained: Trunk
    if config.method == "hyperstyle":
        w_encoder = load_w_encoder(obtain_weights(config.domain, "w_encoder"), generator, config.domain)
        model = build_hyperstyle(config, generator, w_encoder)
        trained, part, frozen = model.hypernet, "hypernet", {"w_encoder": hash_of(w_encoder)}
    else:
        model = build_wplus(config, generator)
        trained, part, frozen = model.encoder, "encoder", {}
    if (average := generator.mapping.w_avg) is None:
        raise UserError(
            "the generator has no mean of w (w_avg), around which codes are learned; give another generator"
        )
    model.latent_avg = average.detach().clone()[None]
    if config.init_from is not None:
        file = to_continue(config.init_from, config.method, config.domain)
        state = {key.removeprefix(f"{part}."): value for key, value in file.state.items() if key.startswith(f"{part}.")}
        fill(trained, state, file.path)
        return EncoderStart(model, trained, part, f"it goes on from {file.path}, with a fresh optimiser", frozen)
    trunk = trunk_of(config)
    if trunk.init is None:
        return EncoderStart(model, trained, part, "it starts from random weights", frozen)
    source = str(obtain_weights(config.domain, "w_encoder")) if trunk.init == FROM_E1 else trunk.init
    key = "trunk" if config.trunk_from == "own" else f"domain.{config.trunk_from}"
    return EncoderStart(model, trained, part, f"its trunk starts from {load_trunk(trained, source, key)}", frozen)


def trunk_of(config: TrainEncoderConfig) -> EncoderConfig:
    """Sizes and start of the method's trunk."""
    section = config.trunk if config.trunk_from == "own" else getattr(config.domain, config.trunk_from)
    return EncoderConfig(**{each.name: getattr(section, each.name) for each in fields(EncoderConfig)})


def build_wplus(config: TrainEncoderConfig, generator: Generator) -> WPlusModel:
    """pSp, e4e or ReStyle, with random weights."""
    is_restyle = config.method == "restyle"
    name = f"restyle over {config.restyle_over}" if is_restyle else config.method
    sizes = WPlusConfig(
        ENCODER_TYPES[name],
        generator.num_ws,
        generator.w_dim,
        input_channels=6 if is_restyle else 3,
        trunk=trunk_of(config),
        head_width=config.head_width,
        average_rows=1,
        n_iters=config.n_iters if is_restyle else None,
    )
    model = build_model(sizes, generator)
    if isinstance(model.encoder, Encoder4Editing | ProgressiveBackboneEncoder):
        start_at_w(model.encoder)
    return model


def build_hyperstyle(config: TrainEncoderConfig, generator: Generator, w_encoder: WEncoder) -> HyperStyle:
    """HyperStyle around E1, with random weights; what the domain leaves out for its hypernetworks is left out here too.

    Args:
        w_encoder: the domain's E1, which stays as it is.
    """
    own = config.hyperstyle
    e1 = WPlusConfig(INTO_W, generator.num_ws, generator.w_dim, trunk=config.domain.w_encoder)
    sizes = HyperStyleConfig.of(
        generator,
        left_out=config.domain.hypernetwork.left_out,
        code_size=own.code_size,
        trunk=trunk_of(config),
        width=own.width,
        shared_width=own.shared_width,
        separable=own.separable,
        n_iters=config.n_iters,
        w_encoder=e1,
    )
    model = HyperStyle(sizes, generator)
    model.w_encoder = w_encoder.eval().requires_grad_(False)
    model.w_encoder.input_shape = (w_encoder.input_size, w_encoder.input_size)
    return model
