"""A file's kind from a few of its names; where tensors are alike, the training run's options or the user decide."""

from pathlib import Path

import pytest
import torch

from hyperinverter.published.reading import IrNetwork, NetworkStub, PublishedFile
from hyperinverter.releases.identify import KNOWN, kind_of, recognise
from hyperinverter.utils.errors import UserError


def names(*keys: str, channels: int = 3) -> dict[str, torch.Tensor]:
    """A state dict with these keys; first convolutions read `channels`."""
    return {key: torch.zeros(4, channels, 3, 3) for key in keys}


def stub(class_name: str) -> NetworkStub:
    return NetworkStub(class_name, {}, {})


STEM, HEAD = "encoder.input_layer.0.weight", "encoder.styles.0.linear.weight"
PYRAMID = names(STEM, HEAD, "encoder.latlayer1.weight", "decoder.conv1.conv.modulation.weight")
CONTENTS = {
    "stylegan2_ada_generator": [
        {"G": stub("Generator"), "D": stub("Discriminator"), "G_ema": stub("Generator")},
        stub("Generator"),
        names("synthesis.b4.const", "mapping.fc0.weight"),
        {"G_ema": names("synthesis.b4.const")},
    ],
    "stylegan2_ada_discriminator": [
        {"D": stub("Discriminator")},
        stub("Discriminator"),
        names("b4.out.weight"),
        {"D": names("b4.out.weight")},
    ],
    "rosinality_generator": [
        {"g_ema": names("conv1.conv.modulation.weight"), "latent_avg": torch.zeros(8), "g_optim": {}},
        names("decoder.conv1.conv.modulation.weight"),
    ],
    "w_encoder": [
        {"state_dict": names(STEM, "encoder.linear.weight", "decoder.x"), "opts": {}},
        names("conv1.weight", "bn1.weight", "linear.weight"),
    ],
    "layerwise_encoder": [names("w_bar_encoder.conv1.weight", "w_bar_encoder.styles.0.convs.0.weight")],
    "hypernetwork": [
        names("weight_regressors.b4_conv1_weight.w1"),
        names("b4_conv1_weight.w1"),
        names("w1", "b1", "w2", "b2", "fusion.0.weight"),
    ],
    "hyperinverter": [
        {"state_dict": names("hypernet.weight_regressors.b4_conv1_weight.w1", "w_bar_encoder.conv1.weight")}
    ],
    "psp": [
        {"state_dict": PYRAMID, "opts": {"encoder_type": "GradualStyleEncoder"}},
        names(STEM, "encoder.linear.weight", "encoder.output_layer_2.0.weight"),
    ],
    "e4e": [
        {"state_dict": PYRAMID, "opts": {"encoder_type": "Encoder4Editing"}},
        {"state_dict": PYRAMID, "opts": {"progressive_steps": None}},
        {"state_dict": PYRAMID, "discriminator_state_dict": {}},
    ],
    "restyle": [{"state_dict": names(STEM, HEAD, channels=6)}],
    "hyperstyle": [{"state_dict": names("hypernet.conv1.weight", "decoder.conv1.conv.modulation.weight", channels=6)}],
    "arcface": [names("input_layer.0.weight", "output_layer.3.weight", "output_layer.4.weight")],
    "curricularface": [names("module.input_layer.0.weight", "module.output_layer.3.weight")],
    "moco": [
        {"state_dict": names("module.encoder_q.conv1.weight", "module.encoder_k.conv1.weight")},
        names("conv1.weight", "layer4.0.conv3.weight", "fc.weight"),
    ],
    "direction": [torch.zeros(512), torch.zeros(1, 512), torch.zeros(1, 18, 512)],
    "pca": [{name: torch.zeros(2) for name in ("mean", "comp", "std")}],
    "lpips": [
        names("features.0.weight", "classifier.1.weight"),
        names("net.slice1.0.weight", "lin0.model.1.weight"),
        {"AlexNet_0": {"Conv_0": {"kernel": torch.zeros(11, 11, 3, 64)}}},
        {"VGG16_0": {"Conv_0": {"kernel": torch.zeros(3, 3, 3, 64)}}},
    ],
    "mobile_stylegan_generator": [{"data/SynthesisNetwork.xml": IrNetwork("SynthesisNetwork")}],
}


def test_every_kind_is_recognised():
    assert set(CONTENTS) == set(KNOWN)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_kind_is_recognised_by_its_names(kind: str):
    for content in CONTENTS[kind]:
        assert recognise(content) == (kind,)


def test_tensors_that_are_alike_are_left_to_the_user():
    file = PublishedFile(Path("x.pt"), "torch", {"state_dict": PYRAMID}, "")
    assert set(recognise(file.content)) == {"psp", "e4e"}
    with pytest.raises(UserError, match="may be psp or e4e, whose tensors are alike; give kind=psp"):
        kind_of(file)
    assert kind_of(file, kind="e4e") == kind_of(file, hint="e4e") == "e4e"
    with pytest.raises(UserError, match="write one of"):
        kind_of(file, kind="e5e")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (names("fc.weight"), "holds fc.weight"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "a, b, c, d and 1 more"),
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2, 3, 4, 4), "a Tensor"),
        ({}, "nothing"),
        ({"state_dict": {1: torch.zeros(2)}, "opts": "text"}, "state_dict, opts"),
    ],
)
def test_what_is_not_recognised_says_what_it_holds(content, told):
    with pytest.raises(UserError, match=told):
        kind_of(PublishedFile(Path("x.pt"), "torch", content, ""))
