"""E1 and E2: published counts and keys, recorded outputs in eval and train mode, and the pass order in training."""

from copy import deepcopy

import pytest
import recorded
import torch

from hyperinverter.config.schema import EncoderConfig, LayerwiseEncoderConfig
from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder, _upsampled
from hyperinverter.models.plan import count_parameters
from hyperinverter.published import from_published
from hyperinverter.utils.state_dicts import shapes_only

RESNET34 = {"trunk": "resnet", "depths": [3, 4, 6, 3], "strides": [1, 2, 2, 2], "stem_stride": 2}
NUMBERS = {"ir_se": {}, "ir": {"trunk": "ir"}, "resnet": RESNET34}


def tiny(**changes) -> LayerwiseEncoderConfig:
    numbers = {"input_size": 32, "stem_width": 8, "widths": [8, 16, 16, 24], "depths": [1] * 4, "strides": [2, 1, 2, 1]}
    return LayerwiseEncoderConfig(**{**numbers, "feature_channels": 12, **changes})


@pytest.mark.parametrize(("trunk", "parameters", "keys"), [("ir_se", 31_212_736, 387), ("resnet", 21_547_392, 219)])
def test_w_encoder_has_the_published_size(trunk, parameters, keys):
    with shapes_only():
        encoder = WEncoder(EncoderConfig(**NUMBERS[trunk]))
    assert (count_parameters(encoder), len(encoder.state_dict())) == (parameters, keys)


@pytest.mark.parametrize(
    ("trunk", "styles", "parameters", "keys"),
    [
        ("ir_se", 18, 134_979_264, 477),
        ("ir_se", 14, 106_661_568, 453),
        ("resnet", 18, 125_313_920, 309),
        ("resnet", 14, 96_996_224, 285),
    ],
)
def test_layerwise_encoder_has_the_published_size(trunk, styles, parameters, keys):
    with shapes_only():
        encoder = LayerwiseEncoder(LayerwiseEncoderConfig(**NUMBERS[trunk]), num_styles=styles)
    assert (count_parameters(encoder), len(encoder.state_dict())) == (parameters, keys)


def compare_stages(case: recorded.Case, encoder: WEncoder | LayerwiseEncoder, images: torch.Tensor) -> None:
    """The output of the stem and of the last unit of every stage."""
    case.compare("stem", encoder.stem(images))
    for number, value in zip(encoder._stage_ends, encoder.stages(images), strict=True):
        case.compare(f"body{number - 1}", value)


@pytest.mark.parametrize("name", recorded.mostly_slow("e1_.*", "e1_resnet34"))
@torch.no_grad()
def test_w_encoder_gives_the_recorded_output(name):
    case = recorded.Case(name)
    encoder = from_published(case.state(), "w_encoder")
    images = case.input()
    case.compare("out", encoder(images))
    compare_stages(case, encoder, images)


@pytest.mark.parametrize("name", recorded.mostly_slow("e2_.*(?<!_train)"))
@torch.no_grad()
def test_layerwise_encoder_gives_the_recorded_output(name):
    case = recorded.Case(name)
    encoder = from_published(case.state(), "layerwise_encoder", n_styles=case.info["config"]["n_styles"])
    images = case.input()
    out = encoder(images)
    case.compare("out", out)
    case.compare("out_slot_mean", out.mean(dim=(2, 3, 4)))
    case.compare("out_slot_l2", out.square().sum(dim=(2, 3, 4)).sqrt())
    compare_stages(case, encoder, images)


@pytest.mark.parametrize("name", recorded.mostly_slow("e2_.*_train"))
def test_layerwise_encoder_trains_as_recorded(name):
    case = recorded.Case(name)
    encoder = from_published(case.state(), "layerwise_encoder", n_styles=case.info["config"]["n_styles"]).train()
    out = encoder(case.input())
    loss = (out * case.input("probe")).sum() / out.numel() ** 0.5
    loss.backward()
    case.compare("out", out)
    case.compare("loss", loss)
    parameters, buffers = dict(encoder.named_parameters()), dict(encoder.named_buffers())
    gradients = [parameters[key].grad.double() for key in case.info["config"]["param_order"]]
    case.compare("grad_l2", torch.stack([gradient.norm() for gradient in gradients]))
    case.compare("grad_sum", torch.stack([gradient.sum() for gradient in gradients]))
    case.compare("grad_first_conv", gradients[0].float())
    case.compare("bn_after_sum", torch.stack([buffers[key].double().sum() for key in case.info["config"]["bn_order"]]))


