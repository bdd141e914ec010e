"""The generator: published sizes, variants, residuals against edited parameters, noise, truncation.

Recorded outputs are in tests/pretrained/test_published_stylegan2.py.
"""

import copy
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.config.domain_schema import ACTIVATIONS, GeneratorConfig
from hyperinverter.models.residuals import ChannelScales
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.stylegan2.layers import Conv2d, channel_rule, channels_at
from hyperinverter.models.stylegan2.synthesis import SynthesisLayer
from hyperinverter.ops.bias_act import ACTIVATION_GAINS

SMALL = {"resolution": 16, "z_dim": 8, "w_dim": 12, "channel_base": 128, "channel_max": 8, "mapping_layers": 2}


def make(seed: int = 0, **changes: object) -> Generator:
    """A small generator in which every parameter matters: noise strengths and biases are not zero."""
    torch.manual_seed(seed)
    generator = Generator(**{**SMALL, **changes})
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return generator


@pytest.mark.parametrize(("resolution", "parameters", "keys"), [(1024, 30_370_060, 182), (256, 30_034_338, 144)])
def test_published_sizes(resolution: int, parameters: int, keys: int) -> None:
    with torch.device("meta"):
        generator = Generator(resolution=resolution)
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert len(generator.state_dict()) == keys
    assert generator.synthesis.b8.conv0.weight.shape == (512, 512, 3, 3)


def test_shapes_without_memory() -> None:
    """On the meta device everything runs through: shapes and costs can be asked for without weights."""
    with torch.device("meta"):
        generator = Generator(resolution=256)
        residuals = {"b64.conv0.weight": torch.zeros(2, 512, 512, 3, 3)}
        assert generator(torch.zeros(2, 512), weight_residuals=residuals).shape == (2, 3, 256, 256)


def test_the_config_section_is_the_networks_arguments() -> None:
    generator = Generator(resolution=16)
    assert generator.config == {"resolution": 16, **asdict(GeneratorConfig())}
    assert set(ACTIVATIONS) == set(ACTIVATION_GAINS)


def resampled(x: Tensor, taps: list[float], *, up: int, down: int, before: int, after: int) -> Tensor:
    """The published definition: insert zeros, pad, convolve with the filter turned round, keep every other pixel."""
    f = torch.outer(torch.tensor(taps), torch.tensor(taps)) / sum(taps) ** 2 * up**2
    n, channels, h, w = x.shape
    wide = x.new_zeros(n, channels, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, (before, after, before, after))
    return F.conv2d(wide, f.flip(0, 1).expand(channels, 1, -1, -1), groups=channels)[:, :, ::down, ::down]


