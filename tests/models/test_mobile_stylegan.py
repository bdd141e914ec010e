"""MobileStyleGAN's generator against its formulas, written here once more with loops, and against OpenVINO's record."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperinverter.config.schema import MOBILE, DomainConfig, GeneratorConfig
from hyperinverter.models.build import build_generator
from hyperinverter.models.mobile_stylegan import MobileGenerator, layers, synthesis
from hyperinverter.models.residuals import ChannelScales, FeatureResidual, dense
from hyperinverter.models.target_layers import target_layers
from hyperinverter.pretrained.files import find_network_file

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = SHARED / "golden" / "mobile_generator.npz"
WEIGHTS = find_network_file("ffhq_mobile/generator.safetensors")


def make(seed: int = 0, early_heads: dict[int, int] | None = None, **sizes: int) -> MobileGenerator:
    """A small generator with random weights and noise."""
    torch.manual_seed(seed)
    sizes = {"resolution": 32, "z_dim": 8, "w_dim": 8, "channel_base": 128, "channel_max": 16, **sizes}
    generator = MobileGenerator(mapping_layers=2, early_heads=early_heads, **sizes).eval()
    for name, buffer in generator.synthesis.named_buffers():
        if name.endswith("noise_const"):
            buffer.normal_(std=0.3)
    for parameter in generator.synthesis.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return generator


def styles(generator: MobileGenerator, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(seed))


def by_formulas(generator: MobileGenerator, ws: torch.Tensor) -> torch.Tensor:
    """One image, ws [L, w_dim], straight from the description; no line shared with the module."""
    p = dict(generator.synthesis.named_parameters()) | dict(generator.synthesis.named_buffers())

    def style(name: str, w: torch.Tensor) -> torch.Tensor:
        return (p[f"{name}.modulation.weight"] @ w + p[f"{name}.modulation.bias"])[None, :, None, None]

    def finish(name: str, y: torch.Tensor) -> torch.Tensor:
        y = y + p[f"{name}.noise_const"] + p[f"{name}.bias"][None, :, None, None]
        return torch.where(y > 0, y, 0.2 * y)

    def haar(x: torch.Tensor) -> torch.Tensor:
        low, lh, hl, hh = x[0].chunk(4)
        _, height, width = low.shape
        out = torch.empty(len(low), 2 * height, 2 * width)
        root = math.sqrt(2)
        for i in range(height):
            for j in range(width):
                top, bottom = (low + lh)[:, i, j] / root, (low - lh)[:, i, j] / root
                top_high, bottom_high = (hl + hh)[:, i, j] / root, (hl - hh)[:, i, j] / root
                out[:, 2 * i, 2 * j], out[:, 2 * i, 2 * j + 1] = (top + top_high) / root, (top - top_high) / root
                out[:, 2 * i + 1, 2 * j] = (bottom + bottom_high) / root
                out[:, 2 * i + 1, 2 * j + 1] = (bottom - bottom_high) / root
        return out[None]

    def separable(name: str, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x = x * style(name, w) / math.sqrt(9 * x.shape[1])
        each = [F.conv2d(x[:, c : c + 1], p[f"{name}.depthwise"][c : c + 1], padding=1) for c in range(x.shape[1])]
        return finish(name, torch.einsum("oc,nchw->nohw", p[f"{name}.pointwise"][:, :, 0, 0], torch.cat(each, dim=1)))

    x = p["input"] * style("conv1", ws[0]) / math.sqrt(9 * p["input"].shape[1])
    x = finish("conv1", F.conv2d(x, p["conv1.weight"], padding=1))
    count = len(generator.synthesis.layers)
    for i in range(count):
        x = haar(x * style(f"layers.{i}.up", ws[1 + 3 * i]))
        x = separable(f"layers.{i}.conv1", x, ws[1 + 3 * i])
        x = separable(f"layers.{i}.conv2", x, ws[2 + 3 * i])
    x = x * style("to_img", ws[3 * count]) / math.sqrt(x.shape[1])
    return haar(F.conv2d(x, p["to_img.weight"], p["to_img.bias"]))


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_it_draws_what_the_formulas_say(seed):
    generator = make(seed)
    ws = styles(generator, 2, seed)
    expected = torch.cat([by_formulas(generator, one) for one in ws])
    images = generator.synthesis(ws)
    assert images.shape == (2, 3, 32, 32)
    assert (images - expected).abs().max() < 1e-5 * expected.abs().max()


def residuals_of(generator: MobileGenerator, n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {name: 0.2 * torch.randn(n, *p.shape) for name, p in generator.synthesis.named_parameters()}


def test_a_residual_is_the_same_change_made_in_place_values_and_gradients():
    """Of every parameter, for every image of a batch; also in the batched way that a GPU takes."""
    generator = make(early_heads={8: 8})
    n = 3
    ws, residuals = styles(generator, n), residuals_of(generator, n)
    for resolution in (32, 8):
        given = {name: value.clone().requires_grad_() for name, value in residuals.items()}
        images = generator.synthesis(ws, given, resolution=resolution)
        batched = generator.synthesis._draw(ws, given, "const", resolution)
        assert (images - batched).abs().max() < 1e-4 * images.abs().max()
        weights = torch.randn(images.shape)
        (images * weights).sum().backward()
        for i in range(n):
            changed = make(early_heads={8: 8})
            for name, parameter in changed.synthesis.named_parameters():
                parameter.data += residuals[name][i]
            image = changed.synthesis(ws[i : i + 1], resolution=resolution)
            assert (image - images[i]).abs().max() < 1e-5 * image.abs().max()
            (image * weights[i : i + 1]).sum().backward()
            for name, parameter in changed.synthesis.named_parameters():
                if parameter.grad is not None:
                    error = (given[name].grad[i] - parameter.grad).abs().max()
                    assert error <= 1e-4 * parameter.grad.abs().max() + 1e-6, name


@pytest.mark.parametrize("needs_gradients", [False, True])
def test_channel_scales_are_their_dense_residuals_values_and_gradients(needs_gradients):
    """One image at a time and batched; with gradients the kernels' own, which nobody asks for, are left out."""
    generator = make(early_heads={8: 8}).requires_grad_(False)
    names = [target.name for target in generator.synthesis.target_layers("conv_without_bias")]
    ws, own = styles(generator, 3), dict(generator.synthesis.named_parameters())
    torch.manual_seed(5)
    scales = {name: (0.3 * torch.randn(3, len(own[name]))).requires_grad_(needs_gradients) for name in names}
    given = {name: ChannelScales.of(value, dim=0) for name, value in scales.items()}

    def as_dense() -> dict[str, torch.Tensor]:
        return {name: dense(own[name], value) for name, value in given.items()}

    for draw in (generator.synthesis, lambda ws, residuals: generator.synthesis._draw(ws, residuals, "const", 32)):
        images, expected = draw(ws, given), draw(ws, as_dense())
        assert (images - expected).abs().max() < 1e-5 * expected.abs().max()
        assert (expected - draw(ws, {})).abs().max() > 1e-2
        if needs_gradients:
            weights, values = torch.randn(images.shape), list(scales.values())
            ours, theirs = (
                torch.autograd.grad((x * weights).sum(), values, retain_graph=True) for x in (images, expected)
            )
            pairs = zip(ours, theirs, strict=True)
            assert all((a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6 for a, b in pairs)


@torch.no_grad()
def test_a_batch_of_four_is_four_singles_and_a_shared_residual_one_of_each():
    generator = make()
    ws = styles(generator, 4)
    shared = {name: value[:1] for name, value in residuals_of(generator, 1).items()}
    for given in (None, shared, residuals_of(generator, 4)):
        batch = generator.synthesis(ws, given)
        for i in range(4):
            own = given and {name: value[i : i + 1] if len(value) > 1 else value for name, value in given.items()}
            assert (generator.synthesis(ws[i : i + 1], own) - batch[i]).abs().max() < 1e-4
        assert (generator.synthesis._draw(ws, given or {}, "const", 32) - batch).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("numbers", [1, 600, 10**9])
def test_strips_draw_the_whole_image(monkeypatch, numbers):
    """Of any height, also where one strip's neighbours lie beyond the border; so does an early head behind a layer."""
    generator = make(resolution=64, early_heads={16: 8})
    ws, residuals = styles(generator, 2), residuals_of(generator, 2)
    residuals["layers.1"] = FeatureResidual(torch.randn(2, 8, 16, 16))
    with torch.enable_grad():  # computes whole maps
        expected = {px: generator.synthesis(ws, residuals, resolution=px) for px in (64, 16)}
        less = generator.synthesis(ws, residuals_of(generator, 2), resolution=16)
    assert (less - expected[16]).abs().max() > 0.1
    monkeypatch.setattr(synthesis, "STRIPS_FROM_PX", 8)
    monkeypatch.setattr(layers, "STRIP_NUMBERS", numbers)
    for px, image in expected.items():
        assert (generator.synthesis(ws, residuals, resolution=px) - image).abs().max() < 1e-5 * image.abs().max()
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator.synthesis(ws, residuals, resolution=px)
        assert (rough - image).abs().mean() < 0.02 * image.abs().max()


def test_layers_computed_again_in_the_backward_pass_give_the_same_gradients():
    generator = make()
    found = []
    for recompute_from_px in (None, 8):
        generator.synthesis.recompute_from_px = recompute_from_px
        ws = styles(generator, 2).requires_grad_()
        generator.synthesis(ws).square().sum().backward()
        found.append(ws.grad)
    assert torch.equal(*found)


@torch.no_grad()
def test_a_reduced_image_is_the_early_heads_or_the_box_mean():
    generator = make(early_heads={8: 8})
    ws = styles(generator, 2)
    synthesis = generator.synthesis
    assert synthesis.resolutions == (8, 32)
    drawn = synthesis.early["8"](synthesis.features(ws, "layers.0"), ws[:, 3], {})
    assert (synthesis(ws, resolution=8) - drawn).abs().max() < 1e-5
    assert torch.allclose(synthesis(ws, resolution=4), F.avg_pool2d(synthesis(ws, resolution=8), 2), atol=1e-6)
    assert torch.allclose(synthesis(ws, resolution=16), F.avg_pool2d(synthesis(ws), 2), atol=1e-6)
    for wrong in (64, 0, 12):
        with pytest.raises(ValueError, match="resolution"):
            synthesis(ws, resolution=wrong)
    synthesis.resolutions = (32,)
    assert torch.allclose(synthesis(ws, resolution=8), F.avg_pool2d(synthesis(ws), 4), atol=1e-5)


@torch.no_grad()
def test_an_early_head_leaves_no_layer_out_that_has_a_residual():
    generator = make(resolution=64, early_heads={8: 8})
    ws = styles(generator, 2)
    given = {"layers.1": FeatureResidual(torch.randn(1, 8, 16, 16))}
    small, whole = generator.synthesis(ws, given, resolution=8), generator.synthesis(ws, given)
    assert torch.allclose(small, F.avg_pool2d(whole, 8), atol=1e-5)
    below = {"layers.0": FeatureResidual(torch.zeros(1, 16, 8, 8))}
    assert torch.equal(generator.synthesis(ws, below, resolution=8), generator.synthesis(ws, resolution=8))


@torch.no_grad()
def test_noise_is_stored_drawn_or_left_out():
    generator = make()
    ws = styles(generator, 1)
    const, none = generator.synthesis(ws), generator.synthesis(ws, noise_mode="none")
    random = [generator.synthesis(ws, noise_mode="random") for _ in range(2)]
    assert not torch.allclose(const, none) and not torch.allclose(*random)
    for name, buffer in generator.synthesis.named_buffers():
        if name.endswith("noise_const"):
            buffer.zero_()
    assert torch.allclose(generator.synthesis(ws), none)
    assert torch.allclose(generator.synthesis(ws, noise_mode="random"), none), "drawn noise is as strong as the stored"
    with pytest.raises(ValueError, match="noise_mode"):
        generator.synthesis(ws, noise_mode="some")


def test_a_layers_style_is_the_one_that_moves_it():
    """Every target layer's style index, by gradients: the layer reads that style and no other."""
    generator = make(resolution=64)
    ws = styles(generator, 1)
    targets = target_layers(generator, "all_without_bias")
    seen = {}
    for name, module in generator.synthesis.named_modules():
        if name.endswith("modulation"):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].clone()))
    generator.synthesis(ws)
    for target in targets:
        layer = target.name.removesuffix(".modulation.weight").rpartition(".")[0] or target.name
        layer = target.name.removesuffix(".modulation.weight") if "modulation" in target.name else layer
        assert torch.equal(seen[f"{layer}.modulation"], ws[:, target.style_index_true]), target.name
        assert target.shape == tuple(generator.synthesis.get_parameter(target.name).shape)
    convs = target_layers(generator, "conv_without_bias")
    assert len(convs) == 1 + 4 * len(generator.synthesis.layers) + 1
    assert [t.name for t in convs[:3]] == ["conv1.weight", "layers.0.conv1.depthwise", "layers.0.conv1.pointwise"]
    assert "to_img.weight" not in {t.name for t in target_layers(generator, "conv_without_bias_without_torgb")}
    assert [(t.kind, t.px) for t in convs[:3]] == [("conv", 4), ("depthwise", 8), ("pointwise", 8)]
    assert [(t.kind, t.px) for t in convs[-2:]] == [("pointwise", 32), ("torgb", 64)]
    assert {t.kind for t in targets if "modulation" in t.name} == {"affine"}


