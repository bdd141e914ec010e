"""HyperInverter's releases through `from_published`: containers, prefixes, what is inferred, what is refused.

The numbers themselves are held against recorded outputs in tests/models and against index formulas in
test_layout_traps.py.
"""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from hyperinverter.config.domain_schema import (
    TARGET_SETS,
    DiscriminatorConfig,
    DomainConfig,
    EncoderConfig,
    GeneratorConfig,
    HypernetworkConfig,
    LayerwiseEncoderConfig,
)
from hyperinverter.models.build import build_discriminator, build_generator, build_hyperinverter
from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import Hypernetwork, WeightRegressor
from hyperinverter.models.target_layers import target_layer
from hyperinverter.published import from_published
from hyperinverter.utils.errors import UserError

TRUNK = {"stem_width": 4, "widths": [4, 6, 8, 10], "depths": [2, 1, 2, 1]}
RESNET = {**TRUNK, "trunk": "resnet", "strides": [1, 2, 2, 2], "stem_stride": 2}
TRUNKS = {"ir_se": TRUNK, "ir": {**TRUNK, "trunk": "ir"}, "resnet": RESNET}
OPTS = {"device": "cuda:0", "w_encoder_path": "/home/someone/w_encoder.pt", "hidden_dim": 4}


def tiny_domain(trunk: str = "resnet", **hypernetwork) -> DomainConfig:
    return DomainConfig(
        resolution=32,
        generator=GeneratorConfig(z_dim=8, w_dim=12, mapping_layers=2, channel_base=256, channel_max=16),
        discriminator=DiscriminatorConfig(channel_base=256, channel_max=16),
        w_encoder=EncoderConfig(**TRUNKS[trunk]),
        layerwise_encoder=LayerwiseEncoderConfig(**TRUNKS[trunk], feature_channels=6),
        hypernetwork=HypernetworkConfig(
            **{"hidden_size": 4, "fusion_channels": 5, "transformer_channels": 3} | hypernetwork
        ),
    )


def with_prefix(prefix: str, state: Mapping[str, Tensor] | nn.Module) -> dict[str, Tensor]:
    state = state.state_dict() if isinstance(state, nn.Module) else state
    return {prefix + key: value.clone() for key, value in state.items()}


def release_of(model: HyperInverterNetwork, discriminator: nn.Module | None = None) -> dict[str, Tensor]:
    """Its weights as the published code saves them: without the generator."""
    state = with_prefix("w_encoder.", model.w_encoder) | with_prefix("w_bar_encoder.", model.layerwise_encoder)
    state |= with_prefix("hypernet.", model.hypernetwork)
    return state | (with_prefix("discriminator.", discriminator) if discriminator else {})


@pytest.fixture(scope="module")
def model() -> HyperInverterNetwork:
    torch.manual_seed(0)
    return build_hyperinverter(tiny_domain()).eval()


@pytest.fixture
def release(model) -> dict[str, Tensor]:
    return release_of(model, build_discriminator(tiny_domain()))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_a_whole_release_gives_the_same_images(trunk):
    """From a checkpoint with optimiser states and foreign options; the generator as a network, everything else read."""
    torch.manual_seed(0)
    original = build_hyperinverter(tiny_domain(trunk)).eval()
    checkpoint = {
        "state_dict": release_of(original, build_discriminator(tiny_domain())),
        "opts": OPTS,
        "encoder_optimizer": {"state": {0: torch.zeros(3)}},
        "loss_dict": {"loss": 1.0},
        "global_step": 500,
    }
    loaded = from_published(checkpoint, "hyperinverter", generator=original.generator)
    assert not loaded.training and same_weights(loaded, original)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(loaded(images).reconstruction, original(images).reconstruction)
    ignored = loaded.published.ignored
    assert "an optimiser's state" in ignored["encoder_optimizer"] and "options" in ignored["opts"]
    assert "discriminator=True" in ignored["discriminator.b4.out.weight"] and "global_step" in ignored
    assert loaded.published.kind == "hyperinverter"


@torch.no_grad()
def test_a_release_s_config_builds_it_again(model, release):
    config = from_published(release, "hyperinverter", generator=model.generator).published.config
    expected = tiny_domain()
    assert EncoderConfig(**config["w_encoder"]) == expected.w_encoder
    assert LayerwiseEncoderConfig(**config["layerwise_encoder"]) == expected.layerwise_encoder
    assert HypernetworkConfig(**config["hypernetwork"]) == expected.hypernetwork
    assert (config["resolution"], config["w_dim"], config["num_ws"]) == (32, 12, 8)
    assert config["generator"]["resolution"] == 32


