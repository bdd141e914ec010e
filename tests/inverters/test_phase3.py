"""Phase III as a method: what its Inversions hold, that edits carry the residual along, and which files are refused."""

import shutil
from dataclasses import replace

import pytest
import torch

import hyperinverter
from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.load import load_domain
from hyperinverter.inverters import Inversion, load
from hyperinverter.models.build import build_feature_residual, build_hypernetwork, build_layerwise_encoder
from hyperinverter.models.build import build_generator as build
from hyperinverter.models.residuals import FeatureCode, FeatureResidual
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import shapes_only

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(scope="module")
def method(tiny_model):
    return load(tiny_model, "phase3")


@pytest.fixture(scope="module")
def inversion(method) -> Inversion:
    return method.invert(IMAGES)


def drawn(method, inversion, numbers, ws=None) -> torch.Tensor:
    """The images of tokens and a residual [N, c, p, p] by the generator itself."""
    network, residual = method.network, method.phase3.feature_residual
    values = residual.expand(numbers) * residual.size[:, None, None]
    weights = network.hypernetwork.decode(inversion.tokens)
    return network.generator.synthesis(
        inversion.ws if ws is None else ws, {**weights, residual.layer: FeatureResidual(values)}
    )


@torch.no_grad()
def test_the_residual_is_added_to_phase_twos_image_and_follows_an_edit(method, inversion, tiny_model):
    (layer, code), *_ = inversion.features.items()
    assert layer == "b8.conv1" and code.numbers.shape == (3, 2, 8, 8) and "128 numbers at b8.conv1" in repr(inversion)
    torch.testing.assert_close(method.render(inversion), drawn(method, inversion, code.numbers))
    phase2 = load(tiny_model).invert(IMAGES)
    torch.testing.assert_close(phase2.ws, inversion.ws)
    assert (method.render(inversion) - load(tiny_model).render(phase2)).abs().mean() > 0.01

    ws = inversion.ws + 0.5 * torch.randn(inversion.ws.shape, generator=torch.Generator().manual_seed(0))
    residual, weights = method.phase3.feature_residual, method.network.hypernetwork.decode(inversion.tokens)
    before, after = (method.generator.synthesis.features(at, layer, weights) for at in (inversion.ws, ws))
    carried = residual.carry(code.numbers, before, after)
    assert (carried - code.numbers).abs().mean() > 1e-4
    moved = inversion.with_ws(ws)
    torch.testing.assert_close(method.render(moved), drawn(method, inversion, carried, ws), atol=1e-5, rtol=0)
    torch.testing.assert_close(method.render(moved.with_ws(inversion.ws)), method.render(inversion))  # edited back
    bias = {"b4.conv1.affine.bias": torch.full((3, 16), 0.5)}
    styled = replace(inversion, offsets=bias)  # a channel of a style moves the features too
    after = method.generator.synthesis.features(inversion.ws, layer, {**weights, **bias})
    carried = residual.carry(code.numbers, before, after)
    values = residual.expanded(carried)
    expected = method.generator.synthesis(inversion.ws, {**weights, **bias, layer: values})
    torch.testing.assert_close(method.render(styled), expected, atol=1e-5, rtol=0)


def test_blends_files_and_parts_keep_the_residual(method, inversion, tmp_path):
    code = inversion.features["b8.conv1"]
    half = inversion[:2].interpolate(inversion[1:], 0.5).features["b8.conv1"]
    torch.testing.assert_close(half.numbers, (code.numbers[:2] + code.numbers[1:]) / 2)
    torch.testing.assert_close(half.ws, (code.ws[:2] + code.ws[1:]) / 2)
    joined = Inversion.cat([inversion[2], inversion[0]]).features["b8.conv1"]
    assert torch.equal(joined.numbers, code.numbers[[2, 0]]) and torch.equal(joined.ws, code.ws[[2, 0]])
    assert inversion.without_weights().features is None
    moved = inversion.with_ws(inversion.ws + torch.randn_like(inversion.ws))  # different styles, as of a part edit
    for one in (inversion, moved):
        one.save(tmp_path / "x.safetensors")
        again = Inversion.load(tmp_path / "x.safetensors")
        assert torch.equal(again.features["b8.conv1"].numbers, code.numbers)
        assert torch.equal(again.features["b8.conv1"].ws, code.ws) and torch.equal(again.ws, one.ws)
        torch.testing.assert_close(method.render(again), method.render(one))


def test_other_methods_say_that_they_cannot_draw_it(inversion, tiny_model):
    with pytest.raises(UserError, match="has a residual of features; load the model with method='phase3'"):
        load(tiny_model).render(inversion, allow_other_model=True)


