"""Turn the .safetensors files of a model folder into networks, refusing parts that do not belong together.

A model folder holds generator, discriminator, w_encoder, hyperinverter .safetensors and directions/NAME.safetensors.
Every file carries the config it is rebuilt from and the hashes of the files it was trained with, so nothing else is
needed, and a wrong pairing (which would load cleanly and only spoil the images) is an error.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from hyperinverter.checkpoint import ModelFile, read_model, weights_hash
from hyperinverter.config.domain_checks import recorded_section
from hyperinverter.config.domain_schema import FeatureResidualConfig
from hyperinverter.config.names import SERVED
from hyperinverter.config.schema import (
    DiscriminatorConfig,
    DomainConfig,
    EncoderConfig,
    GeneratorConfig,
    HypernetworkConfig,
    LayerwiseEncoderConfig,
)
from hyperinverter.models.build import (
    build_discriminator,
    build_feature_residual,
    build_generator,
    build_hyperinverter,
    build_w_encoder,
)
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.files import early_heads_beside, part_file, weights_file
from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.state_dicts import misfits, shapes_only

if TYPE_CHECKING:
    from hyperinverter.models.feature_residual import FeatureResidualNetwork

# no weight's shape, so taken from the file: what the trunk started from, how a batch is grouped, where values are cut
NO_SIZE = ("init", "mbstd_group_size", "conv_clamp")
FEW_LAYERS = 100  # that a network may have more of than its file has tensors
SECTIONS = {
    "generator": GeneratorConfig,
    "discriminator": DiscriminatorConfig,
    "w_encoder": EncoderConfig,
    "layerwise_encoder": LayerwiseEncoderConfig,
    "hypernetwork": HypernetworkConfig,
    "feature_residual": FeatureResidualConfig,
}


def _domain_of(*files: ModelFile, base: DomainConfig | None = None) -> DomainConfig:
    """The DomainConfig that the configs of these files describe together, on top of `base`."""
    domain = DomainConfig() if base is None else DomainConfig(**{f.name: getattr(base, f.name) for f in fields(base)})
    for file in files:
        if not {"domain", "resolution"} <= set(file.config):
            raise UserError(f"{file.path}: its config lacks 'domain' or 'resolution'; write it again with save_model")
        head = {key: file.config[key] for key in ("kind", "resolution", "loss_resolution", "alignment")
                if key in file.config}  # fmt: skip
        try:
            recorded_section(DomainConfig, {"name": file.config["domain"], **head}, "config")
            result: dict[str, Any] = {name: recorded_section(SECTIONS[name], file.config[name], f"config.{name}")
                     for name in SECTIONS if name in file.config}  # fmt: skip
        except ValueError as error:
            raise UserError(
                f"{file.path}: {error}; it was written by another version of hyperinverter, or changed: update, or "
                f"convert it again"
            ) from error
        for name, value in {"name": file.config["domain"], **head, **result}.items():
            setattr(domain, name, value)
    return domain


def check_domain(file: ModelFile, domain: DomainConfig | None, besides: Collection[str] = ()) -> None:
    """Refuse a file whose sizes are not the ones that `domain` asks for, but for the keys `besides` (section.key)."""
    if domain is None:
        return
    check_served(file)
    differ = []
    if file.config.get("resolution") != domain.resolution:
        differ.append(f"resolution: file {file.config.get('resolution')}, domain {domain.resolution}")
    for name in SECTIONS:
        if isinstance(file.config.get(name), dict):  # another kind is reported when the networks are described
            wanted = asdict(getattr(domain, name))
            # a file from before a key existed was made in what became the key's default way
            for key, value in {**asdict(SECTIONS[name]()), **file.config[name]}.items():
                if key not in NO_SIZE and f"{name}.{key}" not in besides and wanted.get(key) != value:
                    differ.append(f"{name}.{key}: file {value}, domain {wanted.get(key)}")
    if differ:
        raise UserError(
            f"{file.path}: was made for other networks than domain {domain.name!r}: {'; '.join(differ)}. "
            f"Give a file of this domain, or change the domain"
        )


def check_served(file: ModelFile) -> None:
    """Refuse a generator or discriminator of a kind that no command serves: of gray images, or with classes."""
    for section in ("generator", "discriminator"):
        result = file.config.get(section)
        if not isinstance(result, dict):  # absent; another kind is reported when the networks are described
            continue
        for key, (value, words) in SERVED.items():
            if (got := result.get(key, value)) != value:
                raise UserError(
                    f"{file.path}: its {section} has {key} {got}, but commands serve {words}: give another model"
                )


def fill(network: nn.Module, state: dict, path: Path) -> None:
    """Load every tensor of the network from the state of the file at `path`, no more and no fewer."""
    check_fits(network.state_dict(), state, path)
    network.load_state_dict(state)


def check_fits(expected: dict, state: dict, path: Path) -> None:
    """Refuse weights that are not all of what a network has; the network's may be shapes without memory."""
    if fault := misfits(expected, state, optional="", finite=False):  # NaN was looked for when the file was read
        raise UserError(
            f"{path}: its weights do not fit the network that its config describes ({fault}); get or train it again"
        )