def test_each_network_can_be_read_out_of_the_whole_release(model, release):
    e1 = from_published({"state_dict": release, "opts": OPTS}, "w_encoder")
    e2 = from_published(release, "layerwise_encoder", n_styles=8, output_size=32, encoder_type="ResNetLayerWiseEncoder")
    h = from_published(release, "hypernetwork", hidden_dim=4, target_shape_name="conv_without_bias", n_styles=8)
    assert same_weights(e1, model.w_encoder) and same_weights(e2, model.layerwise_encoder)
    assert same_weights(h, model.hypernetwork)
    assert e1.published.ignored["hypernet.weight_regressors.b4_conv1_weight.w1"].endswith("the hypernetworks")
    assert {key.split(".")[0] for key in h.published.ignored} == {"w_encoder", "w_bar_encoder", "discriminator"}


def test_the_generator_may_be_a_state_dict_or_a_file(model, release, tmp_path):
    torch.save(model.generator.state_dict(), tmp_path / "generator.pt")
    torch.save({"state_dict": release, "opts": OPTS}, tmp_path / "hyper_inverter.pt")
    for generator in (model.generator.state_dict(), tmp_path / "generator.pt"):
        loaded = from_published(tmp_path / "hyper_inverter.pt", "hyperinverter", generator=generator)
        assert same_weights(loaded, model)
    assert loaded.published.source == "hyper_inverter.pt" and len(loaded.published.sha256) == 64


def test_the_discriminator_is_read_on_request(model, release):
    original = build_discriminator(tiny_domain())
    state = release_of(model, original)
    loaded = from_published(state, "hyperinverter", generator=model.generator, discriminator=True)
    assert same_weights(loaded.published.others["discriminator"], original)
    assert same_weights(loaded, model)  # it is no part of the network
    with pytest.raises(UserError, match=r"it has no discriminator\.\*"):
        from_published(release_of(model), "hyperinverter", generator=model.generator, discriminator=True)


def test_e1_may_come_from_elsewhere(model, release):
    other = WEncoder(EncoderConfig(**TRUNK), w_dim=12)
    without = {key: value for key, value in release.items() if not key.startswith("w_encoder.")}
    with pytest.raises(UserError, match="give w_encoder="):
        from_published(without, "hyperinverter", generator=model.generator)
    for state in (without, release):
        given = with_prefix("encoder.", other)
        loaded = from_published(state, "hyperinverter", generator=model.generator, w_encoder={"state_dict": given})
        assert same_weights(loaded.w_encoder, other)
        assert loaded.published.config["w_encoder"]["trunk"] == "ir_se"
    assert "another E1" in loaded.published.ignored["w_encoder.linear.weight"]
    assert from_published(without, "hyperinverter", generator=model.generator, w_encoder=other).w_encoder is other
    with pytest.raises(ValueError, match="got a Linear, expected a Generator or what stylegan2_ada_generator reads"):
        from_published(release, "hyperinverter", generator=nn.Linear(1, 1))


@pytest.mark.parametrize("fault", ["generator", "size", "part", "missing", "unknown", "shape", "nan"])
def test_a_release_that_is_not_whole_is_refused(model, release, fault):
    generator = model.generator
    key = "hypernet.weight_regressors.b8_conv0_weight.w1"
    if fault == "generator":
        generator, told = None, "give generator="
    elif fault == "size":
        smaller = GeneratorConfig(z_dim=8, w_dim=12, mapping_layers=2, channel_base=256, channel_max=8)
        generator, told = build_generator(DomainConfig(resolution=32, generator=smaller)), "do not fit each other"
    elif fault == "part":
        release = {key: value for key, value in release.items() if not key.startswith("w_bar_encoder.")}
        told = r"it has no w_bar_encoder\.\* \(E2\)"
    elif fault == "missing":
        del release["w_bar_encoder.body.1.bn1.weight"]
        told = "1 missing: body.1.bn1.weight"
    elif fault == "unknown":
        release["w_bar_encoder.body.1.bn1.momentum"] = torch.zeros(1)
        release["surplus.weight"] = torch.zeros(1)
        told = "1 not known: body.1.bn1.momentum"
    elif fault == "shape":
        release[key] = release[key][:, :-4]
        told = "of another shape|do not fit|predicts"
    else:
        release[key] = release[key] * float("nan")
        told = "NaN"
    with pytest.raises(UserError, match=told):
        from_published(release, "hyperinverter", generator=generator)


@pytest.mark.parametrize(
    "wrong",
    [{"output_size": 64}, {"n_styles": 10}, {"hidden_dim": 8}, {"target_shape_name": "all_without_bias"},
     {"encoder_type": "LayerWiseEncoder"}],
    ids=str,
)  # fmt: skip
def test_an_option_that_contradicts_the_tensors_is_refused(model, release, wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}=.* was given, but the tensors say"):
        from_published(release, "hyperinverter", generator=model.generator, **wrong)


