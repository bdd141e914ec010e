"""Bounds: codes are optimised image by image, stay where an encoder could put them, and the model stays as it is."""

import pytest
import torch

from hyperinverter.inverters import load
from hyperinverter.losses import build_losses
from hyperinverter.metrics import Reduction
from hyperinverter.metrics.pixel import L2, Psnr
from hyperinverter.reports.reproduce.bounds import measure_bounds, optimise


@pytest.fixture
def inverter(tiny_model):
    return load(tiny_model, "hyperinverter", "cpu")


def test_an_image_that_the_tokens_can_draw_is_found(inverter):
    images = torch.rand([2, 3, 16, 16], generator=torch.Generator().manual_seed(0)) * 2 - 1
    predicted = inverter.network.invert(images)
    wanted = {name: token + 0.2 for name, token in predicted.tokens.items()}
    target = inverter.network.render(predicted.ws, wanted)
    found = {name: token.clone() for name, token in predicted.tokens.items()}
    loss = lambda: (inverter.network.render(predicted.ws, found) - target).square().mean(dim=(1, 2, 3)).sum()  # noqa: E731
    optimise(list(found.values()), loss, 100, 0.05, lowest=0.0)
    start = (inverter.network.render(predicted.ws, predicted.tokens) - target).square().mean()
    end = (inverter.network.render(predicted.ws, found) - target).square().mean()
    assert end < 0.05 * start and not any(token.requires_grad for token in found.values())


def test_tokens_stay_where_a_relu_could_put_them(inverter):
    images = torch.rand([2, 3, 16, 16], generator=torch.Generator().manual_seed(0)) * 2 - 1
    predicted = inverter.network.invert(images)
    beyond = {name: token - token.max() - 1 for name, token in predicted.tokens.items()}
    target = inverter.network.render(predicted.ws, beyond)
    for lowest, reached in ((0.0, True), (None, False)):
        found = {name: token.clone() for name, token in predicted.tokens.items()}
        loss = lambda: (inverter.network.render(predicted.ws, found) - target).square().mean()  # noqa: B023, E731
        optimise(list(found.values()), loss, 30, 0.1, lowest=lowest)
        assert (min(float(token.min()) for token in found.values()) >= 0) == reached


def test_an_image_fares_the_same_in_any_batch_and_the_model_stays_as_it_was(inverter):
    images = torch.rand([3, 3, 16, 16], generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = {name: value.clone() for name, value in inverter.network.state_dict().items()}
    losses, metrics = build_losses({"l2": 1.0}, loss_resolution=16), [L2(Reduction(16)), Psnr()]
    one = measure_bounds(inverter, [images], 8, losses, metrics)
    several = measure_bounds(inverter, list(images.split(1)), 8, losses, metrics)
    assert one["images"] == several["images"] == 3
    assert set(one["metrics"]) == {"l2", "psnr"}
    for name, found in one["metrics"].items():
        for what, value in found.items():
            assert several["metrics"][name][what]["mean"] == pytest.approx(value["mean"], rel=1e-3)
            assert value["interval_95"][0] <= value["mean"] <= value["interval_95"][1]
    assert all(torch.equal(before[name], value) for name, value in inverter.network.state_dict().items())


def test_only_tokens_of_a_relu_are_kept_from_falling_below_0(inverter, monkeypatch):
    images = torch.rand([1, 3, 16, 16], generator=torch.Generator().manual_seed(1)) * 2 - 1
    losses, metrics = build_losses({"l2": 1.0}, loss_resolution=16), [L2(Reduction(16))]
    assert inverter.network.hypernetwork.lowest_token == 0.0
    released = measure_bounds(inverter, [images], 8, losses, metrics)
    monkeypatch.setattr(inverter.network.hypernetwork, "lowest_token", None)
    signed = measure_bounds(inverter, [images], 8, losses, metrics)
    assert "kept at 0 or above" in released["optimiser"] and "kept" not in signed["optimiser"]
    what = "w predicted, tokens optimised"
    assert signed["metrics"]["l2"][what]["mean"] != released["metrics"]["l2"][what]["mean"]