def check_requires(file: ModelFile, **present: str) -> None:
    """Refuse a file that was trained with other parts than these, given as part=hash of its file."""
    for part, digest in present.items():
        wanted = file.requires.get(part)
        if wanted is None:
            raise UserError(
                f"{file.path}: does not say which {part} it was trained for; save it again with requires={part}"
            )
        if wanted != digest:
            raise UserError(
                f"{file.path}: this {file.kind} was trained for {part} {wanted}, this is {part} {digest}: "
                f"give the {part} it was trained with, or train the {file.kind} again with this one"
            )


def network_of(
    file: ModelFile, build: Callable[[], Any], part: Callable[[Any], nn.Module] = lambda network: network
) -> Any:
    """The network that a file's config describes, with its weights, in eval mode.

    Memory is taken for it when the file's weights are known to fit.

    Args:
        part: of the network, what the file holds weights of.
    Raises:
        UserError: the config describes no network, or one that the weights do not fit.
    """
    try:
        check_counts(file.config, SECTIONS, len(file.state))
        with shapes_only():
            plan = part(build())
        check_fits(plan.state_dict(), file.state, file.path)
        network = build()
    except DAMAGED as error:
        raise UserError(
            f"{file.path}: its config describes no network ({reason_of(error)}); get or train it again"
        ) from error
    fill(part(network), file.state, file.path)
    network.weights_hash = file.hash  # the file's own; what later files write into `requires`
    return network.eval()


def _trained(network: HyperInverterNetwork) -> nn.Module:
    """What hyperinverter.safetensors holds weights of."""
    return nn.ModuleDict({part: getattr(network, part) for part in ("layerwise_encoder", "hypernetwork")})


def check_counts(config: Mapping[str, Any], sections: Iterable[str], tensors: int) -> None:
    """Refuse sections that describe more layers than there are tensors: objects cost memory also without numbers.

    Raises ValueError: names the section.
    """
    for name in sections:
        section = config.get(name) or {}
        layers = sum(section.get("depths") or ())
        if name != "discriminator" or section.get("c_dim"):  # without classes it has no mapping
            layers = max(layers, section.get("mapping_layers") or 0)
        if layers > max(tensors, FEW_LAYERS):
            raise ValueError(f"{name} describes {layers} layers, its file holds {tensors} tensors")


def load_generator(source: str | Path, domain: DomainConfig | None = None) -> Generator:
    """A generator in eval mode; its attribute `weights_hash` is the file's.

    Args:
        source: a generator file, or a model folder by name or path.
        domain: when given, the file must have this domain's sizes; None takes the sizes from the file.
    """
    file = read_model(part_file(source, "generator", domain.name if domain else None), "generator")
    check_domain(file, domain)
    return _generator(file, _domain_of(file))


def _generator(file: ModelFile, domain: DomainConfig) -> Generator:
    """The generator of a file, with the early heads that lie beside it."""
    channels: dict[int, int] = {}
    for px, path in early_heads_beside(file.path, domain.resolution).items():
        head = read_model(path, "early_head")
        check_requires(head, generator=file.hash)
        channels[px] = len(head.state.get("conv1.bias", ()))  # what it does not say is derived from its weights
        early = {f"synthesis.early.{px}.{name}": value for name, value in head.state.items()}
        file = replace(file, path=path, state={**file.state, **early})
    return cast(Generator, network_of(file, lambda: build_generator(domain, early_heads=channels)))


def load_discriminator(source: str | Path, domain: DomainConfig | None = None) -> Discriminator:
    """A discriminator in eval mode; arguments as `load_generator`."""
    path = part_file(source, "discriminator", domain.name if domain else None)
    file = read_model(path, "discriminator")
    check_domain(file, domain)
    described = _domain_of(file)
    return network_of(file, lambda: build_discriminator(described))