def test_unknown_options_are_refused_by_name(release):
    for kind in ("w_encoder", "layerwise_encoder", "hypernetwork", "hyperinverter"):
        with pytest.raises(ValueError, match="unknown option colour; it takes"):
            from_published(release, kind, colour="red")


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("prefix", ["", "encoder.", "module."])
def test_w_encoders_of_every_container(trunk, prefix):
    original = WEncoder(EncoderConfig(**TRUNKS[trunk]), w_dim=9)
    state = with_prefix(prefix, original)
    if prefix == "encoder.":
        state = {
            "state_dict": state | {"decoder.conv1.weight": torch.zeros(1)},
            "latent_avg": torch.zeros(9),
            "opts": {},
        }
    loaded = from_published(state, "w_encoder", w_dim=9)
    assert same_weights(loaded, original)
    assert loaded.published.config == {
        "w_encoder": vars(EncoderConfig(**TRUNKS[trunk])),
        "w_dim": 9,
        "input_channels": 3,
    }
    if prefix == "encoder.":
        assert set(loaded.published.ignored) == {"decoder.conv1.weight", "latent_avg", "opts"}


def test_a_w_encoder_s_input_size_and_strides_are_options():
    config = EncoderConfig(**{**TRUNK, "input_size": 32, "strides": [2, 1, 2, 1]})
    original = WEncoder(config, w_dim=5).eval()
    loaded = from_published(original.state_dict(), "w_encoder", input_size=32, strides=[2, 1, 2, 1])
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(loaded(images), original(images))


def test_half_precision_weights_are_read_as_float32():
    original = WEncoder(EncoderConfig(**TRUNK), w_dim=5)
    state = {key: value.half() if value.is_floating_point() else value for key, value in original.state_dict().items()}
    assert from_published(state, "w_encoder").linear.weight.dtype == torch.float32


def test_other_encoders_are_not_taken_for_e1():
    pyramid = LayerwiseEncoder(LayerwiseEncoderConfig(**TRUNK, feature_channels=3), num_styles=4).state_dict()
    with pytest.raises(UserError, match="read as layerwise_encoder, psp, e4e or restyle"):
        from_published(pyramid, "w_encoder")
    with pytest.raises(UserError, match=r"it has no input_layer\.0\.weight or conv1\.weight"):
        from_published({"fc.weight": torch.zeros(2, 2)}, "w_encoder")
    with pytest.raises(UserError, match="its entries ema are not known"):
        from_published({"state_dict": pyramid, "ema": {"a": torch.zeros(1)}}, "w_encoder")
    with pytest.raises(UserError, match="it holds a list"):
        from_published([torch.zeros(1)], "w_encoder")


@pytest.mark.parametrize("styles", [3, 7, 9, 18])
def test_layerwise_encoders_of_any_number_of_styles(styles):
    original = LayerwiseEncoder(LayerwiseEncoderConfig(**RESNET, feature_channels=3), num_styles=styles)
    loaded = from_published(original.state_dict(), "layerwise_encoder", n_styles=styles)
    assert same_weights(loaded, original)
    assert loaded.published.config["num_styles"] == styles
    assert loaded.published.config["layerwise_encoder"]["feature_size"] == 8


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"feature_size": 16}, {"feature_size": 16}),
        ({"feature_size": 4}, {}),
        ({"input_size": 64, "strides": [2, 1, 2, 1]}, {"input_size": 64, "strides": [2, 1, 2, 1]}),
        ({"input_size": 64, "strides": [2, 2, 2, 1]}, {"input_size": 64, "strides": [2, 2, 2, 1], "feature_size": 8}),
    ],
    ids=str,
)
def test_the_feature_size_follows_from_the_heads(sizes, told):
    config = LayerwiseEncoderConfig(**{**TRUNK, "feature_channels": 3, **sizes})
    original = LayerwiseEncoder(config, num_styles=9)
    loaded = from_published(original.state_dict(), "layerwise_encoder", **told)
    assert same_weights(loaded, original) and loaded.feature_size == config.feature_size
    if told:
        with pytest.raises(UserError, match="give the input_size, strides or feature_size"):
            from_published(original.state_dict(), "layerwise_encoder")


