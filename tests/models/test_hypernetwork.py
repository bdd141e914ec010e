"""Hypernetworks: published counts and outputs, styles, near-zero start, tokens affine."""

import copy

import pytest
import recorded
import torch

from hyperinverter.models.hypernetwork import START_RMS, Hypernetwork, WeightRegressor
from hyperinverter.models.plan import count_parameters
from hyperinverter.models.residuals import CHANNEL_UNIT
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import TargetLayer, target_layers
from hyperinverter.published import from_published
from hyperinverter.utils.state_dicts import shapes_only

SETS = ("conv_without_bias", "conv_without_bias_without_torgb", "all_without_bias")
PUBLISHED = {  # (target set, resolution) -> parameters at D = 32, 64, 128, 256
    (SETS[0], 1024): (36_829_691, 67_496_091, 184_665_563, 642_351_195),
    (SETS[0], 256): (30_464_309, 59_686_485, 171_608_213, 609_361_173),
    (SETS[1], 1024): (24_764_576, 45_698_752, 124_726_016, 431_416_192),
    (SETS[1], 256): (20_468_320, 40_322_048, 115_418_944, 407_170_496),
    (SETS[2], 1024): (76_765_243, 149_895_707, 433_782_235, 1_552_057_691),
    (SETS[2], 256): (61_240_501, 123_182_165, 363_457_429, 1_309_575_701),
}
PREDICTED = {
    (SETS[0], 1024): 23_592_864, (SETS[0], 256): 23_454_336, (SETS[1], 1024): 23_583_744,
    (SETS[1], 256): 23_445_504, (SETS[2], 1024): 28_245_920, (SETS[2], 256): 27_910_784,
}  # fmt: skip


def make_hypernetwork(target_set: str = SETS[0], **options) -> tuple[Hypernetwork, Generator]:
    generator = Generator(resolution=16, z_dim=8, w_dim=12, channel_base=128, channel_max=16)
    sizes = {"feature_channels": 6, "fusion_channels": 8, "transformer_channels": 5, "hidden_size": 4, **options}
    return Hypernetwork(target_layers(generator, target_set), generator.num_ws, **sizes).eval(), generator


def features(n: int = 2, styles: int = 6, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, styles, 6, size, size), torch.randn(n, styles, 6, size, size)


@pytest.mark.parametrize("target_set", SETS)
@pytest.mark.parametrize("resolution", [1024, 256])
def test_parameter_counts_are_the_published_table(target_set, resolution):
    with shapes_only():
        generator = Generator(resolution=resolution)
        targets = target_layers(generator, target_set)
        networks = [Hypernetwork(targets, generator.num_ws, hidden_size=d) for d in (32, 64, 128, 256)]
    assert tuple(map(count_parameters, networks)) == PUBLISHED[target_set, resolution]
    assert sum(target.size for target in targets) == PREDICTED[target_set, resolution]
    assert {len(network.state_dict()) for network in networks} == {14 * len(targets)}


@pytest.mark.parametrize("name", recorded.names("wr_.*"))
@torch.no_grad()
def test_weight_regressor_gives_the_recorded_output(name):
    case = recorded.Case(name)
    regressor = from_published(case.state(), "hypernetwork", **case.info["config"]["kwargs"])
    h_w, h = case.input("w_image_codes"), case.input("w_bar_codes")
    both = torch.cat([h_w, h], dim=1)
    kernel = regressor(h_w, h)
    case.compare("fused", regressor.fusion(both))
    case.compare("feature", regressor.token(both)[:, :, None, None])
    case.compare("kernel", kernel)
    case.compare("kernel_l2_per_out", kernel.square().sum(dim=(2, 3, 4)).sqrt())
    case.compare("kernel_l2_per_in", kernel.square().sum(dim=(1, 3, 4)).sqrt())


