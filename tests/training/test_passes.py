"""Several passes of Phase II: E2 looks at what the tokens draw and adds to them; one pass stays what it was."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hyperinverter
from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.checks import problems
from hyperinverter.config.model_schema import ExportConfig
from hyperinverter.config.schema import DomainConfig, Phase2Config, WeightsConfig
from hyperinverter.data.loader import Batches
from hyperinverter.evaluation.export_model import export_model
from hyperinverter.losses import build_losses
from hyperinverter.models.build import build_hyperinverter
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import UPDATE_UNIT
from hyperinverter.models.plan import dry_run
from hyperinverter.pretrained.load import load_model
from hyperinverter.training import phase2
from hyperinverter.training.start import open_later_passes, start_hyperinverter
from hyperinverter.utils.errors import UserError

from .conftest import tiny_config
from .forks import assert_same_run


def with_passes(domain: DomainConfig, passes: int, **hypernetwork) -> DomainConfig:
    return replace(domain, hypernetwork=replace(domain.hypernetwork, passes=passes, **hypernetwork))


@pytest.fixture(scope="module")
def two(tiny_domain: DomainConfig, tiny_model: Path) -> DomainConfig:
    return with_passes(replace(tiny_domain, weights=WeightsConfig(folder=str(tiny_model))), 2)


@pytest.fixture
def model(two: DomainConfig, tiny_model: Path) -> HyperInverterNetwork:
    """Two passes from trained weights of one, before a step."""
    start = start_hyperinverter(two, str(tiny_model))
    assert start.is_extended and not start.is_new
    return start.model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def updates(model: HyperInverterNetwork) -> list[torch.nn.Parameter]:
    return [weight for name, weight in model.hypernetwork.named_parameters() if name.endswith(".update")]


class Four(Batches):
    """Four photos in one batch."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def in_order(self, batch_size, max_images=None):
        yield self.images, ["a", "b", "c", "d"]


def run(two: DomainConfig, model: Path, photos: Path, output: Path) -> Phase2Config:
    return tiny_config("phase2", model, photos, output, two, init_from=str(model))


@pytest.fixture(scope="module")
def trained(two, tiny_model, photos, tmp_path_factory) -> Path:
    """A run of two passes from weights of one, never stopped. Read-only."""
    config = run(two, tiny_model, photos, tmp_path_factory.mktemp("passes") / "run")
    phase2.train(config)
    assert "later passes begin at" in (Path(config.output) / "log.txt").read_text()
    return Path(config.output)


@torch.no_grad()
def test_from_trained_weights_the_first_step_starts_at_their_very_output(model, tiny_model, images):
    before, now = load_model(tiny_model).network(images), model(images)
    assert all(torch.equal(before.tokens[name], token) for name, token in now.tokens.items())
    assert torch.equal(before.reconstruction, now.reconstruction)


def test_one_pass_draws_and_keeps_no_more_weights_than_before(tiny_domain):
    networks = []
    for passes in (1, 2):
        torch.manual_seed(5)
        networks.append(build_hyperinverter(with_passes(tiny_domain, passes)).state_dict())
    one, several = networks
    more = several.keys() - one.keys()
    assert one.keys() <= several.keys() and all(name.endswith(".update") for name in more)
    assert len(more) == sum(name.endswith(".w1") for name in one)
    assert all(torch.equal(value, several[name]) for name, value in one.items())