@pytest.mark.parametrize("target_set", TARGET_SETS)
@pytest.mark.parametrize("prefix", ["hypernet.weight_regressors.", "weight_regressors.", ""])
def test_hypernetworks_tell_their_layers(target_set, prefix):
    original = build_hyperinverter(tiny_domain(target_set=target_set)).hypernetwork
    state = with_prefix(prefix, original.weight_regressors)
    loaded = from_published(state, "hypernetwork", input_dim=6)
    assert isinstance(loaded, Hypernetwork) and same_weights(loaded, original)
    assert loaded.targets == original.targets and loaded.style_indices == original.style_indices
    assert loaded.published.config["hypernetwork"]["target_set"] == target_set
    gap = {key: value for key, value in state.items() if "b16_conv1_weight" not in key}
    with pytest.raises(UserError, match=r"needs 1 more layers: b16\.conv1\.weight"):
        from_published(gap, "hypernetwork")


@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (2, 4, 3, 3), (3, 6, 1, 1), (512, 2, 1, 1), (5, 7, 3, 3)])
def test_one_regressor_tells_its_shape(shape):
    o, i, k, _ = shape
    original = WeightRegressor(shape, feature_channels=6, fusion_channels=5, transformer_channels=3, hidden_size=2)
    told = {"kernel_size": k, "out_channels": o, "in_channels": i, "hidden_dim": 2, "input_dim": 6}
    for options in ({}, told, {"out_channels": o}):
        loaded = from_published(original.state_dict(), "hypernetwork", **options)
        assert loaded.shape == shape and same_weights(loaded, original)
    assert WeightRegressor(**loaded.published.config).shape == shape
    for wrong in ({"in_channels": i + 1}, {"out_channels": o + 1, "kernel_size": k}, {"hidden_dim": 3}):
        with pytest.raises(UserError, match="the tensors say"):
            from_published(original.state_dict(), "hypernetwork", **wrong)
    with pytest.raises(UserError, match="give another kernel_size"):
        from_published(original.state_dict(), "hypernetwork", kernel_size=7)
    with pytest.raises(ValueError, match="n_styles says nothing about one regressor"):
        from_published(original.state_dict(), "hypernetwork", n_styles=8)


def test_a_kernel_of_nine_output_channels_is_asked_for():
    """1x1 with 9 outputs and 3x3 with one have the same tensors."""
    original = WeightRegressor((9, 2, 1, 1), feature_channels=6, hidden_size=2)
    assert from_published(original.state_dict(), "hypernetwork").shape == (1, 2, 3, 3)
    assert from_published(original.state_dict(), "hypernetwork", kernel_size=1).shape == (9, 2, 1, 1)
    assert from_published(original.state_dict(), "hypernetwork", out_channels=9).shape == (9, 2, 1, 1)


def test_faults_of_hypernetworks_are_named(release):
    state = {k: v for k, v in release.items() if k.startswith("hypernet.")}
    first = "hypernet.weight_regressors.b4_conv1_weight"
    for change, told in (
        ({f"{first}.w2": torch.zeros(3, 4)}, r"expected \[D, I\*D\] and \[D, O\*k\*k\]"),
        ({f"{first}.fusion.0.weight": torch.zeros(5, 7, 1, 1)}, "on two feature maps"),
        ({"hypernet.weight_regressors.b5_conv1_weight.w1": torch.zeros(1, 1)}, "b5.conv1.weight: not a weight of"),
        ({"hypernet.weight_regressors.b8_conv0_weight.w3": torch.zeros(1)}, "1 not known: b8_conv0_weight.w3"),
    ):
        with pytest.raises(UserError, match=told):
            from_published(state | change, "hypernetwork")
    for ends, keep, told in (  # no ValueError or IndexError, which would not name the file
        (("fusion.0.weight",), slice(0), r"expected \[O, I, k, k\]"),
        (("feature_extractor.0.weight",), slice(0), r"expected \[O, I, k, k\]"),
        (("feature_extractor.0.weight",), (0, 0, 0, 0), r"expected \[O, I, k, k\]"),
        (("w1", "w2"), (0, 0), r"expected \[D, I\*D\] and \[D, O\*k\*k\]"),
    ):
        with pytest.raises(UserError, match=told):
            changed = {k: v[keep] if k.endswith(ends) else v for k, v in state.items()}
            from_published(changed, "hypernetwork")
    with pytest.raises(ValueError, match="weight_layout must be one of released, paper; got 'raw'"):
        from_published(state, "hypernetwork", weight_layout="raw")
    with pytest.raises(ValueError, match="kernel_size says nothing about all regressors"):
        from_published(state, "hypernetwork", kernel_size=3)


@pytest.mark.parametrize("name", ["b8.conv2.weight", "b6.conv1.weight", "b4.conv0.weight", "b2.conv1.weight", "conv1"])
def test_names_that_no_generator_has_are_no_target_layers(name):
    with pytest.raises(ValueError, match="not a weight of a StyleGAN2 synthesis network"):
        target_layer(name, (1, 1, 3, 3))
