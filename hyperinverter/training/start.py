"""What an encoder starts from: random weights, a recognition network's trunk, or an encoder trained before.

The published encoders start from a face recognition IR-SE50 (`model_ir_se50.pth` of the ArcFace port that pSp uses) or
from torchvision's ImageNet ResNet34 (`resnet34-333f7ec4.pth`); pixel2style2pixel issue 129 reports NaN without it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from hyperinverter.checkpoint import ModelFile, read_model
from hyperinverter.config.schema import FROM_E1, DomainConfig, Phase2Config, PhaseConfig
from hyperinverter.data.loader import Batches
from hyperinverter.extractors.framing import look_at_some
from hyperinverter.losses import TotalLoss
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.build import build_feature_residual, build_hyperinverter, build_w_encoder
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.feature_residual import Phase3Network
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import UPDATE_UNIT
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.files import find_network_file, part_file, weights_file
from hyperinverter.pretrained.load import check_domain, fill, hash_of, load_discriminator, load_model, load_w_encoder
from hyperinverter.published.reading import read_published
from hyperinverter.releases.obtain import obtain, obtain_weights
from hyperinverter.training.optim import build_optimizer
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import to_device
from hyperinverter.utils.distributed import is_main
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import misfits
from hyperinverter.utils.waiting import doing

if TYPE_CHECKING:
    from hyperinverter.models.mobile_stylegan import MobileGenerator

TRUNK_PARTS = ("input_layer.", "conv1.", "bn1.", "relu.", "body.", "_conv_stem.", "_bn0.", "_blocks.")
FIRST_SHARES = (0.0, 0.25, 0.5)  # of a token, that later passes may begin with
# torchvision's stem ends in a ReLU (ours is a PReLU, which starts at slope 0.25); old files count no batches.
MAY_BE_MISSING = r".*(relu\.weight|\.num_batches_tracked)"


def start_w_encoder(domain: DomainConfig, generator: Generator, init_from: str | None = None) -> tuple[WEncoder, str]:
    """E1 before Phase I and a sentence on where it comes from.

    `init_from` names a model folder whose E1 is trained on, whichever generator it was for; else a file named in
    `domain.weights.w_encoder`, which must be for this one; else the trunk is read from `w_encoder.init`; else random.
    """
    if init_from is not None:
        w_encoder = build_w_encoder(domain)
        file = to_continue(init_from, "w_encoder", domain)
        fill(w_encoder, file.state, file.path)
        return w_encoder, f"E1 goes on from the weights of {file.path}, with a fresh optimiser"
    if domain.weights.w_encoder is not None:
        path = obtain_weights(domain, "w_encoder")
        return load_w_encoder(path, generator, domain), f"E1 goes on from the weights of {path}, with a fresh optimiser"
    w_encoder = build_w_encoder(domain)
    if domain.w_encoder.init is None:
        return w_encoder, "E1 starts from random weights"
    return w_encoder, f"E1's trunk starts from {load_trunk(w_encoder, domain.w_encoder.init, 'domain.w_encoder')}"


def training_resolution(
    generator: "Generator | MobileGenerator",
    domain: DomainConfig,
    losses: TotalLoss | None,
    *,
    is_adversarial: bool = False,
) -> int:
    """Side in px at which reconstructions are drawn in training: the smallest that the generator draws and losses take.

    A generator with an early head then leaves its last layer out; another draws its full images. A discriminator sees
    full images.
    """
    needs_all = losses is not None and any(loss.needs_full_resolution for loss in losses.losses.values())
    if is_adversarial or needs_all:
        return domain.resolution
    enough = [size for size in generator.synthesis.resolutions if size >= domain.loss_resolution]
    return min(enough, default=domain.resolution)


def photo_resolution(drawn_px: int, domain: DomainConfig) -> int:
    """Side in px at which photos are read: what losses compare with images of drawn_px, and what encoders look at."""
    return min(domain.resolution, max(drawn_px, domain.w_encoder.input_size, domain.layerwise_encoder.input_size))


def notes_on_photos(data: Batches, domain: DomainConfig, step: int) -> list[str]:
    """Whether some of the photos are in the crop that the domain expects; before the first step, in one process."""
    if step > 0 or not is_main():
        return []
    with doing("looking at some photos"):
        return list(look_at_some(data.source, domain, f"crop them first: {command_of('align')} FOLDER output=ALIGNED"))


def load_discriminator_of_losses(
    config: PhaseConfig, frozen: dict[str, str]
) -> tuple[Discriminator | None, dict[str, str]]:
    """The discriminator whose features a loss compares, None where none does; and `frozen` with its hash beside."""
    if not config.loss_weights.get("discriminator_features"):
        return None, frozen
    path = obtain_weights(config.domain, "discriminator")
    discriminator = load_discriminator(path, config.domain).requires_grad_(False)
    return discriminator, {**frozen, "discriminator": hash_of(discriminator)}


def start_discriminator(
    config: Phase2Config, discriminator: Discriminator | None, device: torch.device
) -> tuple[Discriminator, torch.optim.Optimizer]:
    """The domain's discriminator, unless a loss has loaded it, and its optimiser; frozen between its own steps."""
    if discriminator is None:
        discriminator = load_discriminator(obtain_weights(config.domain, "discriminator"), config.domain)
    discriminator = to_device(discriminator, device).train().requires_grad_(True)
    discriminator.recompute_from_px = config.recompute_from_px
    optimizer = build_optimizer(discriminator.parameters(), config.adversarial.optimizer)
    return discriminator.requires_grad_(False), optimizer


