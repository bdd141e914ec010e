"""The model folders of the inverters' tests also hold psp, e4e, restyle and hyperstyle, with random weights."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_model import save_feature_residual

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.hyperstyle import HyperStyle, HyperStyleConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers
from hyperinverter.models.wplus import WPlusConfig, build_model
from hyperinverter.pretrained.load import load_generator
from hyperinverter.pretrained.methods import save_method

TRUNK = EncoderConfig(input_size=16, stem_width=8, widths=[8, 8, 16, 16], depths=[1] * 4, strides=[2, 1, 1, 1])


def tiny_methods(generator: Generator) -> dict[str, torch.nn.Module]:
    """Every published method at the size of a tiny generator."""
    sizes = {"num_styles": generator.num_ws, "w_dim": generator.w_dim, "trunk": TRUNK, "average_rows": 1}
    layers = target_layers(generator)
    shapes = {number: layer.shape for number, layer in enumerate(layers) if ".torgb" not in layer.name}
    channels = generator.w_dim
    into_w = WPlusConfig("BackboneEncoderUsingLastLayerIntoW", **sizes)
    hyperstyle = HyperStyleConfig(
        generator.resolution,
        shapes,
        shared=[0, 2, 3],
        trunk=TRUNK,
        shared_width=4,
        width=8,
        code_size=8,
        token_size=8,
        shared_rows=channels,
        shared_columns=channels * 9,
        w_dim=channels,
        average_rows=1,
        n_iters=2,
        w_encoder=into_w,
    )
    restyle = WPlusConfig("BackboneEncoder", **sizes, input_channels=6, n_iters=2)
    networks = {
        "psp": build_model(WPlusConfig("GradualStyleEncoder", **sizes)),
        "e4e": build_model(WPlusConfig("Encoder4Editing", **sizes)),
        "restyle": build_model(restyle, generator),
        "hyperstyle": HyperStyle(hyperstyle, generator),
    }
    for network in networks.values():
        network.latent_avg.copy_(generator.mapping.w_avg)
    return networks


def with_methods(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    generator = load_generator(target)
    torch.manual_seed(0)
    for method, network in tiny_methods(generator).items():
        path = target / f"{method}.safetensors"
        save_method(path, network, method=method, domain="micro", generator_hash=generator.weights_hash)
    save_feature_residual(target)
    return target


@pytest.fixture(scope="session")
def tiny_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder named `micro` with every method. Read-only."""
    return with_methods(tiny_model, tmp_path_factory.mktemp("methods") / "micro")


@pytest.fixture(scope="session")
def other_tiny_model(other_tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sizes with another generator."""
    return with_methods(other_tiny_model, tmp_path_factory.mktemp("methods") / "micro")
