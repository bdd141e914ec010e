"""A tiny domain (16 px, random weights) and a model folder that holds its four networks."""

from dataclasses import asdict
from pathlib import Path

import torch

from hyperinverter.checkpoint import save_model
from hyperinverter.config.domain_schema import FeatureResidualConfig
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
from hyperinverter.pretrained.load import load_model


def make_tiny_domain() -> DomainConfig:
    trunk = {"input_size": 16, "stem_width": 8, "widths": [8, 8, 16, 16], "depths": [1] * 4, "strides": [2, 1, 1, 1]}
    return DomainConfig(
        name="micro",
        resolution=16,
        loss_resolution=16,
        alignment="none",
        generator=GeneratorConfig(z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16),
        discriminator=DiscriminatorConfig(channel_base=256, channel_max=16),
        w_encoder=EncoderConfig(**trunk),
        layerwise_encoder=LayerwiseEncoderConfig(**trunk, feature_channels=8),
        hypernetwork=HypernetworkConfig(hidden_size=4, fusion_channels=8, transformer_channels=8),
        feature_residual=FeatureResidualConfig(layer="b8.conv1", channels=2, width=8),
    )


def save_tiny_model(folder: Path, domain: DomainConfig, seed: int = 0) -> Path:
    """Write a model folder with random weights; hypernetworks are scaled up so that Phase II visibly changes images."""
    torch.manual_seed(seed)
    generator, discriminator = build_generator(domain).eval(), build_discriminator(domain)
    generator.mapping.w_avg.copy_(generator.mapping(torch.randn(256, domain.generator.z_dim))[:, 0].mean(0))
    model = build_hyperinverter(domain, generator, build_w_encoder(domain))
    with torch.no_grad():
        for name, parameter in model.hypernetwork.named_parameters():
            if name.rpartition(".")[2] in ("w1", "w2"):
                parameter.mul_(5)
    head = {"domain": domain.name, "resolution": domain.resolution}
    more = {key: getattr(domain, key) for key in ("kind", "loss_resolution", "alignment")}
    g = save_model(
        folder / "generator.safetensors",
        generator,
        kind="generator",
        config={**head, **more, "generator": asdict(domain.generator)},
    )
    save_model(
        folder / "discriminator.safetensors",
        discriminator,
        kind="discriminator",
        config={**head, "discriminator": asdict(domain.discriminator)},
        requires={"generator": g},
    )
    e1 = save_model(
        folder / "w_encoder.safetensors",
        model.w_encoder,
        kind="w_encoder",
        config={**head, "w_encoder": asdict(domain.w_encoder)},
        requires={"generator": g},
    )
    save_model(
        folder / "hyperinverter.safetensors",
        {k: v for k, v in model.state_dict().items() if k.startswith(("layerwise_encoder.", "hypernetwork."))},
        kind="hyperinverter",
        config={**head} | {part: asdict(getattr(domain, part)) for part in ("layerwise_encoder", "hypernetwork")},
        requires={"generator": g, "w_encoder": e1},
    )
    return folder


def save_feature_residual(folder: Path) -> None:
    """Add Phase III to a model folder of the tiny domain, with random weights that change images and follow edits."""
    domain, phase2 = make_tiny_domain(), load_model(folder)
    torch.manual_seed(0)
    network = build_feature_residual(domain, phase2.generator, phase2.network.layerwise_encoder)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    config = {"domain": domain.name, "resolution": domain.resolution}
    config["feature_residual"] = asdict(domain.feature_residual)
    path = folder / "feature_residual.safetensors"
    save_model(path, network, kind="feature_residual", config=config, requires=phase2.hashes)
