"""The feature residual: the generators' hook for it, what it may hold, and that it begins at Phase II and stays put."""

from dataclasses import replace

import pytest
import torch

from hyperinverter.models.build import build_feature_residual, build_hyperinverter
from hyperinverter.models.feature_residual import Phase3Network
from hyperinverter.models.mobile_stylegan import MobileGenerator
from hyperinverter.models.residuals import FeatureResidual
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.stylegan2 import synthesis as stylegan2_synthesis

SIZES = {"resolution": 32, "z_dim": 8, "w_dim": 8, "channel_base": 256, "channel_max": 16, "mapping_layers": 2}


def generators() -> dict:
    """Name -> generator, a layer of it, and the module whose output the layer's features are."""
    torch.manual_seed(0)
    skip, resnet, mobile = Generator(**SIZES), Generator(**SIZES, architecture="resnet"), MobileGenerator(**SIZES)
    return {
        "skip": (skip, "b8.conv1", skip.synthesis.b8.conv1),
        "resnet": (resnet, "b8.conv1", resnet.synthesis.b8),
        "mobile": (mobile, "layers.0", mobile.synthesis.layers[0]),
    }


@pytest.mark.parametrize("kind", ["skip", "resnet", "mobile"])
@torch.no_grad()
def test_a_generator_adds_the_residual_to_what_the_layer_puts_out(kind, monkeypatch):
    generator, layer, module = generators()[kind]
    synthesis = generator.eval().synthesis
    channels, px = synthesis.feature_layers[layer]
    ws, values = torch.randn(3, generator.num_ws, 8), torch.randn(3, channels, px, px)
    features = synthesis.features(ws, layer)
    found = []
    hook = module.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
    plain = synthesis(ws)
    hook.remove()
    torch.testing.assert_close(torch.cat(found), features)

    rows = iter(values.split(1) if kind == "mobile" else [values])  # one image at a time there

    def add(_, __, out):
        return (out[0] + next(rows), *out[1:]) if isinstance(out, tuple) else out + next(rows)

    hook = module.register_forward_hook(add)
    expected = synthesis(ws)
    hook.remove()
    assert (expected - plain).abs().mean() > 0.01
    given = {layer: FeatureResidual(values)}
    torch.testing.assert_close(synthesis(ws, given), expected)
    torch.testing.assert_close(synthesis(ws, synthesis.prepare(given)), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(synthesis.features(ws, layer, given), features + values)
    monkeypatch.setattr(stylegan2_synthesis, "SINGLY_FROM_PX", 8)
    torch.testing.assert_close(synthesis(ws, given), expected, atol=2e-5, rtol=1e-5)
    with pytest.raises(
        ValueError, match=rf"{layer}' must be \(3, {channels}, {px}, {px}\) .* got \(3, 1, {px}, {px}\)"
    ):
        synthesis(ws, {layer: FeatureResidual(values[:, :1])})
    for asked in (lambda: synthesis(ws, {"b7": FeatureResidual(values)}), lambda: synthesis.features(ws, "b7")):
        with pytest.raises(ValueError, match=rf"no layer 'b7' .* write one of .*{layer} \({px} px\)"):
            asked()


@pytest.fixture
def model(tiny_domain) -> Phase3Network:
    torch.manual_seed(0)
    network = build_hyperinverter(tiny_domain)
    return Phase3Network(
        network, build_feature_residual(tiny_domain, network.generator, network.layerwise_encoder)
    ).eval()


IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_an_untrained_one_draws_exactly_phase_twos_images_and_edits(model):
    predicted = model.predict(IMAGES)
    ws = predicted.phase2.ws
    draw = model.network.synthesise
    assert predicted.residual.shape == (3, *model.feature_residual.shape) == (3, 2, 8, 8)
    torch.testing.assert_close(
        draw(ws, model.with_residual(predicted.weights, predicted.residual)), model.network(IMAGES).reconstruction
    )
    moved = ws + 0.5 * torch.randn_like(ws)
    torch.testing.assert_close(draw(moved, model.moved(predicted, moved)), draw(moved, predicted.weights))


def test_both_networks_are_reached_by_gradients_and_nothing_else_is(model):
    model.feature_residual.measure(torch.randn(4, 16, 8, 8))
    optimizer = torch.optim.Adam(model.feature_residual.parameters(), lr=1e-2)
    for _ in range(2):  # the last layers begin at zero, what lies before them has gradients from the second step on
        predicted = model.predict(IMAGES)
        torch.manual_seed(2)
        ws = predicted.phase2.ws + 0.5 * torch.randn_like(predicted.phase2.ws)
        optimizer.zero_grad()
        draw = model.network.synthesise
        still, moved = model.with_residual(predicted.weights, predicted.residual), model.moved(predicted, ws)
        sum((draw(*pair) - IMAGES).square().mean() for pair in ((predicted.phase2.ws, still), (ws, moved))).backward()
        optimizer.step()
    for name, parameter in model.feature_residual.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert not model.train().network.training and model.feature_residual.training


def test_no_change_gives_the_residual_back_and_a_change_moves_it(model):
    network = model.feature_residual
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    residual, before = torch.randn(2, 2, 8, 8), torch.randn(2, 16, 8, 8)
    assert torch.equal(network.carry(residual, before, before.clone()), residual)
    assert (network.carry(residual, before, before + torch.randn_like(before)) - residual).abs().mean() > 1e-3
    size = torch.rand(16) + 0.5
    network.measure(torch.randn(5, 16, 8, 8).sign() * size[:, None, None])
    torch.testing.assert_close(network.size, size)
    torch.testing.assert_close(network.expanded(residual).values, network.expand(residual) * size[:, None, None])


def test_its_numbers_are_declared_and_bounded(tiny_domain, model):
    assert model.feature_residual.capacity == pytest.approx(2 * 64 / (3 * 256)) and 2 * 64 / 768 <= 0.17
    generator, e2 = model.network.generator, model.network.layerwise_encoder

    def build(**changes):
        changed = replace(tiny_domain, feature_residual=replace(tiny_domain.feature_residual, **changes))
        return build_feature_residual(changed, generator, e2)

    for changes, message in (
        ({"channels": 3}, r"channels: 3 at 8 px are 0\.250 numbers .* above 0\.17: write at most 2"),
        ({"layer": "b16.conv1", "channels": 1}, r"above 0\.17: choose a layer of fewer px"),
        ({"layer": None}, r"layer: .* no layer None .* write one of b4\.conv1 \(4 px\), b8\.conv1"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**changes)