@pytest.mark.parametrize("taps", [[1.0, 3.0, 3.0, 1.0], [1.0, 5.0], [1.0, 2.0, 5.0], [3.0], [1.0, 2.0, 3.0, 4.0, 9.0]])
def test_filters_of_any_length_resample_as_published(taps: list[float]) -> None:
    """Padding as `upfirdn2d` and `conv2d_resample` have it: an odd filter gets a pixel less on the right."""
    torch.manual_seed(0)
    x, size = torch.randn(2, 3, 6, 6), len(taps)
    skip = Conv2d(3, 4, 1, bias=False, up=2, resample_filter=taps)
    # a negative padding crops, as F.pad does too
    up = {"up": 2, "down": 1, "before": (size + 1) // 2, "after": (size - 2) // 2}
    expected = resampled(F.conv2d(x, skip.weight * skip.weight_gain), taps, **up)
    torch.testing.assert_close(skip(x), expected)
    for kernel in (1, 3):
        down = Conv2d(3, 4, kernel, bias=False, down=2, resample_filter=taps)
        pad = {"before": kernel // 2 + (size - 1) // 2, "after": kernel // 2 + (size - 2) // 2}
        filtered = resampled(x, taps, up=1, down=1, **pad)
        expected = F.conv2d(filtered, down.weight * down.weight_gain, stride=2)
        torch.testing.assert_close(down(x), expected)
    config = GeneratorConfig(w_dim=5, activation="linear", resample_filter=taps)
    layer = SynthesisLayer(3, 4, resolution=12, up=2, config=config)
    w = torch.randn(2, 5)
    weight = layer.weight * layer.affine(w)[:, None, :, None, None]  # [N, O, I, k, k]
    weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    for i in range(2):  # a true convolution of the image with zeros inserted, then the filter
        wide = x.new_zeros(1, 3, 12, 12)
        wide[:, :, ::2, ::2] = x[i]
        y = F.conv2d(F.pad(wide, (2, 2, 2, 2)), weight[i].flip(-1, -2))  # [1, 4, 14, 14]
        pad = {"before": (size + 1) // 2 - 1, "after": (size - 2) // 2}
        expected = resampled(y, taps, up=1, down=1, **pad)[:, :, :12, :12] * 4
        torch.testing.assert_close(layer(x, w, {}, "none")[i : i + 1], expected, rtol=1e-4, atol=1e-5)


def test_conditional_generators_want_a_condition_and_others_want_none() -> None:
    generator = make(c_dim=3)
    z, c = torch.randn(2, 8), torch.eye(3)[:2]
    assert not torch.allclose(generator(z, c=c), generator(z, c=c.flip(0)))
    with pytest.raises(ValueError, match=r"conditional: expected c \[N, 3\], got None"):
        generator(z)
    with pytest.raises(ValueError, match=r"conditional: expected c \[N, 3\], got \(1, 3\)"):
        generator(z, c=c[:1])
    with pytest.raises(ValueError, match=r"takes no condition \(c_dim is 0\), got c \(2, 3\)"):
        make()(z, c=c)
    make()(z, c=torch.zeros(2, 0))  # as the published scripts call an unconditional network


def test_without_a_running_mean_there_is_no_truncation() -> None:
    generator = make(w_avg_beta=None)
    assert "mapping.w_avg" not in generator.state_dict()
    generator.mapping(torch.randn(2, 8), update_w_avg=True)
    with pytest.raises(ValueError, match="truncation needs the running mean of w"):
        generator(torch.randn(2, 8), 0.7)


def test_the_channel_rule_is_found_from_channels() -> None:
    for base, most in ((32768, 512), (16384, 512), (1024, 16), (100, 32)):
        widths = {res: channels_at(res, base, most) for res in (4, 8, 16, 32, 64)}
        found = channel_rule(widths)
        assert {res: channels_at(res, *found) for res in widths} == widths
    with pytest.raises(ValueError, match=r"no channel_base and channel_max give .* 8 at 4 px, 16 at 8 px"):
        channel_rule({4: 8, 8: 16})


def test_config_rebuilds_it() -> None:
    generator = make()
    again = Generator(**generator.config)
    again.load_state_dict(generator.state_dict())
    z = torch.randn(2, 8)
    torch.testing.assert_close(again(z), generator(z))


def random_residuals(generator: Generator, n: int, names: list[str] | None = None) -> dict[str, Tensor]:
    return {
        name: (0.2 * torch.randn(n, *parameter.shape)).requires_grad_()
        for name, parameter in generator.synthesis.named_parameters()
        if names is None or name in names
    }


@pytest.mark.parametrize(
    "variant",
    [{}, {"architecture": "orig"}, {"architecture": "resnet", "activation": "swish", "resample_filter": [1, 2, 1]}],
)
def test_residuals_equal_edited_parameters_image_by_image(variant: dict[str, object]) -> None:
    """Values and gradients, for every parameter of the synthesis network at once."""
    generator = make(**variant).eval()
    ws = torch.randn(3, generator.num_ws, 12, requires_grad=True)
    residuals = random_residuals(generator, 3)
    probe = torch.randn(3, 3, 16, 16)
    images = generator.synthesis(ws, residuals)
    gradients = torch.autograd.grad((images * probe).sum(), [ws, *residuals.values()])
    for i in range(3):
        edited = copy.deepcopy(generator)
        with torch.no_grad():
            for name, parameter in edited.synthesis.named_parameters():
                parameter.add_(residuals[name][i])
        w = ws[i : i + 1].detach().requires_grad_()
        image = edited.synthesis(w)
        torch.testing.assert_close(images[i : i + 1], image, rtol=1e-4, atol=1e-4)
        expected = torch.autograd.grad((image * probe[i]).sum(), [w, *edited.synthesis.parameters()])
        torch.testing.assert_close(gradients[0][i : i + 1], expected[0], rtol=1e-3, atol=1e-3)
        for name, ours, theirs in zip(residuals, gradients[1:], expected[1:], strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
@torch.no_grad()
def test_prepared_residuals_and_images_drawn_singly_give_the_same_images(architecture, shared, monkeypatch):
    generator = make(architecture=architecture)
    ws = torch.randn(3, generator.num_ws, 12)
    for residuals in (None, {}, random_residuals(generator, 1 if shared else 3)):
        expected = generator.synthesis(ws, residuals)
        prepared = generator.synthesis.prepare(residuals)
        for singly_from_px in (4, 16, 1024):
            monkeypatch.setattr("hyperinverter.models.stylegan2.synthesis.SINGLY_FROM_PX", singly_from_px)
            for given in (residuals, prepared):
                torch.testing.assert_close(generator.synthesis(ws, given), expected, atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="weight residual"):
        generator.synthesis(
            torch.randn(2, generator.num_ws, 12),
            generator.synthesis.prepare({"b8.conv1.weight": torch.zeros(3, 8, 8, 3, 3)}),
        )


def test_a_residual_of_a_skip_may_be_shared_by_the_batch() -> None:
    generator = make(architecture="resnet").eval()
    ws = torch.randn(2, generator.num_ws, 12)
    one = random_residuals(generator, 1, ["b8.skip.weight"])
    both = {name: value.repeat(2, 1, 1, 1, 1) for name, value in one.items()}
    torch.testing.assert_close(generator.synthesis(ws, one), generator.synthesis(ws, both), rtol=1e-4, atol=1e-4)


def test_a_skip_may_be_scaled_per_channel() -> None:
    generator, name = make(architecture="resnet").eval(), "b8.skip.weight"
    ws, weight = torch.randn(2, generator.num_ws, 12), generator.synthesis.get_parameter(name)
    scaled = ChannelScales(torch.rand(2, 1, weight.shape[1], 1, 1))
    plain = generator.synthesis(ws, {name: weight * scaled.scales})
    torch.testing.assert_close(generator.synthesis(ws, {name: scaled}), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["b4.const", "b8.conv0.weight", "b16.torgb.weight", "b8.conv1.affine.bias"])
def test_single_residuals_zero_residuals_and_one_for_all(name: str) -> None:
    generator = make().eval()
    ws = torch.randn(2, generator.num_ws, 12)
    plain = generator.synthesis(ws)
    one = random_residuals(generator, 1, [name])
    assert not torch.allclose(generator.synthesis(ws, one), plain, atol=1e-3)
    both = {name: one[name].expand(2, *one[name].shape[1:])}
    torch.testing.assert_close(generator.synthesis(ws, one), generator.synthesis(ws, both), rtol=1e-4, atol=1e-4)
    zero = {name: torch.zeros_like(both[name])}
    torch.testing.assert_close(generator.synthesis(ws, zero), plain, rtol=1e-4, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch() -> None:
    generator = make().eval()
    ws = torch.randn(3, generator.num_ws, 12)
    residuals = random_residuals(generator, 3)
    batch = generator.synthesis(ws, residuals)
    for i in range(3):
        alone = generator.synthesis(ws[i : i + 1], {k: v[i : i + 1] for k, v in residuals.items()})
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_gradients_without_residuals_also_with_constant_noise() -> None:
    """float64 finite differences through the whole network, twice: what path length regularisation needs."""
    generator = make(resolution=8, channel_base=16, channel_max=2, w_dim=3).double()
    ws = torch.randn(2, generator.num_ws, 3, dtype=torch.float64, requires_grad=True)
    names = ["synthesis.b8.conv0.bias", "synthesis.b8.conv1.noise_strength", "synthesis.b8.conv0.weight"]
    chosen = [generator.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def run(ws: Tensor, *values: Tensor) -> Tensor:
        parameters = {name.removeprefix("synthesis."): v for name, v in zip(names, values, strict=True)}
        return torch.func.functional_call(generator.synthesis, parameters, (ws,))

    assert torch.autograd.gradcheck(run, (ws, *chosen), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (ws, *chosen), fast_mode=True)


def test_noise_modes() -> None:
    generator = make()
    ws = torch.randn(2, generator.num_ws, 12)
    const = [generator.synthesis(ws) for _ in range(2)]
    random = [generator.synthesis(ws, noise_mode="random") for _ in range(2)]
    none = generator.synthesis(ws, noise_mode="none")
    assert torch.equal(*const) and not torch.equal(*random)
    assert not torch.allclose(const[0], none) and not torch.allclose(random[0], none)
    same_w = generator.synthesis(ws[:1].repeat(2, 1, 1), noise_mode="random")
    assert not torch.allclose(same_w[0], same_w[1])  # each image has its own noise
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.zero_()
    torch.testing.assert_close(generator.synthesis(ws, noise_mode="random"), none, rtol=1e-4, atol=1e-5)


def test_truncation_and_running_mean() -> None:
    generator = make()
    z = torch.randn(64, 8)
    before = generator.mapping.w_avg.clone()
    ws = generator.mapping(z)
    assert torch.equal(generator.mapping.w_avg, before)
    generator.mapping(z, update_w_avg=True)
    torch.testing.assert_close(generator.mapping.w_avg, 0.005 * ws[:, 0].mean(dim=0))
    average = generator.mapping.w_avg
    torch.testing.assert_close(generator.mapping(z, 0.0), average.expand_as(ws))
    torch.testing.assert_close(generator.mapping(z, 0.5), (average + ws) / 2)
    cut = generator.mapping(z, 0.5, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], (average + ws[:, :2]) / 2)
    assert torch.equal(cut[:, 2:], ws[:, 2:])


def test_autocast_stays_close_and_trains() -> None:
    generator = make()
    ws = torch.randn(2, generator.num_ws, 12)
    residuals = random_residuals(generator, 2)
    exact = generator.synthesis(ws, residuals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = generator.synthesis(ws, residuals)
    assert image.dtype == torch.float32
    assert ((image - exact).norm() / exact.norm()).item() < 0.05
    image.square().mean().backward()
    assert all(r.grad is not None and r.grad.isfinite().all() for r in residuals.values())


def test_refuses_what_does_not_fit() -> None:
    generator = make()
    ws = torch.randn(2, generator.num_ws, 12)
    for resolution in (4, 24, 0):
        with pytest.raises(ValueError, match=f"power of two of at least 8 pixels, got {resolution}"):
            Generator(resolution=resolution)
    with pytest.raises(ValueError, match="channel_base must be at least the resolution 64, got 32"):
        Generator(resolution=64, channel_base=32)
    with pytest.raises(ValueError, match="unknown architecture 'progressive', expected one of orig, skip, resnet"):
        make(architecture="progressive")
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        make(activation="gelu")
    with pytest.raises(ValueError, match=r"without mapping layers .* w_dim must be 8, got 12"):
        make(mapping_layers=0)
    with pytest.raises(ValueError, match=r"expected z \[N, 8\], got \(2, 9\)"):
        generator(torch.randn(2, 9))
    with pytest.raises(ValueError, match=r"expected ws \[N, 6, 12\], got \(2, 12\)"):
        generator.synthesis(ws[:, 0])
    with pytest.raises(ValueError, match="unknown noise_mode 'constant'"):
        generator.synthesis(ws, noise_mode="constant")
    with pytest.raises(ValueError, match=r"'b32\.conv0\.weight' is no parameter of this 16 px generator"):
        generator.synthesis(ws, {"b32.conv0.weight": torch.zeros(2, 8, 8, 3, 3)})
    with pytest.raises(ValueError, match=r"'b8\.conv1\.weight' must be \(2, 8, 8, 3, 3\).*got \(2, 8, 8, 1, 1\)"):
        generator.synthesis(ws, {"b8.conv1.weight": torch.zeros(2, 8, 8, 1, 1)})


def test_a_gain_multiplies_the_limit_of_a_convolution_too():
    torch.manual_seed(0)
    layer, x = Conv2d(4, 4, 3, "lrelu", clamp=0.3), torch.randn(2, 4, 8, 8)
    whole = layer(x).detach()
    assert float(whole.abs().max()) == pytest.approx(0.3)
    torch.testing.assert_close(layer(x, gain=0.5).detach(), 0.5 * whole)
    config = GeneratorConfig(w_dim=5, conv_clamp=0.3)  # in the architecture "resnet", whose branches are scaled
    layer, w = SynthesisLayer(4, 4, resolution=8, up=1, config=config), torch.randn(2, 5)
    whole = layer(x, w, {}, "none").detach()
    assert float(whole.abs().max()) == pytest.approx(0.3)
    torch.testing.assert_close(layer(x, w, {}, "none", gain=0.5).detach(), 0.5 * whole)
