"""From a `DomainConfig` to its networks with random weights: no files, no devices (use `torch.device` as a context)."""

from dataclasses import asdict

from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder
from hyperinverter.models.hyperinverter import HyperInverter
from hyperinverter.models.hypernetwork import Hypernetwork
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.models.stylegan2.layers import block_resolutions
from hyperinverter.models.target_layers import target_layers


def build_generator(domain: DomainConfig) -> Generator:
    """StyleGAN2 generator G of the domain's resolution."""
    return Generator(resolution=domain.resolution, **asdict(domain.generator))


def build_discriminator(domain: DomainConfig) -> Discriminator:
    """StyleGAN2 discriminator D of the domain's resolution."""
    return Discriminator(resolution=domain.resolution, **asdict(domain.discriminator))


def build_w_encoder(domain: DomainConfig) -> WEncoder:
    """E1."""
    return WEncoder(domain.w_encoder, w_dim=domain.generator.w_dim)


def build_layerwise_encoder(domain: DomainConfig) -> LayerwiseEncoder:
    """E2, with one head per style of the domain's generator: two per resolution from 4 px on."""
    return LayerwiseEncoder(domain.layerwise_encoder, num_styles=2 * len(block_resolutions(domain.resolution)))


def build_hypernetwork(domain: DomainConfig, generator: Generator) -> Hypernetwork:
    """Hypernetworks for the weights of this generator."""
    config = domain.hypernetwork
    return Hypernetwork(
        target_layers(generator, config.target_set),
        generator.num_ws,
        domain.layerwise_encoder.feature_channels,
        feature_size=domain.layerwise_encoder.feature_size,
        fusion_channels=config.fusion_channels,
        transformer_channels=config.transformer_channels,
        hidden_size=config.hidden_size,
        weight_layout=config.weight_layout,
        style_index=config.style_index,
        init=config.init,
        token_range=config.token_range,
        use_w_image_features=config.use_w_image_features,
        shared_code=config.shared_code,
    )


def build_hyperinverter(
    domain: DomainConfig, generator: Generator | None = None, w_encoder: WEncoder | None = None
) -> HyperInverter:
    """The whole method around a given (trained) generator and E1, or around random ones."""
    generator = build_generator(domain) if generator is None else generator
    return HyperInverter(
        generator,
        build_w_encoder(domain) if w_encoder is None else w_encoder,
        build_layerwise_encoder(domain),
        build_hypernetwork(domain, generator),
    )
