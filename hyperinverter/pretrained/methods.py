"""Files of the methods that others published, converted or trained here: <method>.safetensors beside a generator.

`psp`, `e4e`, `restyle` and `hyperstyle` hold everything of the method but its generator, which lies in
generator.safetensors as for every other method, and which they were trained with.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.names import MOST_ITERATIONS
from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.hyperstyle import HyperStyle, HyperStyleConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus import WPlusConfig, WPlusModel, build_model
from hyperinverter.pretrained.files import PUBLISHED_METHODS, weights_file
from hyperinverter.pretrained.load import LoadedModel, check_counts, check_requires, load_model, model_hash, network_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import skip_init

MOST_STYLES = 99


@dataclass
class LoadedMethod(LoadedModel):
    """A generator and, around it, a published method; `method.decoder` is the generator."""

    method: WPlusModel | HyperStyle | None = None


def save_method(
    path: str | Path,
    network: WPlusModel | HyperStyle,
    *,
    method: str,
    domain: str,
    generator_hash: str,
    info: Mapping[str, Any] | None = None,
    half: bool = False,
) -> str:
    """Write <method>.safetensors and return its weights' hash.

    Args:
        path: target file, named after the method and beside generator.safetensors.
        network: as `from_published` gives it; its decoder is left out.
        generator_hash: hash of the generator's file; the method is refused with any other generator.
        info: anything a reader may want to know: source, licence.
        half: store floating-point tensors as float16.
    Raises:
        UserError: HyperStyle without its W encoder, which it cannot work without.
    """
    if method not in PUBLISHED_METHODS:
        raise ValueError(f"method is {method!r}; write one of {', '.join(PUBLISHED_METHODS)}")
    if isinstance(network, HyperStyle) and (network.w_encoder is None or network.latent_avg is None):
        raise UserError(
            "this HyperStyle has no W encoder or no average code, and cannot invert images; read it again with "
            "w_encoder=FILE (faces_w_encoder.pt) and, where it has none, latent_avg="
        )
    decoder = network.decoder
    if isinstance(network, HyperStyle):
        resolution = network.config.resolution
    else:
        resolution = 2 ** (network.config.num_styles // 2 + 1) if decoder is None else decoder.resolution
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("decoder.")}
    config = {"domain": domain, "resolution": resolution, method: network.config.to_json()}
    requires = {"generator": generator_hash}
    return save_model(path, state, kind=method, config=config, requires=requires, info=info, half=half)


def load_method(source: str | Path | DomainConfig, method: str) -> LoadedMethod:
    """A published method around its generator, in eval mode.

    Args:
        source: a model folder by name or path, or a DomainConfig (its `weights` section says where the files lie).
    Raises:
        FileNotFoundError: no such model, or no file of this method; says which command makes it.
        UserError: the file is damaged, or belongs to another generator.
    """
    if method not in PUBLISHED_METHODS:
        raise ValueError(f"method is {method!r}; write one of {', '.join(PUBLISHED_METHODS)}")
    path = weights_file(source, method)
    model = load_model(source, with_hyperinverter=False, with_w_encoder=False)
    file = read_model(path, method)
    check_requires(file, generator=model.hashes["generator"])

    def build() -> WPlusModel | HyperStyle:
        with skip_init():
            return _build(file.config[method], method, model.generator, len(file.state))

    network = network_of(file, build)
    network.decoder = model.generator
    hashes = model.hashes | {method: file.hash}
    loaded = replace(model, hashes=hashes, hash=model_hash(**hashes))
    return LoadedMethod(**vars(loaded), method=network)


def _build(config: dict[str, Any], method: str, generator: Generator, tensors: int) -> WPlusModel | HyperStyle:
    """The method's networks without its decoder, sizes checked against the generator and their file's tensors."""
    kind = HyperStyleConfig if method == "hyperstyle" else WPlusConfig
    sizes = kind.from_json(config)
    if isinstance(sizes, HyperStyleConfig):
        fits = sizes.resolution == generator.resolution
    else:
        fits = generator.num_ws <= sizes.num_styles <= MOST_STYLES
    if not fits or sizes.w_dim != generator.w_dim:
        raise ValueError(f"it was made for another size of generator than {generator.resolution} px")
    if not 1 <= (sizes.n_iters or 1) <= MOST_ITERATIONS:
        raise ValueError(f"n_iters is {sizes.n_iters}; expected 1 to {MOST_ITERATIONS}")
    inner = asdict(sizes.w_encoder) if isinstance(sizes, HyperStyleConfig) and sizes.w_encoder else {}
    check_counts({"trunk": asdict(sizes.trunk), "w_encoder": inner.get("trunk")}, ("trunk", "w_encoder"), tensors)
    return HyperStyle(sizes) if isinstance(sizes, HyperStyleConfig) else build_model(sizes)