@pytest.mark.parametrize("token_range", ["non_negative", "signed"])
@torch.no_grad()
def test_a_pass_adds_what_photo_and_drawn_image_tell(tiny_domain, images, token_range):
    torch.manual_seed(0)
    model = build_hyperinverter(with_passes(tiny_domain, 3, token_range=token_range)).eval()
    for weight in updates(model):
        weight.normal_(std=0.3)
    ws, h = model.invert(images).ws, model.layerwise_encoder(images)
    tokens = model.hypernetwork.tokens(h, model.layerwise_encoder(model.render(ws)))
    for _ in range(2):
        drawn = torch.cat([model.layerwise_encoder(model.render(ws, tokens)), h], dim=2)
        for name, index in model.hypernetwork.style_indices.items():
            part = model.hypernetwork.regressor(name)
            token = part.feature_extractor(part.fusion(drawn[:, index])).flatten(1)
            tokens[name] = tokens[name] + UPDATE_UNIT * part.update * token
            if token_range == "non_negative":
                tokens[name] = tokens[name].relu()
    result = model(images)
    for name, token in result.tokens.items():
        torch.testing.assert_close(token, tokens[name], rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(result.reconstruction, model.render(ws, tokens), rtol=1e-4, atol=1e-4)


def test_later_passes_learn_to_lower_the_loss_of_the_first(model, images):
    """Nothing but the updates is trained, so that the first pass stays as good as it was."""
    model.requires_grad_(False)
    weights = [weight.requires_grad_(True) for weight in updates(model)]
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    losses = []
    for _ in range(20):
        loss = (model(images).reconstruction - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.hypernetwork.passes = 1
    with torch.no_grad():
        first = float((model(images).reconstruction - images).square().mean())
    assert first == pytest.approx(losses[0], rel=1e-5)
    assert losses[-1] < 0.97 * first, losses


def test_every_pass_is_trained_but_not_through_the_images_between(model, images, monkeypatch):
    drawn, encode = [], type(model.layerwise_encoder).forward
    monkeypatch.setattr(
        type(model.layerwise_encoder), "forward", lambda e2, x: (drawn.append(x.requires_grad), encode(e2, x))[1]
    )
    model.train()
    with torch.no_grad():
        for weight in updates(model):
            weight.normal_(std=0.1)
    model(images).reconstruction.square().mean().backward()
    assert drawn == [False, False]  # photo and Phase I image together, then what the tokens draw
    parts = model.hypernetwork.weight_regressors.values()
    assert sum(float(part.feature_extractor[6].weight.grad.abs().sum()) for part in parts) > 0
    assert sum(float(weight.grad.abs().sum()) for weight in updates(model)) > 0
    assert all(weight.grad is None for weight in model.generator.parameters())


def test_a_killed_run_of_two_passes_resumes_exactly(two, tiny_model, photos, trained, tmp_path, monkeypatch):
    config, calls, get = run(two, tiny_model, photos, tmp_path / "run"), [], Batches.get

    def dying(self, position, batch_size):
        calls.append(position)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return get(self, position, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "get", dying)
        with pytest.raises(KeyboardInterrupt):
            phase2.train(config)
    phase2.train(config)
    assert_same_run(trained, Path(config.output))


def test_files_carry_the_passes_and_inversions_keep_their_form(trained, tiny_model, images, tmp_path):
    folder, shipped = trained / "model_last", tmp_path / "shipped"
    export_model(ExportConfig(model=str(folder), output=str(shipped), test_images=2, device="cpu", tolerance=0.05))
    before = hyperinverter.load(tiny_model).invert(images)
    for one in (folder, shipped):
        inverter = hyperinverter.load(one)
        assert inverter.domain.hypernetwork.passes == inverter.network.hypernetwork.passes == 2
        inversion = inverter.invert(images)
        inversion.save(tmp_path / "inversion.safetensors")
        assert {name: t.shape for name, t in inversion.tokens.items()} == {n: t.shape for n, t in before.tokens.items()}
        again = inverter.render(hyperinverter.Inversion.load(tmp_path / "inversion.safetensors"))
        torch.testing.assert_close(again, inverter.render(inversion))
        inverter.network.hypernetwork.passes = 1
        assert not torch.equal(inverter.invert(images).tokens["b4.conv1.weight"], inversion.tokens["b4.conv1.weight"])


def test_more_passes_go_on_from_two_and_fewer_do_not(two, trained):
    folder = str(trained / "model_last")
    start = start_hyperinverter(with_passes(two, 3), folder)
    assert not start.is_extended
    file = read_model(trained / "model_last" / "hyperinverter.safetensors")
    state = {f"hypernetwork.{name}": value for name, value in start.model.hypernetwork.state_dict().items()}
    assert all(torch.equal(value, file.state[name]) for name, value in state.items())
    with pytest.raises(UserError, match=r"hypernetwork.passes: file 2, domain 1"):
        start_hyperinverter(with_passes(two, 1), folder)


def test_weights_that_lack_a_part_of_their_updates_are_refused(two, trained, tmp_path):
    folder = shutil.copytree(trained / "model_last", tmp_path / "model")
    file = read_model(folder / "hyperinverter.safetensors")
    lacking = next(name for name in file.state if name.endswith(".update"))
    state = {name: value for name, value in file.state.items() if name != lacking}
    save_model(
        folder / "hyperinverter.safetensors",
        state,
        kind="hyperinverter",
        config=file.config,
        requires=file.requires,
    )
    with pytest.raises(UserError, match="do not fit"):
        start_hyperinverter(two, str(folder))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"passes": 0}, "must be 1 or more, got 0"),
        ({"passes": 9}, "must be 8 or less, got 9"),
        ({"passes": 2, "use_w_image_features": False}, "write true"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_domain, settings, told):
    domain = replace(tiny_domain, hypernetwork=replace(tiny_domain.hypernetwork, **settings))
    found = [one for one in problems(Phase2Config(domain=domain)) if one.keys[0] == "domain.hypernetwork.passes"]
    assert len(found) == 1 and told in found[0].message


def test_the_plan_tells_of_passes(tiny_domain):
    assert "2 passes" in dry_run(with_passes(tiny_domain, 2)) and "passes" not in dry_run(tiny_domain)


@pytest.mark.parametrize("sign", [1, -1])
def test_later_passes_begin_at_the_share_that_is_best(model, images, sign):
    """A token that steps towards the photo, made by hand, is worth adding; one that steps away is not."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    losses = build_losses({"l2": 1.0}, loss_resolution=16)
    residuals = {name: token.clone().requires_grad_(True) for name, token in model.invert(images).tokens.items()}
    loss = (model.render(model.invert(images).ws, residuals) - images).square().mean()
    steps = torch.autograd.grad(loss, list(residuals.values()))
    towards = {name: -sign * 0.5 * step / step.norm() for name, step in zip(residuals, steps, strict=True)}
    tokens = model.hypernetwork.tokens

    def stepping(h, h_w, before=None):
        if before is None:
            return tokens(h, h_w)
        shares = {name: UPDATE_UNIT * model.hypernetwork.regressor(name).update for name in before}
        return {name: token + shares[name] * towards[name] for name, token in before.items()}

    model.hypernetwork.tokens = stepping
    told = open_later_passes(model.train(), losses, Four(images))
    share = float(updates(model)[0][0].detach()) * UPDATE_UNIT
    assert (share > 0) == (sign > 0) and f"begin at {share:g}:" in told
    assert all(torch.allclose(one, torch.tensor(share / UPDATE_UNIT)) for one in updates(model))
    assert model.layerwise_encoder.training and torch.equal(torch.rand(3), expected)
