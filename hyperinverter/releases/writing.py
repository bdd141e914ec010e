"""Write released networks as parts of a model folder that belong together, or one of them as a single file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.checkpoint import ModelFile, read_model, save_model
from hyperinverter.config.schema import DiscriminatorConfig, DomainConfig, GeneratorConfig
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.pretrained.load import hash_of, load_generator
from hyperinverter.pretrained.methods import PUBLISHED_METHODS, save_method
from hyperinverter.published import from_published
from hyperinverter.published.container import unused_keys
from hyperinverter.published.reading import PublishedFile
from hyperinverter.published.vectors import Space, as_direction, pca_of, write_pca
from hyperinverter.releases.catalog import VECTORS, CatalogEntry
from hyperinverter.releases.identify import networks_of, unused_by_all
from hyperinverter.utils.errors import UserError

GENERATORS = ("stylegan2_ada_generator", "rosinality_generator", "mobile_stylegan_generator")
# Later parts name earlier ones; methods of others go before encoders, because they may bring the generator.
ORDER = (*GENERATORS, *PUBLISHED_METHODS, "stylegan2_ada_discriminator", "w_encoder", "hyperinverter", *VECTORS)
REQUIRES = {"discriminator": ("generator",), "w_encoder": ("generator",), "hyperinverter": ("generator", "w_encoder")}
SAME_WEIGHTS = 1e-3  # largest relative difference between two copies of one generator that went different ways


@torch.no_grad()
def spread_along(generator: nn.Module, direction: Tensor, count: int = 4000) -> dict[str, float]:
    """How far the generator's own codes spread along a direction: their standard deviation, a distance in W.

    A published direction does not say it, and without it no strength in standard deviations is possible. {} for a
    conditional generator.

    `direction`: [w_dim], or one vector per style [1, L, w_dim], whose spreads are then taken together (root mean square
    over the styles, as its length is).
    """
    if generator.c_dim:
        return {}
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(0))
    w = generator.mapping(z.to(next(generator.parameters()).device))[:, 0].cpu()
    vectors = direction.reshape(-1, direction.shape[-1]).cpu()  # [1 or L, w_dim]
    vectors = vectors / vectors.square().sum(1).mean().sqrt()
    return {"projection_std": float((w @ vectors.T).var(0).mean().sqrt())}


@dataclass
class Source:
    """One released file, its kind, what the catalog says of its name, and options for its reader."""

    file: PublishedFile
    kind: str
    entry: CatalogEntry | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def info(self) -> dict[str, Any]:
        """What the written file says about where it came from."""
        origin = {"file": self.path.name, "sha256": self.file.sha256, "kind": self.kind}
        if self.entry is not None:
            origin |= {"catalog": self.entry.name, "published_by": self.entry.source}
        return {"source": origin, "licence": self.entry.licence if self.entry else None}


class Writer:
    """Writes the parts of one model.

    Args:
        folder: the model folder; a generator that it holds is used.
        domain_name: the name that the parts get.
        domain: sizes that the generator must have; None asks for none.
        single: the one file to write instead of the folder's own names.
        half: store E2, hypernetworks and methods of others as float16.
    """

    def __init__(
        self, folder: Path, domain_name: str, domain: DomainConfig | None, single: Path | None, half: bool
    ) -> None:
        self.folder, self.domain_name, self.domain, self.single, self.half = folder, domain_name, domain, single, half
        self.generator: Generator | None = None
        self.hashes: dict[str, str] = {}
        self.written: list[Path] = []

    def write(self, sources: Sequence[Source]) -> list[Path]:
        """All of them, in the order in which they need each other; returns the files written."""
        ordered = sorted(sources, key=lambda source: ORDER.index(source.kind) if source.kind in ORDER else len(ORDER))
        beside = self.folder / "generator.safetensors"
        stands_alone = ordered[0].kind not in ORDER or (self.single is not None and ordered[0].kind in GENERATORS)
        if beside.is_file() and not stands_alone:
            self._use_generator(load_generator(beside), beside)
        for source in ordered:
            if source.kind == "w_encoder" and any(other.kind == "hyperstyle" for other in ordered):
                continue  # HyperStyle's file holds it; it is no E1 of this folder
            if source.kind in GENERATORS:
                self._generator(source)
            elif source.kind in PUBLISHED_METHODS:
                self._method(source, ordered)
            elif source.kind == "hyperinverter":
                self._hyperinverter(source)
            elif source.kind in VECTORS:
                self._vectors(source)
            else:
                self._other(source)
        return self.written

    def _networks(self, source: Source) -> dict[str, nn.Module]:
        """The networks of a file; what of it none of them uses is reported."""
        networks = networks_of(source.file, source.kind, source.options)
        self._print_unused(source, *networks.values())
        return networks

    def _print_unused(self, source: Source, *networks: nn.Module) -> None:
        for line in unused_keys(unused_by_all([network.published.ignored for network in networks])):
            print(f"{source.path.name}: {line}")

    def _generator(self, source: Source) -> None:
        networks = self._networks(source)
        self._new_generator(networks["generator"], source)
        if "discriminator" in networks and self.single is None:
            network = networks["discriminator"]
            self._save("discriminator", network, _section("discriminator", network, DiscriminatorConfig), source)

    def _method(self, source: Source, sources: Sequence[Source]) -> None:
        """pSp, e4e, ReStyle, HyperStyle: `<kind>.safetensors` beside the generator, which their files usually carry."""
        options = dict(source.options)
        if source.kind == "hyperstyle" and "w_encoder" not in options:
            encoder = next((other for other in sources if other.kind == "w_encoder"), None)
            if encoder is not None:
                options["w_encoder"] = from_published(encoder.file, "w_encoder", **encoder.options)
        network = from_published(source.file, source.kind, **options)
        self._print_unused(source, network)
        if source.kind == "hyperstyle" and network.w_encoder is None:
            raise UserError(
                f"{source.path}: comes without its W encoder, the first guess of its codes; give that file as well "
                f"(faces_w_encoder.pt)"
            )
        if isinstance(network.decoder, Generator):
            if self.generator is None:
                self._new_generator(network.decoder, source, beside=True)
            elif (distance := _difference(network.decoder, self.generator)) > SAME_WEIGHTS:
                raise UserError(
                    f"{source.path}: was trained with another generator than {self.folder} holds (a weight differs by "
                    f"{distance:.2g} of its norm); give another folder"
                )
        self._check_generator(source)
        target = self.single or self.folder / f"{source.kind}.safetensors"
        save_method(
            target,
            network,
            method=source.kind,
            domain=self.domain_name,
            generator_hash=self.hashes["generator"],
            info=source.info,
            half=self.half,
        )
        self.written.append(target)

    def _hyperinverter(self, source: Source) -> None:
        networks = self._networks(source)
        if self.single is None:
            self._check_generator(source)
        e1 = self._e1_beside(networks.get("w_encoder"), source)
        if e1 is None and self.single is None:
            self._w_encoder(networks["w_encoder"], source)
        parts = {part: networks[part] for part in ("layerwise_encoder", "hypernetwork")}
        if self.generator is not None and "w_encoder" in networks:
            try:
                HyperInverterNetwork(self.generator, networks["w_encoder"], *parts.values())
            except ValueError as error:
                raise UserError(f"{source.path}: does not fit its generator: {error}") from error
        config = {part: network.published.config[part] for part, network in parts.items()}
        config["resolution"] = networks["hypernetwork"].published.config["resolution"]
        self._check_resolution(source.path, config["resolution"])
        self._save("hyperinverter", nn.ModuleDict(parts), config, source, half=self.half)

    def _other(self, source: Source) -> None:
        """A network by itself: discriminator, W encoder, and those that are no part of a model folder."""
        networks = self._networks(source)
        if source.kind == "w_encoder":
            self._w_encoder(networks["w_encoder"], source)
        elif source.kind == "stylegan2_ada_discriminator":
            network = networks["discriminator"]
            self._save("discriminator", network, _section("discriminator", network, DiscriminatorConfig), source)
        else:
            network = networks[source.kind]
            self._save(source.kind, network, {source.kind: network.published.config}, source)

    def _vectors(self, source: Source) -> None:
        """A direction becomes directions/NAME.safetensors, a PCA pca.safetensors, both with their generator's hash."""
        self._check_generator(source)
        assert self.generator is not None
        space, made_for = Space.of(self.generator), self.hashes["generator"]
        try:
            if source.kind == "pca":
                target = self.single or self.folder / "pca.safetensors"
                write_pca(target, *pca_of(source.file.content, space), made_for)
            else:
                target = self.single or self.folder / "directions" / f"{source.path.stem}.safetensors"
                vector = as_direction(source.file.content, space)
                config = {"domain": self.domain_name, "resolution": self.generator.resolution, "name": target.stem}
                config |= {"w_dim": space.w_dim}
                info = {**source.info, **spread_along(self.generator, vector)}
                about = {"requires": {"generator": made_for}, "info": info}
                save_model(target, {"direction": vector}, kind="direction", config=config, **about)
        except ValueError as error:
            raise UserError(f"{source.path}: {error}") from error
        self.written.append(target)

    def _w_encoder(self, network: nn.Module, source: Source) -> None:
        config = network.published.config
        if config.get("input_channels", 3) != 3:
            raise UserError(f"{source.path}: takes {config['input_channels']} channels, expected images of 3")
        if self.generator is not None and config["w_dim"] != self.generator.w_dim:
            raise UserError(
                f"{source.path}: gives codes of {config['w_dim']} numbers, the generator takes {self.generator.w_dim}"
            )
        beside = self.folder / "w_encoder.safetensors"
        if self.single is None and beside.is_file() and not _same(network.state_dict(), read_model(beside).state):
            raise UserError(
                f"{beside}: is another W encoder than {source.path}, and later parts belong to it; give another "
                f"folder, or delete it"
            )
        self._save("w_encoder", network, {"w_encoder": config["w_encoder"]}, source)

    def _new_generator(self, generator: Generator, source: Source, beside: bool = False) -> None:
        """Write a generator; one that is there already must be the same. `beside`: not what `single` names."""
        old, single = self.generator, self.single
        self._use_generator(generator, source.path)
        if old is None:
            self.single = None if beside else single
            self._save("generator", generator, _section("generator", generator, GeneratorConfig), source)
            self.single = single
        elif not _same(old.state_dict(), generator.state_dict()):
            raise UserError(
                f"{self.folder}: holds another generator than {source.path}, which its other parts belong to; give "
                f"another folder, or delete it"
            )

    def _use_generator(self, generator: Generator, path: Path) -> None:
        """Refuse a generator of another resolution or other sizes than the domain's."""
        self._check_resolution(path, generator.resolution)
        if self.domain is not None:
            wanted = {n: getattr(self.domain.generator, n) for n in ("z_dim", "w_dim", "channel_base", "channel_max")}
            result = {name: generator.config[name] for name in wanted}
            differ = [
                f"{name} {result[name]}, domain {wanted[name]}" for name in wanted if result[name] != wanted[name]
            ]
            if differ:
                raise UserError(
                    f"{path}: has other sizes than domain {self.domain.name} ({'; '.join(differ)}); give another domain"
                )
        self.generator = generator
        self.hashes.setdefault("generator", hash_of(generator))

    def _check_resolution(self, path: Path, resolution: int) -> None:
        if self.domain is not None and resolution != self.domain.resolution:
            raise UserError(
                f"{path}: is for {resolution} px, domain {self.domain.name} has {self.domain.resolution} px; give the "
                f"file of this domain, or another domain="
            )

    def _check_generator(self, source: Source) -> None:
        if self.generator is None:
            raise UserError(
                f"{source.path}: holds no generator; give the file of the one it was trained with as well (its .pkl or "
                f".pt), or a folder that holds generator.safetensors"
            )

    def _e1_beside(self, own: nn.Module | None, source: Source) -> ModelFile | None:
        """The W encoder that the folder holds, which must be the one that the HyperInverter file carries."""
        path = self.folder / "w_encoder.safetensors"
        e1 = read_model(path, "w_encoder") if path.is_file() else None
        if e1 is None:
            if own is None:
                raise UserError(
                    f"{source.path}: carries no W encoder (E1); give the file of the one it was trained with as well"
                )
            return None
        if own is not None and not _same(own.state_dict(), e1.state):
            raise UserError(
                f"{source.path}: carries another W encoder than {path} holds; leave the W encoder's file out, delete "
                f"{path}, or give another folder"
            )
        self.hashes["w_encoder"] = e1.hash
        return e1

    def _save(
        self, part: str, network: nn.Module, config: dict[str, Any], source: Source, *, half: bool = False
    ) -> None:
        head: dict[str, Any] = {"domain": self.domain_name}
        if self.generator is not None:
            head["resolution"] = self.generator.resolution
        if self.domain is not None:
            head |= {key: getattr(self.domain, key) for key in ("kind", "resolution", "loss_resolution", "alignment")}
        needed = REQUIRES.get(part, ())
        requires = {name: self.hashes[name] for name in needed if name in self.hashes}
        target = self.single or self.folder / f"{part}.safetensors"
        if missing := [name for name in needed if name not in requires]:
            print(f"{target}: no {' and '.join(missing)} beside it; a model folder will not take it as its own")
        options = {"kind": part, "config": head | config, "requires": requires, "info": source.info, "half": half}
        self.hashes[part] = save_model(target, network, **options)
        self.written.append(target)


def _section(name: str, network: nn.Module, section_class: type) -> dict[str, Any]:
    """The config section of a generator or discriminator."""
    known = {item.name for item in fields(section_class)}
    section = {key: value for key, value in network.config.items() if key in known}
    return {"resolution": network.config["resolution"], name: section}


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _difference(first: Generator, second: Generator) -> float:
    """Largest difference of a weight relative to its norm; 1 where shapes differ. Noise and w_avg are left out."""
    ours, theirs = (dict(generator.named_parameters()) for generator in (first, second))
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return 1.0
    with torch.no_grad():
        return max(float((ours[n] - theirs[n]).norm() / ours[n].norm().clamp_min(1e-12)) for n in ours)