def load_w_encoder(source: str | Path, generator: Generator, domain: DomainConfig | None = None) -> WEncoder:
    """E1 in eval mode, checked against the generator it was trained for.

    Args:
        source: a w_encoder file, or a model folder by name or path.
    Raises:
        UserError: it was trained for another generator; names both hashes.
    """
    file = read_model(part_file(source, "w_encoder", domain.name if domain else None), "w_encoder")
    check_domain(file, domain)
    check_requires(file, generator=hash_of(generator))
    described = _domain_of(file)
    described.generator.w_dim = generator.w_dim  # E1's file does not repeat it
    return network_of(file, lambda: build_w_encoder(described))


def hash_of(network: nn.Module) -> str:
    """The hash of the file a network was loaded from, or of its weights when it came from no file."""
    return getattr(network, "weights_hash", None) or weights_hash(network.state_dict())


def model_hash(**parts: str) -> str:
    """One short hash (16 hex digits) over the weights hashes of a model's parts, given by name."""
    lines = "".join(f"{part} {digest}\n" for part, digest in sorted(parts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@dataclass
class LoadedModel:
    """A model and where it came from."""

    network: HyperInverterNetwork | None  # None when only E1 was asked for
    generator: Generator
    w_encoder: WEncoder | None  # None when only the generator was asked for
    domain: DomainConfig
    name: str
    hash: str  # over generator [+ w_encoder [+ hyperinverter [+ feature_residual]]]
    hashes: dict[str, str]  # part -> hash of its file
    folder: Path  # where its directions/ are looked for
    feature_residual: "FeatureResidualNetwork | None" = None  # None unless it was asked for


def load_model(
    source: str | Path | DomainConfig,
    with_hyperinverter: bool = True,
    with_w_encoder: bool = True,
    with_feature_residual: bool = False,
) -> LoadedModel:
    """Generator and (unless not wanted) E1, E2 + hypernetworks, all in eval mode, each checked against the others.

    Args:
        source: model folder by name or path, or a DomainConfig (its `weights` section says where the files lie).
        with_hyperinverter: False needs only the generator and E1 (the Phase I method).
        with_w_encoder: False, together with with_hyperinverter=False, needs only the generator.
        with_feature_residual: True needs Phase III's networks too.
    Raises:
        FileNotFoundError: no such model, or a part is missing; says where it looked and which command makes it.
        UserError: a file is damaged, or its parts were not trained together; names both hashes.
    """
    base = source if isinstance(source, DomainConfig) else None
    if with_hyperinverter and not with_w_encoder:
        raise ValueError("the hypernetworks need E1: leave with_w_encoder at True, or give with_hyperinverter=False")
    wanted = ["generator"] + ["w_encoder"] * with_w_encoder + ["hyperinverter"] * with_hyperinverter
    wanted += ["feature_residual"] * with_feature_residual
    try:  # all paths first: a missing part is reported before gigabytes are read
        paths = {part: weights_file(source, part) for part in wanted}
    except FileNotFoundError:
        # a generator that is not served gets no other part either
        check_served(read_model(weights_file(source, "generator"), "generator"))
        raise
    read: dict[str, ModelFile] = {}
    for part, path in paths.items():  # the generator first
        read[part] = read_model(path, part)
        check_served(read[part])
    hashes = {part: file.hash for part, file in read.items()}
    for file in read.values():
        check_domain(file, base)
    if with_w_encoder:
        check_requires(read["w_encoder"], generator=hashes["generator"])
    if with_hyperinverter:
        check_requires(read["hyperinverter"], generator=hashes["generator"], w_encoder=hashes["w_encoder"])
    if with_feature_residual:
        present = {part: hashes[part] for part in ("generator", "w_encoder", "hyperinverter")}
        check_requires(read["feature_residual"], **present)
    domain = _domain_of(*read.values(), base=base)
    generator = _generator(read["generator"], domain)
    w_encoder = network_of(read["w_encoder"], lambda: build_w_encoder(domain)) if with_w_encoder else None
    network = None
    if with_hyperinverter:
        build = partial(build_hyperinverter, domain, generator, w_encoder)
        network = network_of(read["hyperinverter"], build, _trained)
    feature_residual = None
    if with_feature_residual:
        assert network is not None, "Phase III stands on Phase II"
        e2 = network.layerwise_encoder
        feature_residual = network_of(read["feature_residual"], lambda: build_feature_residual(domain, generator, e2))
    folder = paths[wanted[-1]].parent  # directions lie beside the part that was trained last
    name = read["generator"].config["domain"]
    digest = model_hash(**hashes)
    return LoadedModel(network, generator, w_encoder, domain, name, digest, hashes, folder, feature_residual)
