"""Load by name: what a released model (ffhq, church) lacks is made from its released files first, then it is loaded.

Each function does what the one of its name in `files`, `load` or `methods` does; those know nothing of releases.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.encoders import WEncoder
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained import files, load
from hyperinverter.pretrained.obtain import make_model, released_name

if TYPE_CHECKING:
    from hyperinverter.pretrained import methods

__all__ = ["load_discriminator", "load_generator", "load_method", "load_model", "load_w_encoder", "weights_file"]


def _make(source: str | Path | DomainConfig, parts: Sequence[str]) -> str | Path | DomainConfig:
    """`source`, or the folder of the released model that it names, with these parts converted if they can be."""
    released = released_name(source)
    if not released:
        return source
    folder = make_model(released, parts)  # else it says which file goes where
    return source if isinstance(source, DomainConfig) else folder


def weights_file(domain: DomainConfig, part: str) -> Path:
    """See `files.weights_file`."""
    _make(domain, [part])
    return files.weights_file(domain, part)


def load_generator(source: str | Path, domain: DomainConfig | None = None) -> Generator:
    """See `load.load_generator`."""
    return load.load_generator(_make(source, ["generator"]), domain)


def load_discriminator(source: str | Path, domain: DomainConfig | None = None) -> Discriminator:
    """See `load.load_discriminator`."""
    return load.load_discriminator(_make(source, ["discriminator"]), domain)


def load_w_encoder(source: str | Path, generator: Generator, domain: DomainConfig | None = None) -> WEncoder:
    """See `load.load_w_encoder`."""
    return load.load_w_encoder(_make(source, ["w_encoder"]), generator, domain)


def load_model(
    source: str | Path | DomainConfig, with_hyperinverter: bool = True, with_w_encoder: bool = True
) -> load.LoadedModel:
    """See `load.load_model`."""
    parts = ["generator"] + ["w_encoder"] * with_w_encoder + ["hyperinverter"] * with_hyperinverter
    return load.load_model(_make(source, parts), with_hyperinverter, with_w_encoder)


def load_method(source: str | Path | DomainConfig, method: str) -> "methods.LoadedMethod":
    """See `methods.load_method`."""
    from hyperinverter.pretrained import methods

    return methods.load_method(_make(source, [method]), method)