def test_wrong_residuals_and_sizes_are_named():
    generator = make()
    ws = styles(generator, 2)
    with pytest.raises(ValueError, match="is no parameter of this 32 px generator"):
        generator.synthesis(ws, {"b8.conv0.weight": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match=r"weight residual 'conv1.weight' must be \(2, 16, 16, 3, 3\)"):
        generator.synthesis(ws, {"conv1.weight": torch.zeros(3, 16, 16, 3, 3)})
    with pytest.raises(ValueError, match=r"expected ws \[N, 8, 8\]"):
        generator.synthesis(ws[:, 0])
    with pytest.raises(ValueError, match="power of two of at least 32"):
        make(resolution=16)
    with pytest.raises(ValueError, match="multiple of 4"):
        make(channel_max=6)


def test_the_domain_builds_it():
    domain = DomainConfig(resolution=32, generator=GeneratorConfig(z_dim=8, w_dim=8, channel_base=128, channel_max=16))
    domain.generator = replace(domain.generator, architecture=MOBILE)
    generator = build_generator(domain)
    assert isinstance(generator, MobileGenerator) and generator.num_ws == 8
    domain.generator.architecture = "stylegan2"
    assert build_generator(domain).config["architecture"] == "skip"


@pytest.mark.skipif(not GOLDEN.is_file(), reason="../shared is not there")
@pytest.mark.skipif(WEIGHTS is None, reason="python scripts/download.py ffhq_mobile was not run")
@torch.no_grad()
def test_the_published_weights_draw_what_openvino_recorded():
    from hyperinverter.pretrained.load import load_generator

    generator, golden = load_generator(WEIGHTS), np.load(GOLDEN)
    for seed in (11, 12):
        z, w, mean8, crop, border = (
            torch.from_numpy(golden[f"{name}_{seed}"]).float()
            for name in ("z", "w", "image_mean8", "image_crop", "image_border")
        )
        ws = generator.mapping(z.reshape(1, -1))
        assert (ws[:, 0] - w.reshape(1, -1)).abs().max() < 1e-4
        image = generator.synthesis(ws)
        assert (F.avg_pool2d(image, 8) - mean8).abs().max() < 2e-4
        assert (image[:, :, 480:544, 480:544] - crop).abs().max() < 2e-4
        assert (image[:, :, :32, :32] - border).abs().max() < 2e-4
