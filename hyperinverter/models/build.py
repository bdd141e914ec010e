"""From a `DomainConfig` to its networks with random weights: no files, no devices (use `torch.device` as a context)."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from hyperinverter.config.schema import MOBILE, DomainConfig
from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import Hypernetwork
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.models.target_layers import target_layers

if TYPE_CHECKING:
    from hyperinverter.models.feature_residual import FeatureResidualNetwork
    from hyperinverter.models.mobile_stylegan import MobileGenerator


def build_generator(domain: DomainConfig, early_heads: dict[int, int] | None = None) -> "Generator | MobileGenerator":
    """Generator G of the domain's architecture and resolution; this is the one place that asks which it is."""
    config = asdict(domain.generator)
    if config["architecture"] == MOBILE:
        sizes = {key: config[key] for key in ("z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max")}
        from hyperinverter.models.mobile_stylegan import MobileGenerator

        return MobileGenerator(resolution=domain.resolution, early_heads=early_heads, **sizes)
    if config["architecture"] == "stylegan2":
        config["architecture"] = "skip"
    return Generator(resolution=domain.resolution, **config)


def build_discriminator(domain: DomainConfig) -> Discriminator:
    return Discriminator(resolution=domain.resolution, **asdict(domain.discriminator))


def build_w_encoder(domain: DomainConfig) -> WEncoder:
    """E1."""
    return WEncoder(domain.w_encoder, w_dim=domain.generator.w_dim)


def build_layerwise_encoder(domain: DomainConfig, hypernetwork: Hypernetwork) -> LayerwiseEncoder:
    """E2, with one head per style that the generator has, or that these hypernetworks read."""
    config = domain.layerwise_encoder
    read = None if config.unread_heads else set(hypernetwork.style_indices.values())
    return LayerwiseEncoder(config, num_styles=hypernetwork.num_ws, read=read)


def build_hypernetwork(domain: DomainConfig, generator: "Generator | MobileGenerator") -> Hypernetwork:
    sizes, maps = asdict(domain.hypernetwork), domain.layerwise_encoder
    layers = target_layers(generator, sizes["target_set"], sizes["left_out"])
    return Hypernetwork(layers, generator.num_ws, maps.feature_channels, feature_size=maps.feature_size, **sizes)


def build_hyperinverter(
    domain: DomainConfig, generator: "Generator | MobileGenerator | None" = None, w_encoder: WEncoder | None = None
) -> HyperInverterNetwork:
    """The whole method around a given (trained) generator and E1, or around random ones."""
    generator = build_generator(domain) if generator is None else generator
    w_encoder = build_w_encoder(domain) if w_encoder is None else w_encoder
    hypernetwork = build_hypernetwork(domain, generator)
    return HyperInverterNetwork(generator, w_encoder, build_layerwise_encoder(domain, hypernetwork), hypernetwork)


def build_feature_residual(
    domain: DomainConfig, generator: "Generator | MobileGenerator", layerwise_encoder: LayerwiseEncoder
) -> "FeatureResidualNetwork":
    """Phase III's networks for a layer of this generator and the maps of this E2.

    Raises ValueError: the domain names no layer of the generator, or the residual would hold too many numbers.
    """
    from hyperinverter.models.feature_residual import FeatureResidualNetwork

    maps = list(zip(layerwise_encoder.widths, layerwise_encoder.stage_sizes, strict=True))
    return FeatureResidualNetwork(domain.feature_residual, generator.synthesis, maps)
