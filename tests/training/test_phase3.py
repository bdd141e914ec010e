"""Phase III's training: what it minimises, that it trains its own networks alone, and what it refuses."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import hyperinverter
from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.config.domain_schema import FeatureResidualConfig
from hyperinverter.config.schema import WeightsConfig
from hyperinverter.losses import build_losses
from hyperinverter.training import phase3
from hyperinverter.training.start import start_phase3
from hyperinverter.utils.errors import UserError

from .conftest import stats

FROZEN = ("generator", "discriminator", "w_encoder", "hyperinverter")


def test_it_trains_its_networks_alone_and_writes_a_model_folder(whole_run, tiny_model):
    folder, final = whole_run("phase3")
    hashes = {part: read_model(tiny_model / f"{part}.safetensors").hash for part in FROZEN}
    for model, step in (("model", final["best/step"]), ("model_last", 6)):
        assert {part: read_model(folder / model / f"{part}.safetensors").hash for part in FROZEN} == hashes
        file = read_model(folder / model / "feature_residual.safetensors", "feature_residual")
        assert file.requires == {part: hashes[part] for part in FROZEN if part != "discriminator"}
        assert file.info["step"] == step and file.info["trainer"] == "train_phase3"
        assert file.info["capacity"] == pytest.approx(128 / 768)
        assert 'hyperinverter.load(FOLDER, "phase3")' in (folder / model / "README.md").read_text()
    state = load_training_state(folder / "checkpoints")
    method = hyperinverter.load(folder / "model_last", "phase3")
    for key, value in method.phase3.feature_residual.state_dict().items():
        torch.testing.assert_close(value, state["feature_residual"][key])
    assert "0.167 per number of an image" in (folder / "log.txt").read_text()
    lines = stats(folder)
    assert {"train/l2", "train/pair", "train/cycle"} <= {key for line in lines for key in line}
    assert min(line["validation/loss"] for line in lines if "validation/loss" in line) == final["best/loss"]
    assert list((folder / "samples").glob("input_phases_sample_moved_00000006.png"))


@pytest.fixture
def objective(make_config):
    """Of a model whose residual is not zero, and four images."""
    config = make_config("phase3", pair_weight=0.7, cycle_weight=0.3, cycle_every=2)
    torch.manual_seed(0)
    model, *_ = start_phase3(config.domain)
    for parameter in model.feature_residual.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.train().network.prepare()
    losses = build_losses(config.loss_weights, loss_resolution=16)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return phase3.Objective(model, losses, config, None, autocast), images


def test_the_loss_is_that_of_photos_of_pairs_and_of_the_way_there_and_back(objective):
    objective, images = objective
    model = objective.model
    network, residual, synthesis = model.network, model.feature_residual, model.network.generator.synthesis
    torch.manual_seed(3)
    moves = objective.draw_moves(images, 2)
    assert moves.goes_back and not objective.draw_moves(images, 3).goes_back

    def there(w):
        return w[:, None].expand(-1, network.generator.num_ws, -1)

    def inverted(image):
        w, tokens = network.encode(image), network.invert(image).tokens
        weights = network.hypernetwork.decode(tokens)
        features = synthesis.features(there(w), residual.layer, weights)
        e2, drawn = network.layerwise_encoder, synthesis(there(w), weights)
        return w, weights, features, residual.predict(e2.stages(image), e2.stages(drawn), features)

    def moved(image, d):
        w, weights, features, numbers = inverted(image)
        after = synthesis.features(there(w + d), residual.layer, weights)
        carried = residual.expanded(residual.carry(numbers, features, after))
        return synthesis(there(w + d), {**weights, residual.layer: carried})

    first, second = (synthesis(there(w)) for w in (moves.w, moves.w + moves.d))
    pair = (moved(first, moves.d) - second).square().mean()
    cycle = (moved(moved(images, moves.d).detach(), -moves.d) - images).square().mean()
    photo = (moved(images, torch.zeros_like(moves.d)) - images).square().mean()
    total = photo + 0.7 * pair + 2 * 0.3 * cycle
    values = objective(images, moves)
    for name, expected in {"l2": photo, "pair": pair, "cycle": cycle, "loss": total}.items():
        torch.testing.assert_close(values[name].detach(), expected.detach(), rtol=1e-4, atol=1e-6)
    parameters = list(residual.parameters())
    pairs = [torch.autograd.grad(loss, parameters) for loss in (values["loss"], total)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_validation_moves_the_same_samples_the_same_way_whenever_it_comes(objective):
    objective, images = objective
    first = objective.fixed_moves(images, ["a", "b", "c", "d"])
    torch.rand(5)
    again, other = objective.fixed_moves(images, ["a", "b", "c", "d"]), objective.fixed_moves(images, ["e"])
    assert torch.equal(first.w, again.w) and torch.equal(first.d, again.d) and not torch.equal(first.w, other.w)
    assert not first.goes_back and first.d.abs().mean() > 0.01


def test_a_fresh_one_measures_its_features_and_one_that_goes_on_keeps_its_weights(whole_run, make_config, tmp_path):
    folder = whole_run("phase3")[0] / "model_last"
    domain = make_config("phase3").domain
    fresh, _, origin = start_phase3(domain)
    assert origin == "the feature residual starts at Phase II, which it leaves as it is"
    size = fresh.feature_residual.size
    assert (size > 0).all() and len(size.unique()) > 8 and not fresh.feature_residual.predictor.last.weight.any()
    path = folder / "feature_residual.safetensors"
    named = replace(domain, weights=WeightsConfig(folder=domain.weights.folder, feature_residual=str(path)))
    for model, _, origin in (start_phase3(domain, str(folder)), start_phase3(named)):
        assert f"goes on from the weights of {path}" in origin
        for key, value in read_model(path).state.items():
            torch.testing.assert_close(model.feature_residual.state_dict()[key], value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": None}, ValueError, r"domain.feature_residual.layer: .* no layer None .* write one of b4.conv1"),
        ({"channels": 9}, ValueError, r"domain.feature_residual.channels: 9 at 8 px .* above 0.17: write at most 2"),
    ],
)
def test_a_domain_without_it_or_with_too_large_a_one_is_refused(changes, error, message, make_config):
    config = make_config("phase3")
    settings = FeatureResidualConfig(**asdict(config.domain.feature_residual) | changes)
    with pytest.raises(error, match=message):
        phase3.train(replace(config, domain=replace(config.domain, feature_residual=settings)))


def test_a_run_of_another_size_is_not_gone_on_with(whole_run, make_config):
    config = make_config("phase3", schedule={"max_steps": 1, "save_every": 1})
    phase3.train(config)
    smaller = replace(config.domain, feature_residual=replace(config.domain.feature_residual, channels=1))
    with pytest.raises(UserError, match=r"domain.feature_residual.channels: 2 -> 1"):
        phase3.train(replace(config, domain=smaller))
    assert Path(config.output).is_dir()
