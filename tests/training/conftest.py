"""Tiny runs of the three trainers: 16 px, six steps of four images, random weights, one thread."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.checkpoint import save_model
from hyperinverter.config.encoder_schema import (
    HyperStyleSizes,
    LatentDiscriminatorConfig,
    Phase3Config,
    TrainEncoderConfig,
)
from hyperinverter.config.schema import (
    MOBILE,
    AdversarialConfig,
    DataConfig,
    DomainConfig,
    GeneratorConfig,
    OptimizerConfig,
    Phase1Config,
    Phase2Config,
    ScheduleConfig,
    StyleGAN2Config,
    WeightsConfig,
)
from hyperinverter.models.build import build_generator
from hyperinverter.models.mobile_stylegan import mean_w
from hyperinverter.training import encoder, phase1, phase2, phase3, stylegan2

Config = Phase1Config | Phase2Config | Phase3Config | StyleGAN2Config | TrainEncoderConfig
TRAIN = {"phase1": phase1.train, "phase2": phase2.train, "phase3": phase3.train, "stylegan2": stylegan2.train}
# the other published methods, by the part of a model folder that they train
ENCODERS = {
    "psp": {"method": "psp", "w_norm_weight": 0.01},
    "e4e": {"method": "e4e"},
    "restyle": {"method": "restyle"},
    "restyle_e4e": {"method": "restyle", "restyle_over": "e4e"},
    "hyperstyle": {"method": "hyperstyle"},
}
TRAIN |= dict.fromkeys(ENCODERS, encoder.train)


def write_photos(folder: Path, count: int = 12, size: int = 16) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def tiny_config(phase: str, model: Path, photos: Path, output: Path, domain: DomainConfig, **changes) -> Config:
    """Adversarial from step 3 on with half the batch, saved at 2, 4 and 6; log intervals lie across the saves."""
    schedule = {
        "max_steps": 6,
        "batch_size": 4,
        "log_every": 3,
        "images_every": 100,
        "validate_every": 2,
        "save_every": 2,
    }
    schedule |= changes.pop("schedule", {})
    common = {
        "domain": replace(domain, weights=WeightsConfig(folder=str(model))),
        "data": DataConfig(root=str(photos), validation_fraction=0.3),
        "schedule": ScheduleConfig(**schedule),
        "output": str(output),
        "device": "cpu",
        "threads": 1,
        "seed": 7,
    }
    if phase == "stylegan2":
        regularised = {"r1_every": 2, "path_length_every": 3, "ema_kimg": 0.01}
        return StyleGAN2Config(**{**common, **regularised, **changes})
    common["loss_weights"] = {"l2": 1.0}
    if phase == "phase1":
        ranger = OptimizerConfig(name="ranger", lr=1e-2, betas=[0.95, 0.999], eps=1e-5)
        return Phase1Config(**{**common, "optimizer": ranger, **changes})
    if phase == "phase3":
        return Phase3Config(**{**common, "optimizer": OptimizerConfig(lr=1e-3), **changes})
    if phase in ENCODERS:
        discriminator = LatentDiscriminatorConfig(r1_every=2, pool_size=5, optimizer=OptimizerConfig(lr=1e-3))
        sizes = {"hyperstyle": HyperStyleSizes(width=8, shared_width=4, code_size=8), "head_width": 8, "n_iters": 2}
        sizes |= {"progressive_start": 1, "progressive_every": 2, "latent_discriminator": discriminator}
        return TrainEncoderConfig(
            **{**common, "optimizer": OptimizerConfig(lr=1e-3), **sizes, **ENCODERS[phase], **changes}
        )
    gan = AdversarialConfig(weight=0.1, start_step=3, batch_size=2, cold_steps=2, r1_every=2)
    own = {"optimizer": OptimizerConfig(lr=1e-3), "adversarial": gan}
    own |= {"edit_consistency_weight": 0.5, "edit_consistency_every": 2}
    return Phase2Config(**{**common, **own, **changes})


def stats(output: Path) -> list[dict]:
    """stats.jsonl without the times."""
    lines = [json.loads(line) for line in (output / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def make_config(tiny_domain: DomainConfig, tiny_model: Path, photos: Path, tmp_path: Path) -> Callable[..., Config]:
    def make(phase: str, name: str = "run", **changes) -> Config:
        return tiny_config(phase, tiny_model, photos, tmp_path / name, tiny_domain, **changes)

    return make


@pytest.fixture(scope="session")
def whole_run(
    tiny_domain: DomainConfig, tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, dict]]:
    """The tiny run of a phase and a schedule, trained once without a stop: its folder and what `train` returned.
    Read-only."""

    @cache
    def run(phase: str, **schedule: int) -> tuple[Path, dict]:
        folder = tmp_path_factory.mktemp("whole") / phase
        return folder, TRAIN[phase](tiny_config(phase, tiny_model, photos, folder, tiny_domain, schedule=schedule))

    return run


@pytest.fixture(scope="session", autouse=True)
def _same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def mobile_domain(tiny_domain: DomainConfig, tmp_path_factory: pytest.TempPathFactory) -> DomainConfig:
    """64 px, losses at 16 px; its generator in a folder."""
    generator = GeneratorConfig(
        architecture=MOBILE, z_dim=16, w_dim=16, mapping_layers=2, channel_base=512, channel_max=16
    )
    e2 = replace(tiny_domain.layerwise_encoder, unread_heads=False)
    hypernetwork = replace(tiny_domain.hypernetwork, left_out=["layers.2.*", "to_img.weight"])
    sizes = {"resolution": 64, "loss_resolution": 16, "name": "mobile"}
    domain = replace(tiny_domain, generator=generator, layerwise_encoder=e2, hypernetwork=hypernetwork, **sizes)
    folder = tmp_path_factory.mktemp("mobile")
    torch.manual_seed(0)
    network = build_generator(domain)
    network.mapping.w_avg.copy_(mean_w(network.mapping, 1000))
    config = {"domain": "mobile", "resolution": 64, "loss_resolution": 16, "generator": asdict(generator)}
    save_model(folder / "generator.safetensors", network, kind="generator", config=config)
    return replace(domain, weights=WeightsConfig(folder=str(folder)))