def test_signed_tokens_have_no_number_without_a_gradient():
    torch.manual_seed(0)
    for token_range, last in (("non_negative", -2), ("signed", -1)):
        hypernetwork, _ = make_hypernetwork(token_range=token_range, init="signal_preserving")
        ends = [regressor.feature_extractor[last] for regressor in hypernetwork.weight_regressors.values()]
        for convolution in ends:
            convolution.bias.data.fill_(-20)  # where training may have pushed it
        tokens = torch.cat(list(hypernetwork.tokens(*features()).values()))
        sum(residual.square().sum() for residual in hypernetwork(*features()).values()).backward()
        moved = torch.stack([convolution.bias.grad != 0 for convolution in ends])  # [target layers, D]
        if token_range == "signed":
            assert (tokens < 0).all() and moved.all()
        else:
            assert (tokens == 0).all() and not moved.any()
    with pytest.raises(ValueError, match="token_range must be one of non_negative, signed; got 'other'"):
        Hypernetwork([], 4, token_range="other")


def test_every_layer_reads_the_style_it_should():
    """Features that hold their own style's number show which style arrived, for both index rules and shared code."""
    for options, expected in (
        ({"style_index": "released"}, {"b4.conv1": 0, "b4.torgb": 1, "b8.conv0": 2, "b8.conv1": 3, "b8.torgb": 3}),
        ({"style_index": "true"}, {"b4.conv1": 0, "b4.torgb": 1, "b8.conv0": 1, "b8.conv1": 2, "b8.torgb": 3}),
        ({"shared_code": True}, {"b4.conv1": 5, "b4.torgb": 5, "b8.conv0": 5, "b8.conv1": 5, "b8.torgb": 5}),
    ):
        hypernetwork, _ = make_hypernetwork(**options)
        arrived: dict[str, float] = {}
        for name, regressor in hypernetwork.weight_regressors.items():
            regressor.fusion.register_forward_pre_hook(
                lambda module, args, name=name, seen=arrived: seen.__setitem__(name, float(args[0].mean()))
            )
        h = torch.arange(6.0).reshape(1, 6, 1, 1, 1).expand(1, 6, 6, 8, 8)
        hypernetwork.tokens(h, h)
        for layer, style in expected.items():
            assert arrived[layer.replace(".", "_") + "_weight"] == style, (options, layer)


def test_the_phase_one_image_comes_first_in_the_fusion():
    hypernetwork, _ = make_hypernetwork()
    got = []
    regressor = hypernetwork.weight_regressors["b4_conv1_weight"]
    regressor.fusion.register_forward_pre_hook(lambda module, args: got.append(args[0]))
    h, h_w = features()
    hypernetwork.tokens(h, h_w)
    assert torch.equal(got[0], torch.cat([h_w[:, 0], h[:, 0]], dim=1))


@torch.no_grad()
def test_residuals_start_near_zero():
    """At the published sizes: rms 2e-4 to 5e-3 for 3x3, under 4e-2 for torgb, against weights of about 1."""
    h_w, h = torch.randn(2, 4, 512, 8, 8)
    for shape, limit in (((512, 512, 3, 3), 1e-3), ((32, 32, 3, 3), 8e-3), ((3, 32, 1, 1), 6e-2)):
        regressor = WeightRegressor(shape, hidden_size=32)
        token, residual = regressor.token(torch.cat([h_w, h], dim=1)), regressor(h_w, h)
        assert 0 < residual.square().mean().sqrt() < limit, shape
        assert (token >= 0).all() and token.shape == (4, 32)


@pytest.mark.parametrize("layout", ["released", "paper"])
@torch.no_grad()
def test_decode_is_affine_in_the_token(layout):
    hypernetwork, _ = make_hypernetwork(SETS[2], weight_layout=layout)
    for name, parameter in hypernetwork.named_parameters():
        if name.endswith(("b1", "b2")):
            parameter.normal_()
    left, right = ({name: torch.randn(2, 4) for name in hypernetwork.targets} for _ in range(2))
    mixed = hypernetwork.decode({name: torch.lerp(left[name], right[name], 0.3) for name in left})
    decoded_left, decoded_right = hypernetwork.decode(left), hypernetwork.decode(right)
    for name, value in mixed.items():
        expected = torch.lerp(decoded_left[name], decoded_right[name], 0.3)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


SCALES = {"mapper": "channel_scales", "token_range": "signed", "init": "signal_preserving"}