def test_a_residual_of_another_layer_or_size_is_told(method, inversion):
    """As a changed file may hold it, whose hash is the model's."""
    code = inversion.features["b8.conv1"]
    wide = FeatureCode(torch.zeros(3, 5, 8, 8), code.ws)
    for features, got in (
        ({"b4.conv1": code}, r"\[2, 8, 8\] at b4.conv1"),
        ({"b8.conv1": wide}, r"\[5, 8, 8\] at b8.conv1"),
        ({"b8.conv1": code, "b4.conv1": code}, r"\[2, 8, 8\] at b4.conv1"),
    ):
        with pytest.raises(
            UserError, match=rf"residual of features .*{got}; model micro takes \[2, 8, 8\] at b8.conv1"
        ):
            method.render(replace(inversion, features=features))


def test_it_may_not_be_refined_and_says_its_capacity(method, tiny_model):
    assert method.settings() == {"feature_layer": "b8.conv1", "feature_numbers_per_image_number": 0.1667}
    with pytest.raises(ValueError, match="refine is for methods"):
        load(tiny_model, "phase3", refine=2)


@pytest.mark.parametrize(("name", "changes", "most"), [
    ("faces64", {}, 64 * 1024),
    ("ffhq", {"layer": "b64.conv1", "channels": 130}, 2_000_000),
])  # fmt: skip
def test_an_inversion_of_one_photo_stays_small(name, changes, most, tmp_path):
    """Also at the largest capacity there may be, and edited by styles, so that both codes are stored whole."""
    domain = load_domain(name)
    domain.feature_residual = replace(domain.feature_residual, **changes)
    with shapes_only():
        generator = build(domain)
        hypernetwork = build_hypernetwork(domain, generator)
        residual = build_feature_residual(domain, generator, build_layerwise_encoder(domain, hypernetwork))
    assert 0.15 < residual.capacity <= 0.17
    ws = torch.randn(1, generator.num_ws, generator.w_dim)
    tokens = {layer: torch.randn(1, size) for layer, size in hypernetwork.token_sizes.items()}
    code = FeatureCode(torch.randn(1, *residual.shape), ws)
    path = tmp_path / "x.safetensors"
    Inversion(ws + 1, tokens, features={residual.layer: code}).save(path)
    assert path.stat().st_size < most


# ------------------------------------------------------------------------------------------------- files


def test_a_model_without_it_names_the_trainer(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "micro")
    (folder / "feature_residual.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no feature_residual.safetensors; make it with: .*train_phase3"):
        hyperinverter.load(folder, "phase3")


def test_one_of_another_phase_two_or_another_size_is_refused(tiny_model, other_tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "micro")
    path = folder / "feature_residual.safetensors"
    shutil.copy(other_tiny_model / path.name, path)
    with pytest.raises(UserError, match="this feature_residual was trained for generator"):
        load(folder, "phase3")
    file = read_model(tiny_model / path.name, "feature_residual")
    for section, message in (
        ({"layer": "b16.conv1", "channels": 2, "width": 8}, "config describes no network .*above 0.17"),
        ({"layer": "b9.conv1", "channels": 2, "width": 8}, "config describes no network .*no layer 'b9.conv1'"),
        ({"layer": "b8.conv1", "channels": 1, "width": 8}, "weights do not fit"),
        ({"layer": "b8.conv1", "channels": 2, "depth": 8}, "another version"),
    ):
        config = {**file.config, "feature_residual": section}
        save_model(path, file.state, kind=file.kind, config=config, requires=file.requires)
        with pytest.raises(UserError, match=message):
            load(folder, "phase3")


def test_files_of_inversions_that_are_not_whole_are_refused(inversion, tmp_path):
    path = tmp_path / "x.safetensors"
    code = inversion.features["b8.conv1"]
    with pytest.raises(ValueError, match=r"features\['b8.conv1'\] has shape .*expected \[3, c, p, p\] and ws's"):
        replace(inversion, features={"b8.conv1": FeatureCode(code.numbers[:2], code.ws)})
    from hyperinverter.utils.safetensors_io import read_tensors, write_tensors

    inversion.save(path)
    metadata, tensors = read_tensors(path)
    without = {name: value for name, value in tensors.items() if not name.startswith("features_at.")}
    narrow = {**tensors, "features_at.b8.conv1": tensors["features_at.b8.conv1"][:, :3]}
    for changed, message in ((without, "needs the codes that it was predicted at"), (narrow, "expected .* and ws's")):
        write_tensors(path, changed, metadata)
        with pytest.raises(UserError, match=f"no whole Inversion .*{message}"):
            Inversion.load(path)