def test_heads_stride_down_as_often_as_their_map_needs():
    encoder = LayerwiseEncoder(tiny(), num_styles=8)  # maps of 8, 8 and 16 px
    strides = [[layer.stride[0] for layer in head.convs if hasattr(layer, "stride")] for head in encoder.styles]
    assert strides == [[1]] * 7 + [[2]]
    published = [[2]] * 3 + [[2, 2]] * 4 + [[2, 2, 2]] * 11
    with shapes_only():
        encoder = LayerwiseEncoder(LayerwiseEncoderConfig(), num_styles=18)
    assert [[x.stride[0] for x in head.convs if hasattr(x, "stride")] for head in encoder.styles] == published
    assert {head.convs[1].negative_slope for head in encoder.styles} == {0.01}


def test_a_map_that_cannot_become_the_feature_size_is_refused():
    with pytest.raises(ValueError, match="a 2 px map cannot be halved to feature_size 8 px; choose strides"):
        LayerwiseEncoder(tiny(strides=[2, 2, 2, 2]), num_styles=8)
    with pytest.raises(ValueError, match="a 12 px map"):
        LayerwiseEncoder(tiny(input_size=48), num_styles=8)


def test_one_call_in_eval_equals_two():
    encoder = LayerwiseEncoder(tiny(), num_styles=8).eval()
    images, w_images = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 40, 40)
    h, h_w = encoder.pair(images, w_images)
    assert h.shape == (2, 8, 12, 8, 8)
    torch.testing.assert_close(h, encoder(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(h_w, encoder(w_images), rtol=0, atol=1e-5)


def test_training_passes_the_inputs_first_and_apart():
    """BatchNorm's running mean after passes a, b is 0.9 (0.9 m + 0.1 a) + 0.1 b: order and separation show in it."""
    encoder = LayerwiseEncoder(tiny(), num_styles=8).train()
    images, w_images = torch.randn(2, 3, 32, 32), 3 + torch.randn(2, 3, 32, 32)
    convolution, norm = encoder.input_layer[0], encoder.input_layer[1]
    means = [convolution(batch).mean(dim=(0, 2, 3)) for batch in (images, w_images)]
    encoder.pair(images, w_images)
    torch.testing.assert_close(norm.running_mean, 0.09 * means[0] + 0.1 * means[1], rtol=0, atol=1e-5)


def test_training_in_one_call_equals_two_passes():
    encoder = LayerwiseEncoder(tiny(), num_styles=8).train()
    other = deepcopy(encoder)
    images, w_images = torch.randn(2, 3, 32, 32), 3 + torch.randn(2, 3, 32, 32)
    one, two = encoder.pair(images, w_images), (other(images), other(w_images))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for pair in (one, two):
        (pair[0].square().sum() + 3 * pair[1].sin().sum()).backward()
    for (name, a), b in zip(encoder.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * b.grad.abs().max().item(), msg=name)
    for (name, a), b in zip(encoder.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(encoder(images), other(images), rtol=1e-4, atol=1e-5)  # apart no longer


def test_w_encoder_offset_has_the_generators_w_dim():
    encoder = WEncoder(tiny(), w_dim=20)
    assert encoder(torch.randn(2, 3, 50, 50)).shape == (2, 20)


def test_pooled_cells_reach_w_from_their_own_place():
    """pool=2: w depends on where something is; a cell's columns of the linear layer see that quarter alone."""
    encoder = WEncoder(
        EncoderConfig(**{**RESNET34, "widths": [4, 4, 4, 4], "input_size": 64, "pool": 2}), w_dim=5
    ).eval()
    assert encoder.linear.weight.shape == (5, 16)
    images = torch.randn(1, 3, 64, 64)
    last = encoder.stages(images)[-1]
    half = last.shape[-1] // 2
    cells = [last[:, :, i : i + half, j : j + half].mean(dim=(2, 3)) for i in (0, half) for j in (0, half)]
    expected = encoder.linear(torch.stack(cells, dim=2).flatten(1))
    torch.testing.assert_close(encoder(images), expected)


def test_heads_that_nobody_reads_are_left_out_and_a_narrower_pyramid_gets_its_layer():
    encoder = LayerwiseEncoder(tiny(pyramid_channels=10), num_styles=9, read={0, 4, 8}).eval()
    keys = {key.split(".")[1] for key in encoder.state_dict() if key.startswith("styles.")}
    assert keys == {"0", "4", "8"} and encoder.latlayer0.weight.shape == (10, 24, 1, 1)
    features = encoder(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 9, 12, 8, 8)
    assert [bool(features[:, i].any()) for i in range(9)] == [i in (0, 4, 8) for i in range(9)]


def test_maps_of_the_pyramid_are_enlarged_with_their_corners_kept():
    """As published; recorded outputs, which tell it too, are not everywhere."""
    enlarged = _upsampled(torch.tensor([[[[0.0, 1.0]]]]), torch.zeros(1, 1, 1, 4))
    torch.testing.assert_close(enlarged[0, 0, 0], torch.tensor([0, 1 / 3, 2 / 3, 1]))
