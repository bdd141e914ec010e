"""A tiny church-like domain and its files in the formats in which the real ones are released."""

from dataclasses import asdict
from pathlib import Path

import torch
from as_published import published_arguments, to_published
from nvidia_file import Stored, nested, save_nvidia
from torch import Tensor

from hyperinverter.config.schema import (
    DiscriminatorConfig,
    DomainConfig,
    EncoderConfig,
    GeneratorConfig,
    HypernetworkConfig,
    LayerwiseEncoderConfig,
)
from hyperinverter.config.yaml_text import dump_yaml
from hyperinverter.models.build import build_discriminator, build_hyperinverter
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.stylegan2 import Discriminator

NAME = "micro_church"
TRUNK = {
    "trunk": "resnet",
    "input_size": 256,  # as released; nothing in a file tells it
    "stem_width": 4,
    "stem_stride": 2,
    "widths": [4, 6, 8, 10],
    "depths": [1, 1, 2, 1],
    "strides": [1, 2, 2, 2],
}
PKL, E1, WHOLE = "micro-church.pkl", "w_encoder_micro_church.pt", "hyper_inverter_micro_church.pt"


def church_domain(resolution: int = 32) -> DomainConfig:
    return DomainConfig(
        name=NAME,
        kind="scenes",
        resolution=resolution,
        loss_resolution=16,
        alignment="none",
        generator=GeneratorConfig(z_dim=8, w_dim=12, mapping_layers=2, channel_base=256, channel_max=16),
        discriminator=DiscriminatorConfig(channel_base=256, channel_max=16),
        w_encoder=EncoderConfig(**TRUNK),
        layerwise_encoder=LayerwiseEncoderConfig(**TRUNK, feature_channels=6, feature_size=8),
        hypernetwork=HypernetworkConfig(hidden_size=4, fusion_channels=5, transformer_channels=3),
    )


def church_model(seed: int = 0, resolution: int = 32) -> tuple[HyperInverterNetwork, Discriminator]:
    torch.manual_seed(seed)
    domain = church_domain(resolution)
    model = build_hyperinverter(domain).eval()
    with torch.no_grad():
        model.generator.mapping.w_avg.normal_()
        for name, parameter in model.hypernetwork.named_parameters():
            if name.endswith(("w1", "w2")):
                parameter.mul_(5)  # so that Phase II visibly changes images
    return model, build_discriminator(domain)


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value.clone() for name, value in state.items()}


def write_releases(folder: Path, model: HyperInverterNetwork, discriminator: Discriminator) -> Path:
    """The generator's .pkl, the W encoder's .pt and the HyperInverter's .pt, as their projects save them."""
    folder.mkdir(parents=True, exist_ok=True)
    g, d = (
        Stored(nested(to_published(network)), type(network).__name__, published_arguments(network))
        for network in (model.generator, discriminator)
    )
    save_nvidia(folder / PKL, {"G": g, "D": d, "G_ema": g, "training_set_kwargs": None, "augment_pipe": None})
    opts = {"dataset_type": "church_encode", "hidden_dim": 4, "device": "cuda:0", "max_steps": 500_000}
    e1 = model.w_encoder.state_dict()
    torch.save({"state_dict": below("encoder.", e1), "latent_avg": torch.zeros(8, 12), "opts": opts}, folder / E1)
    state = below("w_encoder.", e1) | below("w_bar_encoder.", model.layerwise_encoder.state_dict())
    state |= below("hypernet.", model.hypernetwork.state_dict()) | below("discriminator.", discriminator.state_dict())
    torch.save({"state_dict": state, "opts": opts, "global_step": 410_000, "loss_dict": {"l2": 0.1}}, folder / WHOLE)
    return folder


def write_domain(folder: Path, domain: DomainConfig | None = None) -> None:
    """configs/domains/micro_church.yaml (or another's) below `folder`, which has to be the current one."""
    domain = domain or church_domain()
    path = folder / "configs/domains" / f"{domain.name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(dump_yaml(asdict(domain)))