@dataclass(frozen=True)
class Start:
    """The whole model before Phase II.

    Attributes:
        frozen: part -> weights hash of what is not trained.
        origin: a sentence on where E2 comes from.
        is_new: the hypernetworks are random ones; False: they go on from trained weights.
        is_extended: these are of one pass, and the later passes add nothing yet.
    """

    model: HyperInverterNetwork
    frozen: dict[str, str]
    origin: str
    is_new: bool = True
    is_extended: bool = False


def start_hyperinverter(domain: DomainConfig, init_from: str | None = None) -> Start:
    """The whole model before Phase II.

    Generator and E1 are the domain's; they are checked to belong together. `init_from` names a model folder whose E2
    and hypernetworks are trained on, whichever generator and E1 they were for; else weights named by file in
    `domain.weights.hyperinverter`, which must be for these; else E2's trunk is read from `layerwise_encoder.init`
    (FROM_E1: it is E1's); else random.
    """
    named = domain.weights.hyperinverter is not None and init_from is None
    loaded = load_model(obtain(domain, "hyperinverter" if named else "w_encoder"), with_hyperinverter=named)
    frozen = {part: loaded.hashes[part] for part in ("generator", "w_encoder")}
    if loaded.network is not None:
        path = obtain_weights(domain, "hyperinverter")
        return Start(loaded.network, frozen, _goes_on(path), is_new=False)
    model = build_hyperinverter(domain, loaded.generator, loaded.w_encoder)
    if init_from is not None:
        file = to_continue(init_from, "hyperinverter", domain)
        trained = nn.ModuleDict({name: getattr(model, name) for name in ("layerwise_encoder", "hypernetwork")})
        new = {name: value for name, value in trained.state_dict().items() if name.endswith(".update")}
        is_extended = bool(new) and new.keys().isdisjoint(file.state)
        fill(trained, {**new, **file.state} if is_extended else file.state, file.path)
        return Start(model, frozen, _goes_on(file.path), is_new=False, is_extended=is_extended)
    if domain.layerwise_encoder.init is None:
        return Start(model, frozen, "E2 and hypernetworks start from random weights")
    init = domain.layerwise_encoder.init
    source = str(obtain_weights(domain, "w_encoder")) if init == FROM_E1 else init
    path = load_trunk(model.layerwise_encoder, source, "domain.layerwise_encoder")
    return Start(model, frozen, f"E2's trunk starts from {path}, its heads and the hypernetworks from random weights")


@torch.no_grad()
def open_later_passes(model: HyperInverterNetwork, losses: TotalLoss, data: Batches) -> str:
    """Let passes that add nothing yet add the share of FIRST_SHARES that is best for some photos; a note for the log.

    What trained weights of one pass answer for Phase I's image they also answer for what they have drawn. Gradients of
    small batches find that slowly: 100 steps of 8 photos moved the factors to 0.02. Every process computes the same.

    Args:
        losses: what Phase II minimises, without its adversarial part.
        data: training photos; the first ones are taken, not mirrored.
    """
    training = model.training
    factors = [weight for name, weight in model.hypernetwork.named_parameters() if name.endswith(".update")]
    model.eval()
    batches = [images.to(factors[0].device) for images, _ in data.in_order(4, min(len(data), 32))]

    def loss(images: torch.Tensor) -> torch.Tensor:
        reconstruction = model(images).reconstruction
        assert reconstruction is not None
        return losses(reconstruction.float(), images)[0] * len(images)

    tried = {}
    for share in FIRST_SHARES:
        for factor in factors:
            factor.fill_(share / UPDATE_UNIT)
        tried[share] = float(torch.stack([loss(images) for images in batches]).sum()) / sum(map(len, batches))
    best = min(tried, key=lambda share: tried[share])
    for factor in factors:
        factor.fill_(best / UPDATE_UNIT)
    model.train(training)
    count = sum(map(len, batches))
    return f"later passes begin at {best:g}: the loss of {count} photos goes from {tried[0.0]:.4f} to {tried[best]:.4f}"