@pytest.mark.parametrize("target_set", SETS[:2])
def test_channel_scales_multiply_each_input_channel(target_set):
    """At the start they change nothing; then the image is that of weights scaled in place, with its gradients."""
    hypernetwork, generator = make_hypernetwork(target_set, fusion_norm="none", **SCALES)
    ws = torch.randn(2, generator.num_ws, generator.w_dim)
    with torch.no_grad():
        torch.testing.assert_close(generator.synthesis(ws, hypernetwork(*features())), generator.synthesis(ws))
    shapes = {target.name: target.shape for target in target_layers(generator, target_set)}
    tokens = {name: torch.randn(2, shape[1], requires_grad=True) for name, shape in shapes.items()}
    images = generator.synthesis(ws, hypernetwork.decode(tokens))
    images.square().sum().backward()
    for i in range(2):
        changed = copy.deepcopy(generator)
        factors = {name: torch.ones(shape[1], requires_grad=True) for name, shape in shapes.items()}
        weights = {
            f"synthesis.{name}": changed.synthesis.get_parameter(name).detach()
            * (factor + CHANNEL_UNIT * tokens[name][i].detach()).view(1, -1, 1, 1)
            for name, factor in factors.items()
        }
        image = torch.func.functional_call(Drawing(changed), weights, (ws[i : i + 1],))
        torch.testing.assert_close(image[0], images[i], rtol=1e-4, atol=1e-4)
        image.square().sum().backward()
        for name, factor in factors.items():
            expected = CHANNEL_UNIT * factor.grad
            error = (tokens[name].grad[i] - expected).abs().max()
            assert error <= 1e-3 * expected.abs().max() + 1e-5, name


