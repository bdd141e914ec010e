"""Train another published encoder on a domain's generator, which stays frozen: pSp, e4e, ReStyle or HyperStyle.

Data, losses, loop, resume and validation are Phase I's (`loop.py`); the methods' own losses are in
`encoder_objectives.py`. Sources: pSp (arXiv:2008.00951), e4e (arXiv:2102.02766), ReStyle (arXiv:2104.02699), HyperStyle
(arXiv:2111.15666) and their public training code.
"""

from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import torch

from hyperinverter.config.encoder_schema import TrainEncoderConfig
from hyperinverter.config.schema import FROM_E1, EncoderConfig
from hyperinverter.data.loader import open_training_data
from hyperinverter.data.sources import check_training_data
from hyperinverter.losses import TotalLoss, build_losses
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.hyperstyle import HyperStyle, HyperStyleConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus import (
    Encoder4Editing,
    ProgressiveBackboneEncoder,
    ReStyleModel,
    WPlusConfig,
    WPlusModel,
    build_model,
)
from hyperinverter.models.wplus.encoders import start_at_w
from hyperinverter.ops.batch_norm import synchronised
from hyperinverter.pretrained.load import fill, hash_of, load_generator, load_w_encoder
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.common import set_up
from hyperinverter.training.encoder_objectives import E4eObjective, HyperStyleObjective, Objective, WPlusObjective
from hyperinverter.training.export import export_method
from hyperinverter.training.guard import guarded
from hyperinverter.training.latent_adversary import LatentAdversary
from hyperinverter.training.loop import Trainee, fit
from hyperinverter.training.optim import build_optimizer
from hyperinverter.training.resume import Parts, find_state
from hyperinverter.training.start import (
    load_discriminator_of_losses,
    load_trunk,
    photo_resolution,
    to_continue,
    training_resolution,
)
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import check_divides, in_all_processes
from hyperinverter.utils.errors import UserError

# of which a training state can have only one value
SIZES = ("method", "restyle_over", "trunk_from", "head_width", "hyperstyle", "latent_discriminator.pool_size")
TITLES = {"psp": "pSp", "e4e": "e4e", "restyle": "ReStyle", "hyperstyle": "HyperStyle"}
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


@in_all_processes
@guarded
def train(config: TrainEncoderConfig) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best model goes to `<output>/model`, the last to `<output>/model_last`.

    Result and errors are those of Phase I's.
    """
    device, domain, method = set_up(config), config.domain, config.method
    check_divides("schedule.batch_size", config.schedule.batch_size, config.gradient_accumulation)
    check_training_data(config.data)
    generator = load_generator(obtain_weights(domain, "generator"), domain).to(device).requires_grad_(False)
    generator.synthesis.recompute_from_px = config.recompute_from_px
    start = start_encoder(config, generator)
    frozen = {"generator": hash_of(generator), **start.frozen}
    discriminator, used = load_discriminator_of_losses(config, frozen)
    own = [*SIZES, *(["trunk"] if config.trunk_from == "own" else [])]
    networks = ["generator", *(["w_encoder"] if start.frozen else []), *({config.trunk_from} - {"own"})]
    resumed = find_state(config, trainer="encoder", networks=networks, frozen=used, settings=own)
    losses = build_losses(config.loss_weights, discriminator=discriminator, loss_resolution=domain.loss_resolution)
    losses = losses.to(device).eval()
    size = drawing_resolution(config, generator, losses)
    photo_px = min(domain.resolution, max(photo_resolution(size, domain), trunk_of(config).input_size))
    data = open_training_data(config.data, domain, config.seed, generator, device, photo_px)

    network = to_device(start.model, device)
    trained = synchronised(start.trained.requires_grad_(True).train(), config.sync_batchnorm)
    optimizer = build_optimizer(trained.parameters(), config.optimizer)
    parts: Parts = {start.part: trained, "optimizer": optimizer}
    rates = {optimizer: config.optimizer}
    adversary = build_adversary(config, generator, device)
    if adversary is not None:
        parts |= adversary.parts()
        rates[adversary.optimizer] = adversary.config.optimizer
    objective = build_objective(config, start, losses, size, adversary)
    folder = Path(config.output) / "model"
    trainee = Trainee(
        trainer="encoder",
        title=TITLES[method],
        network=trained,
        parts=parts,
        rates=rates,
        frozen=used,
        origin=start.origin,
        update=lambda images, _, step, measure: objective.update(images, step, optimizer, measure=measure),
        measure=objective.measure,
        draw=objective.draw,
        pictures=f"input_{method}",
        write=partial(export_method, method, network, domain, frozen),
        then=f"{command_of('evaluate')} model={folder} 'methods=[{method}]' data.root=FOLDER",
        notes=objective.notes,
    )
    return fit(config, trainee, resumed, data, device)


def drawing_resolution(config: TrainEncoderConfig, generator: Generator, losses: TotalLoss) -> int:
    """Side in px at which images are drawn: large enough for the losses, and for the trunk where it sees them."""
    size = training_resolution(generator, config.domain, losses)
    if config.method not in ("restyle", "hyperstyle"):
        return size
    seen = min(generator.resolution, trunk_of(config).input_size)
    return max(size, min(px for px in generator.synthesis.resolutions if px >= seen))


def uses_e4e(config: TrainEncoderConfig) -> bool:
    """Whether the method has e4e's encoder and losses."""
    return config.method == "e4e" or (config.method == "restyle" and config.restyle_over == "e4e")


def build_adversary(config: TrainEncoderConfig, generator: Generator, device: torch.device) -> LatentAdversary | None:
    settings = config.latent_discriminator
    return LatentAdversary(settings, generator, device) if uses_e4e(config) and settings.weight > 0 else None


def build_objective(
    config: TrainEncoderConfig, start: EncoderStart, losses: TotalLoss, px: int, adversary: LatentAdversary | None
) -> Objective:
    device = next(start.trained.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    n_iters = start.model.config.n_iters or 1
    if isinstance(start.model, HyperStyle):
        return HyperStyleObjective(config, losses, px, autocast, n_iters, start.model)
    average = start.model.average_image() if isinstance(start.model, ReStyleModel) else None
    if uses_e4e(config):
        return E4eObjective(config, losses, px, autocast, n_iters, start.model, average, adversary)
    return WPlusObjective(config, losses, px, autocast, n_iters, start.model, average)


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
    section = config.trunk if config.trunk_from == "own" else getattr(config.domain, config.trunk_from)
    return EncoderConfig(**{each.name: getattr(section, each.name) for each in fields(EncoderConfig)})


def build_wplus(config: TrainEncoderConfig, generator: Generator) -> WPlusModel:
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

    `w_encoder`: the domain's E1, which stays as it is.
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
