"""Hypernetworks that start from the losses' gradients: exactly at Phase I, and a token is a step down."""

from dataclasses import replace

import pytest
import torch

from hyperinverter.config.checks import problems
from hyperinverter.config.schema import Phase2Config
from hyperinverter.data.loader import Batches
from hyperinverter.losses import build_losses
from hyperinverter.models.build import build_hyperinverter
from hyperinverter.pretrained.load import load_model
from hyperinverter.training import phase2
from hyperinverter.training.gradient_basis import set_mapper, start_from_gradients

from .conftest import stats


@pytest.fixture(scope="module", params=["paper", "released"])
def domain(request, tiny_domain):
    sizes = {"init": "gradients", "token_range": "signed", "weight_layout": request.param}
    return replace(tiny_domain, hypernetwork=replace(tiny_domain.hypernetwork, **sizes))


@pytest.fixture
def model(domain, tiny_model):
    loaded = load_model(tiny_model, with_hyperinverter=False)
    torch.manual_seed(1)
    return build_hyperinverter(domain, loaded.generator, loaded.w_encoder)


class Photos(Batches):
    """Three images in a row."""

    def __init__(self) -> None:
        self.images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1

    def __len__(self) -> int:
        return 3

    def in_order(self, batch_size, max_images=None):
        yield self.images[:2], ["a", "b"]
        yield self.images[2:], ["c"]


def test_a_token_of_a_photo_is_a_step_against_its_gradient(model):
    """With fewer photos than numbers in a token, residuals are the negative gradients' directions."""
    photos, losses = Photos(), build_losses({"l2": 1.0}, loss_resolution=16)
    name, target = list(model.hypernetwork.targets.items())[3]
    weight = dict(model.generator.synthesis.named_parameters())[name]
    gradients = []
    for image in photos.images.split(1):
        ws = model.encode(image)[:, None].repeat(1, model.generator.num_ws, 1)
        residual = torch.zeros(1, *target.shape, requires_grad=True)
        zeros = {other: torch.zeros(1, *one.shape) for other, one in model.hypernetwork.targets.items()}
        losses(model.synthesise(ws, {**zeros, name: residual}), image)[0].backward()
        gradients.append(residual.grad)
    gradients = torch.cat(gradients)
    mapper = model.hypernetwork.regressor(name)
    with torch.no_grad():
        tokens = set_mapper(mapper, mapper.as_rows(gradients), weight)
        residuals = mapper.decode(tokens)
    cosine = torch.nn.functional.cosine_similarity(residuals.flatten(1), gradients.flatten(1))
    assert bool((cosine < -0.7).all()), "four columns of the output hold most of it"
    rms = residuals.flatten(1).square().sum(dim=1).mean().sqrt()
    torch.testing.assert_close(rms, weight.norm(), rtol=1e-3, atol=0)
    torch.testing.assert_close(tokens.square().sum(dim=0)[:3] / 3, torch.ones(3), rtol=1e-3, atol=1e-3)


def test_phase_2_starts_at_phase_1_and_random_numbers_stay(model):
    photos, losses = Photos(), build_losses({"l2": 1.0}, loss_resolution=16)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    sentence = start_from_gradients(model, losses, photos)
    assert torch.equal(torch.rand(3), expected)
    numbers = [float(word.rstrip(",")) for word in sentence.split() if word[0].isdigit()]
    before, after = numbers[-2:]
    assert after < before, sentence
    output = model.eval()(photos.images)
    torch.testing.assert_close(output.reconstruction, output.w_image, rtol=0, atol=1e-5)
    output.reconstruction.square().sum().backward()
    for each in model.hypernetwork.weight_regressors.values():
        assert float(each.feature_extractor[-1].weight.grad.abs().max()) > 0, "tokens can move away from 0"


@pytest.mark.parametrize("domain", ["paper", pytest.param("released", marks=pytest.mark.slow)], indirect=True)
def test_a_run_starts_so_once_and_goes_on_as_another(make_config, domain, tmp_path):
    def make(name):
        config = make_config("phase2", name)
        config.domain = replace(config.domain, hypernetwork=domain.hypernetwork)
        config.domain.weights = replace(config.domain.weights, hyperinverter=None)
        return config

    whole = phase2.train(make("whole"))
    log = (tmp_path / "whole/log.txt").read_text()
    assert log.count("mappers start from the gradients") == 1
    config = make("parts")
    steps = config.schedule.max_steps
    config.schedule.max_steps = steps // 2
    phase2.train(config)
    config.schedule.max_steps = steps
    again = phase2.train(config)
    assert again["validation/loss"] == whole["validation/loss"]
    last = [
        [line["train/loss"] for line in stats(tmp_path / name) if "train/loss" in line][-1]
        for name in ("parts", "whole")
    ]
    assert last[0] == last[1]


def test_tokens_with_a_relu_at_their_end_are_refused(domain):
    faulty = replace(domain, hypernetwork=replace(domain.hypernetwork, token_range="non_negative"))
    assert any("token_range: signed" in str(problem) for problem in problems(Phase2Config(domain=faulty)))