def _goes_on(path: Path, what: str = "E2 and hypernetworks go on") -> str:
    return f"{what} from the weights of {path}, with a fresh optimiser"


def start_phase3(domain: DomainConfig, init_from: str | None = None) -> tuple[Phase3Network, dict[str, str], str]:
    """Phases I and II of the domain with a feature residual; weights hashes of their parts; where it comes from.

    `init_from` names a model folder whose feature residual is trained on, whichever Phase II it was for; else a file
    in `domain.weights.feature_residual`, which must be for this one; else it starts at Phase II.

    Raises ValueError: the domain names no layer for it, or it would hold too many numbers.
    """
    named = domain.weights.feature_residual is not None and init_from is None
    loaded = load_model(obtain(domain, "hyperinverter"), with_feature_residual=named)
    network = loaded.network
    assert network is not None
    frozen = {part: loaded.hashes[part] for part in ("generator", "w_encoder", "hyperinverter")}
    goes_on = "the feature residual goes on"
    if loaded.feature_residual is not None:
        path = weights_file(domain, "feature_residual")
        return Phase3Network(network, loaded.feature_residual), frozen, _goes_on(path, goes_on)
    model = Phase3Network(network, build_feature_residual(domain, loaded.generator, network.layerwise_encoder))
    if init_from is not None:
        file = to_continue(init_from, "feature_residual", domain)
        fill(model.feature_residual, file.state, file.path)
        return model, frozen, _goes_on(file.path, goes_on)
    model.measure_features()
    return model, frozen, "the feature residual starts at Phase II, which it leaves as it is"


def to_continue(folder: str, part: str, domain: DomainConfig) -> ModelFile:
    """The weights that `init_from` names; they must have the domain's sizes, and may be for another generator.

    A domain of several passes also goes on from weights of one, or of another number.
    """
    file = read_model(part_file(folder, part), part)
    check_domain(file, domain, besides=("hypernetwork.passes",) if domain.hypernetwork.passes > 1 else ())
    return file


def load_trunk(trunk: Trunk, init: str, section: str) -> Path:
    """Fill the trunk (stem and body) of an encoder from a weights file; everything else keeps its values.

    A trunk that sees a second image too takes the weights of the photo's three channels (published).

    Args:
        init: a path, or a file name looked for beside the models: ArcFace's or torchvision's layout, or a w_encoder.
        section: key of the trunk's sizes, for messages.
    Raises:
        UserError: no such file, or its tensors do not fit this trunk; names them.
    """
    path = Path(init) if Path(init).is_file() else find_network_file(init)
    if path is None:
        raise UserError(
            f"{section}.init: {init} was not found; put it into pretrained_models/ (or a folder named in "
            f"HYPERINVERTER_MODELS), or write {section}.init=null to start from random weights"
        )
    if path.suffix == ".safetensors":
        source = read_model(path).state
    else:
        source = read_published(path).content
        if not isinstance(source, dict) or not all(isinstance(value, torch.Tensor) for value in source.values()):
            raise UserError(f"{section}.init: {path} holds no tensors by name; give the weights of a trunk")
    source = _flat_resnet(source) if any(key.startswith("layer1.") for key in source) else source
    wanted = {key: value for key, value in trunk.state_dict().items() if key.startswith(TRUNK_PARTS)}
    own = {key: value for key, value in source.items() if key in wanted or key.startswith(("body.", "_blocks."))}
    for key in wanted.keys() & own.keys():
        if own[key].ndim == 4 and own[key].shape[1] == 3 < wanted[key].shape[1]:
            own[key] = torch.cat([own[key], wanted[key][:, 3:]], dim=1)
    if fault := misfits(wanted, own, MAY_BE_MISSING):
        raise UserError(
            f"{section}.init: {path} holds another trunk than {section} is ({fault}); give a file for this "
            f"trunk, or write {section}.init=null"
        )
    trunk.load_state_dict({**trunk.state_dict(), **own})
    return path


def _flat_resnet(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's names (layer2.0.conv1.weight) -> blocks counted through all stages (body.3.conv1.weight)."""
    blocks = {key.split(".")[0] + "." + key.split(".")[1] for key in state if key.startswith("layer")}
    number = {block: i for i, block in enumerate(sorted(blocks, key=lambda b: [int(n) for n in b[5:].split(".")]))}
    flat = {}
    for key, value in state.items():
        block = ".".join(key.split(".")[:2])
        if block in number:
            flat[f"body.{number[block]}{key.removeprefix(block)}"] = value
        elif not key.startswith("fc."):
            flat[key] = value
    return flat
