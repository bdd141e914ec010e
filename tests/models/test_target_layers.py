"""Target layers: published order, sets, shapes and both style indices, against index formulas and recorded tables."""

import math

import pytest
import recorded
import torch

from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers
from hyperinverter.utils.state_dicts import shapes_only


def make_generator(resolution: int = 32, **sizes) -> Generator:
    return Generator(
        resolution=resolution, **{"z_dim": 8, "w_dim": 12, "channel_base": 256, "channel_max": 16, **sizes}
    )


def indices_by_formula(name: str) -> tuple[int, int]:
    """(true, released) from published-behaviour: with l = log2(resolution), written apart from the code's walk."""
    block, kind = name.split(".")[:2]
    level = int(math.log2(int(block[1:])))
    if block == "b4":
        return {"conv1": (0, 0), "torgb": (1, 1)}[kind]
    return {
        "conv0": (2 * level - 5, 2 * level - 4),
        "conv1": (2 * level - 4, 2 * level - 3),
        "torgb": (2 * level - 3, 2 * level - 3),
    }[kind]


@pytest.mark.parametrize("resolution", [8, 32, 256, 1024])
def test_indices_follow_the_formulas_at_any_resolution(resolution):
    with shapes_only():
        generator = make_generator(resolution, channel_base=16384)
    for target in target_layers(generator, "all_without_bias"):
        assert (target.style_index_true, target.style_index_released) == indices_by_formula(target.name), target.name
        assert target.style_index_released < generator.num_ws
        parameter = generator.synthesis.get_parameter(target.name)
        assert (target.shape, target.size) == (tuple(parameter.shape), parameter.numel())


@pytest.mark.parametrize("name", recorded.names("hi_.*"))
def test_order_and_released_indices_are_the_recorded_ones(name):
    config = recorded.Case(name).info["config"]
    opts = config["opts"]
    targets = target_layers(make_generator(opts["output_size"], channel_base=4096), opts["target_shape_name"])
    assert [target.name for target in targets] == config["predicted_order"]
    assert {target.name: target.style_index_released for target in targets} == config["w_idx"]


@pytest.mark.parametrize(
    ("target_set", "at_1024", "at_256"),
    [("conv_without_bias", 26, 20), ("conv_without_bias_without_torgb", 17, 13), ("all_without_bias", 52, 40)],
)
def test_sets_have_the_published_number_of_layers(target_set, at_1024, at_256):
    with shapes_only():
        counts = [len(target_layers(make_generator(size, channel_base=16384), target_set)) for size in (1024, 256)]
    assert counts == [at_1024, at_256]


def test_a_layers_true_style_is_the_one_that_moves_it():
    """The generator hands each layer exactly the style of its true index."""
    generator = make_generator(16).eval()
    ws = torch.randn(1, generator.num_ws, generator.w_dim)
    seen: dict[str, torch.Tensor] = {}
    affines = {target.name.removesuffix(".weight"): target for target in target_layers(generator)}
    for name in affines:
        generator.synthesis.get_submodule(f"{name}.affine").register_forward_pre_hook(
            lambda module, args, name=name: seen.__setitem__(name, args[0].clone())
        )
    generator.synthesis(ws)
    for name, target in affines.items():
        assert torch.equal(seen[name], ws[:, target.style_index_true]), name


def test_faults_are_named():
    with pytest.raises(ValueError, match="target_set: got '', expected one of conv_without_bias"):
        target_layers(make_generator(8), "")
    with pytest.raises(ValueError, match="expected a StyleGAN2 generator"):
        target_layers(_NoSynthesis())


class _NoSynthesis(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.synthesis = torch.nn.Linear(1, 1)
