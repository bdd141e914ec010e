"""Trunks: stage sizes follow from the numbers, the published shortcut rule, and errors that name the key."""

from dataclasses import replace

import pytest
import torch

from hyperinverter.config.domain_schema import EFFICIENTNET_LITE0, TRUNKS, EncoderConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.backbones.blocks import IRUnit, SqueezeExcitation
from hyperinverter.utils.state_dicts import shapes_only


def small(**changes) -> EncoderConfig:
    numbers = {
        "input_size": 24,
        "stem_width": 4,
        "widths": [4, 8, 8, 12],
        "depths": [1, 2, 1, 1],
        "strides": [2, 1, 2, 1],
    }
    return EncoderConfig(**{**numbers, **changes})


SIZED_BY_NUMBERS = [kind for kind in TRUNKS if kind != "efficientnet_lite0"]


@pytest.mark.parametrize("kind", SIZED_BY_NUMBERS)
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("input_size", [24, 17])
def test_stages_have_the_promised_widths_and_sizes(kind, stem_stride, input_size):
    trunk = Trunk(small(trunk=kind, stem_stride=stem_stride, input_size=input_size)).eval()
    maps = trunk.stages(torch.randn(2, 3, input_size, input_size))
    assert [tuple(x.shape) for x in maps] == [
        (2, width, size, size) for width, size in zip(trunk.widths, trunk.stage_sizes, strict=True)
    ]


def test_images_of_any_size_are_resized_like_the_published_code():
    trunk = Trunk(small(input_size=16))
    images = torch.randn(1, 3, 64, 64)
    # bilinear without antialias from 4x the size is the mean of the central 2x2 of every 4x4 block
    expected = torch.stack([images[:, :, i::4, j::4] for i in (1, 2) for j in (1, 2)]).mean(0)
    torch.testing.assert_close(trunk.resize(images), expected)
    same = torch.randn(1, 3, 16, 16)
    assert trunk.resize(same) is same


def test_ir_shortcut_takes_every_second_pixel_where_the_width_stays():
    unit = IRUnit(4, 4, 2, squeeze_excitation=True)
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(unit.shortcut_layer(x), x[:, :, ::2, ::2])
    assert len(list(IRUnit(4, 8, 1, squeeze_excitation=True).shortcut_layer.parameters())) == 3


def test_squeeze_excitation_of_a_narrow_trunk_keeps_one_channel():
    assert SqueezeExcitation(8).fc1.weight.shape == (1, 8, 1, 1)
    assert SqueezeExcitation(64).fc1.weight.shape == (4, 64, 1, 1)


def test_resnet34_has_torchvisions_parameter_names_and_shapes():
    torchvision = pytest.importorskip("torchvision")
    config = EncoderConfig(trunk="resnet", depths=[3, 4, 6, 3], strides=[1, 2, 2, 2], stem_stride=2)
    with shapes_only():
        reference = torchvision.models.resnet34()
        ours = {name: tuple(value.shape) for name, value in Trunk(config).state_dict().items()}
    theirs, block = {}, 0
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        for unit in layer:
            theirs.update({f"body.{block}.{name}": tuple(value.shape) for name, value in unit.state_dict().items()})
            block += 1
    assert {name: shape for name, shape in ours.items() if name.startswith("body.")} == theirs


def test_impossible_numbers_are_all_named():
    with pytest.raises(ValueError, match=r"trunk: got 'vgg'.*widths: got \[1, 2\].*stem_stride: got 0"):
        Trunk(small(trunk="vgg", widths=[1, 2], stem_stride=0))
    with pytest.raises(ValueError, match=r"expected \[N, 3, H, W\]"):
        Trunk(small()).stages(torch.zeros(1, 1, 24, 24))


def test_efficientnet_lite0_has_its_published_size_and_padding():
    """4.65 million weights with the head of 320 x 1280 and 1280 x 1000 that a trunk leaves out; SAME padding."""
    config = EncoderConfig(trunk="efficientnet_lite0", input_size=64, **EFFICIENTNET_LITE0)
    trunk = Trunk(config).eval()
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in trunk.parameters()) + head == 4_652_008
    maps = trunk.stages(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    smaller = replace(config, strides=[2, 2, 2, 1])
    assert [x.shape[2] for x in Trunk(smaller).eval().stages(torch.randn(1, 3, 64, 64))] == [16, 8, 4, 4]
    image = torch.randn(1, 3, 64, 64)
    # a strided 3x3 on an even side begins at the first pixel and gets its border at the right and the bottom
    stem = trunk._conv_stem
    expected = (image[0, :, :3, :3] * stem.weight[5]).sum()
    torch.testing.assert_close(stem(image)[0, 5, 0, 0], expected)
    corner = torch.nn.functional.pad(image, (0, 1, 0, 1))[0, :, 62:65, 62:65]
    torch.testing.assert_close(stem(image)[0, 5, -1, -1], (corner * stem.weight[5]).sum())
