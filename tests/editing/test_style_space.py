"""Single channels of StyleSpace: what is added to a style, with a photo's own weights, in files, films and blends."""

import pytest
import torch

from hyperinverter.directions import edit, save_direction
from hyperinverter.directions.style_space import layers_of, style_direction
from hyperinverter.inverters import Inversion, load
from hyperinverter.models.mobile_stylegan import MobileGenerator
from hyperinverter.utils.errors import UserError


@pytest.fixture(scope="module")
def model(tiny_model):
    return load(tiny_model)


@pytest.fixture(scope="module")
def inversion(model):
    return model.invert(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def test_a_channel_of_a_style_gets_what_is_asked_for_and_nothing_else_moves(model, inversion):
    seen = {}
    layer = model.generator.synthesis.b8.conv1.affine
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.update(style=output))
    plain = model.render(inversion)
    before = seen["style"]
    edited = model.edit(inversion, {"style:b8.conv1:3": 1.5}, unit="w")
    after = model.render(edited)
    handle.remove()
    expected = torch.zeros_like(before)
    expected[:, 3] = 1.5
    torch.testing.assert_close(seen["style"] - before, expected, atol=1e-5, rtol=0)
    assert torch.equal(edited.ws, inversion.ws) and (after - plain).abs().max() > 1e-3
    prepared = model.edit(model.prepare(inversion), {"style:b8.conv1:3": 1.5}, unit="w")
    torch.testing.assert_close(model.render(prepared), after, atol=1e-4, rtol=0)
    back = model.edit(edited, {"style:b8.conv1:3": -1.5}, unit="w")
    torch.testing.assert_close(model.render(back), plain, atol=1e-4, rtol=0)


def test_a_standard_deviation_is_that_of_the_channel(model):
    direction = model.direction("style:b8.conv1:3")
    w = model.generator.mapping(torch.randn(20_000, 16))[:, 0]
    spread = model.generator.synthesis.b8.conv1.affine(w)[:, 3].std()
    assert direction.info["projection_std"] == pytest.approx(float(spread), rel=0.05)


def test_it_is_kept_in_files_batches_and_blends(model, inversion, tmp_path):
    direction = model.direction("style:b4.conv1:0")
    save_direction(direction, tmp_path / "d.safetensors", domain="micro")
    again = model.direction(tmp_path / "d.safetensors")
    edited = edit(inversion, again, torch.tensor([2.0, -1.0]))
    edited.save(tmp_path / "e.safetensors")
    loaded = Inversion.load(tmp_path / "e.safetensors")
    torch.testing.assert_close(model.render(loaded), model.render(edited), atol=1e-4, rtol=0)
    joined = Inversion.cat([edited[0], inversion[1]])
    torch.testing.assert_close(model.render(joined)[:1], model.render(edited)[:1], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.render(joined)[1:], model.render(inversion)[1:], atol=1e-4, rtol=0)
    (name,) = edited.offsets
    half = inversion[0].interpolate(edited[0], 0.5)
    assert half.offsets[name][0, 0] == 1.0 and edited.mixed(torch.tensor([[0.5, 0.5]])).offsets[name][0, 0] == 0.5
    assert inversion[0].interpolate(inversion[1], 0.5).offsets is None


def test_every_layer_of_every_architecture_has_channels_and_a_wrong_one_is_told(model, inversion):
    mobile = MobileGenerator(resolution=32, z_dim=12, w_dim=12, channel_base=256, channel_max=16, mapping_layers=1)
    assert {"conv1", "layers.0.up", "layers.0.conv1", "layers.0.conv2", "to_img"} <= set(layers_of(mobile))
    moved = style_direction("style:layers.0.conv1:2", mobile)
    ws = mobile.mapping(torch.randn(1, 12))
    plain = mobile.synthesis(ws)
    shown = mobile.synthesis(ws, {moved.layer: torch.eye(moved.channels)[2:3]})
    assert (shown - plain).abs().max() > 1e-4
    for text, told in (("style:b9.conv1:0", "layers: b4.conv1"), ("style:b8.conv1:999", "has 16 channels"),
                       ("style:b8.conv1:x", "has 16 channels"), ("style:3", "write style:LAYER:CHANNEL")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            model.direction(text)
    with pytest.raises(ValueError, match="moves one channel, not styles of W"):
        model.edit(inversion, {"style:b8.conv1:3": 1.0}, styles=(0, 2))