class Drawing(torch.nn.Module):
    """A generator whose forward pass is its synthesis, for `functional_call`."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, ws: torch.Tensor) -> torch.Tensor:
        return self.synthesis(ws)


def test_features_keep_their_means_without_a_norm():
    """A brighter map is lost behind instance norm, and is not with fusion_norm: none."""
    h, h_w = features()
    for norm, differs in (("instance", False), ("none", True)):
        hypernetwork, _ = make_hypernetwork(fusion_norm=norm)
        tokens, brighter = hypernetwork.tokens(h, h_w), hypernetwork.tokens(h + 1, h_w)
        errors = [(brighter[name] - token).abs().max() for name, token in tokens.items()]
        assert (max(errors) > 1e-3) == differs


@pytest.mark.parametrize("target_set", SETS)
def test_residuals_fit_the_generator_and_carry_gradients(target_set):
    hypernetwork, generator = make_hypernetwork(target_set)
    residuals = hypernetwork(*features())
    ws = torch.randn(2, generator.num_ws, generator.w_dim)
    generator.synthesis(ws, weight_residuals=residuals).square().mean().backward()
    assert all(p.grad is not None for n, p in hypernetwork.named_parameters())
    assert residuals.keys() == {target.name for target in target_layers(generator, target_set)}


@pytest.mark.parametrize(
    "options",
    [{}, {"use_w_image_features": False}, {"shared_code": True}, {"token_range": "signed"}],
    ids=str,
)
@pytest.mark.parametrize("size", [8, 16])
@torch.no_grad()
def test_all_transformers_as_one_give_the_same_tokens(size, options):
    hypernetwork, _ = make_hypernetwork(SETS[2], feature_size=size, **options)
    h, h_w = features(3, size=size)
    both = h if "use_w_image_features" in options else torch.cat([h_w, h], dim=2)
    for _ in range(2):
        together = hypernetwork._token_stack()(both)
        for one, (name, token) in zip(together, hypernetwork.tokens(h, h_w).items(), strict=True):
            torch.testing.assert_close(one, token, msg=name)
        for parameter in hypernetwork.parameters():  # the copies follow their weights
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert not any("stack" in name for name in hypernetwork.state_dict())


@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_transformer_halves_down_to_one_pixel(size):
    hypernetwork, _ = make_hypernetwork(feature_size=size)
    assert {token.shape for token in hypernetwork.tokens(*features(size=size)).values()} == {(2, 4)}


def test_without_features_of_the_phase_one_image_only_the_input_counts():
    hypernetwork, _ = make_hypernetwork(use_w_image_features=False)
    h, h_w = features()
    assert hypernetwork.weight_regressors["b4_conv1_weight"].fusion[0].in_channels == 6
    first, second = hypernetwork(h, None), hypernetwork(h, h_w)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_faults_are_named():
    hypernetwork, _ = make_hypernetwork()
    h, h_w = features()
    with pytest.raises(ValueError, match=r"h: got shape \[2, 5, 6, 8, 8\], expected \[N, 6, 6, 8, 8\]"):
        hypernetwork.tokens(h[:, :5], h_w)
    with pytest.raises(ValueError, match="h_w: got None"):
        hypernetwork.tokens(h, None)
    tokens = hypernetwork.tokens(h, h_w)
    with pytest.raises(ValueError, match=r"missing \['b4.conv1.weight'\], unknown none"):
        hypernetwork.decode({name: token for name, token in tokens.items() if name != "b4.conv1.weight"})
    with pytest.raises(ValueError, match=r"tokens\[b4.conv1.weight\]: got shape \[2, 3\], expected \[N, 4\]"):
        hypernetwork.decode({name: token[:, :3] for name, token in tokens.items()})
    for wrong in ({"weight_layout": "raw"}, {"style_index": "own"}, {"feature_size": 12}, {"feature_size": 4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make_hypernetwork(**wrong)
    with pytest.raises(ValueError, match="needs the features of style 7, but num_ws is 6"):
        Hypernetwork([TargetLayer("b32.conv1.weight", (4, 4, 3, 3), 6, 7)], 6, 6)


def test_the_signal_preserving_init_lets_images_differ_and_starts_near_zero():
    """Under the released init a token differs between images by a tenth of its size, here by several times that."""

    @torch.no_grad()
    def spread_and_residual(**options: str) -> tuple[float, float]:
        torch.manual_seed(0)
        sizes = {"feature_channels": 32, "fusion_channels": 32, "transformer_channels": 32, "hidden_size": 32}
        regressor = WeightRegressor((64, 64, 3, 3), **sizes, **options)
        features = torch.randn(32, 64, 8, 8) + torch.randn(64, 8, 8)  # half of an image is common to all
        token = regressor.token(features)
        residual = regressor.decode(token)
        return float(token.std(0).mean() / token.square().mean().sqrt()), float(residual.square().mean().sqrt())

    released, start = spread_and_residual(init="released")
    preserving, new_start = spread_and_residual(init="signal_preserving")
    _, signed_start = spread_and_residual(init="signal_preserving", token_range="signed")
    assert preserving > 3 * released, (preserving, released)
    assert start < 0.05 and 0.004 < new_start < 0.03 and 0.004 < signed_start < 0.03
    with pytest.raises(ValueError, match=r"init must be one of .*; got 'other'"):
        Hypernetwork([], 4, init="other")


@torch.no_grad()
def test_a_token_of_rms_1_starts_as_a_residual_of_the_stated_size():
    torch.manual_seed(0)
    regressor = WeightRegressor((32, 48, 3, 3), hidden_size=32, init="signal_preserving")
    residual = regressor.decode(torch.randn(16, 32))
    assert float(residual.square().mean().sqrt()) == pytest.approx(START_RMS, rel=0.1)


@pytest.mark.parametrize(("token_range", "gain"), [("non_negative", 2.0), ("signed", 2.0 / 1.04)])
def test_the_signal_preserving_init_allows_for_the_slope_below_zero(token_range: str, gain: float):
    torch.manual_seed(0)
    regressor = WeightRegressor(
        (4, 4, 1, 1), transformer_channels=128, hidden_size=128, init="signal_preserving", token_range=token_range
    )
    weights = [layer.weight.detach() for layer in regressor.feature_extractor if isinstance(layer, torch.nn.Conv2d)]
    for weight in weights:  # He et al.: variance gain / fan_in
        assert float(weight.square().mean() * weight[0].numel()) == pytest.approx(gain, rel=0.015)
