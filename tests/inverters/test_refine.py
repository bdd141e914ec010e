"""Refinement: steps on the tokens come closer to the photo, one image does not feel another, and little else moves."""

from dataclasses import replace

import pytest
import torch

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import (
    DataConfig,
    EditConfig,
    EvaluateConfig,
    InvertConfig,
    RefineConfig,
    WeightsConfig,
)
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.inverters import Inversion, load
from hyperinverter.inverters.perceptual import Perceptual
from hyperinverter.inverters.refine import SCALE_RATE, TOKEN_RATE
from hyperinverter.models.residuals import ChannelScales
from hyperinverter.utils.errors import UserError

# at 16 px no network looks at images, and residuals of random hypernetworks are large
PLAIN = {"perceptual": 0.0, "identity": 0.0, "learning_rate": 0.02}


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def error(model, inversion, images):
    return (model.render(inversion) - images).square().mean(dim=(1, 2, 3))


def test_steps_lower_the_loss_and_move_tokens_alone(tiny_model, images):
    model = load(tiny_model)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    predicted = model.invert(images)
    few, many = (model.refine_by(RefineConfig(steps=steps, **PLAIN)).invert(images) for steps in (3, 30))
    errors = [error(model, one, images) for one in (predicted, few, many)]
    assert bool((errors[0] > errors[1]).all()) and bool((errors[1] > errors[2]).all())
    assert torch.equal(many.ws, predicted.ws), "w stays, so that edits do"
    after = model.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert len(model.refiner.history) == 30 and model.refiner.history[-1].shape == (3,)


def test_planted_tokens_are_found_again(tiny_model, images):
    model = load(tiny_model)
    predicted = model.invert(images)
    random = torch.Generator().manual_seed(1)
    moved = {name: token + 0.2 * torch.randn(token.shape, generator=random) for name, token in predicted.tokens.items()}
    target = model.render(replace(predicted, tokens=moved))
    refiner = model.refine_by(RefineConfig(steps=100, **{**PLAIN, "learning_rate": 0.1})).refiner
    ws, tokens = refiner(model._draw, target, predicted.ws, predicted.tokens, model.generator)
    refined = replace(predicted, ws=ws, tokens=tokens)
    assert bool((error(model, refined, target) < 0.2 * error(model, predicted, target)).all())


def test_the_rate_is_a_part_of_what_was_predicted(tiny_model, images):
    """One step of Adam moves every number by the rate; of tokens each layer's own size counts, image by image."""
    model = load(tiny_model)
    predicted = model.invert(images)
    refined = model.refine_by(RefineConfig(steps=1, **PLAIN)).invert(images)
    for name, token in predicted.tokens.items():
        size = token.square().mean(dim=1).sqrt().clamp(min=0.05)
        moved = (refined.tokens[name] - token).abs().amax(dim=1)
        torch.testing.assert_close(moved, PLAIN["learning_rate"] * size, rtol=1e-2, atol=0)


def test_an_image_does_not_feel_the_others(tiny_model, images):
    settings = RefineConfig(steps=5, w_learning_rate=0.01, edit_consistency=0.5, **PLAIN)
    model = load(tiny_model, refine=settings)
    together = model.invert(images, batch_size=3)
    for number in range(3):
        alone = model.invert(images[number : number + 1])
        torch.testing.assert_close(together[number : number + 1].ws, alone.ws, rtol=0, atol=1e-5)
        for name, token in alone.tokens.items():
            torch.testing.assert_close(together.tokens[name][number : number + 1], token, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["hyperinverter", "w_encoder"])
def test_edit_consistency_keeps_what_steps_in_w_change(tiny_model, images, method):
    """Measured by steps that the refinement has not seen."""
    model = load(tiny_model, method)
    settings = RefineConfig(steps=30, **{**PLAIN, "learning_rate": 0.05, "w_learning_rate": 0.0})
    towards = model.generator.mapping(torch.randn(1, 16, generator=torch.Generator().manual_seed(99)))[:, :1]
    lost = {}
    for weight in (0.0, 2.0):
        inversion = model.refine_by(replace(settings, edit_consistency=weight)).invert(images)
        edited = inversion.with_ws(inversion.ws + 0.4 * (towards - inversion.ws))
        after, before = (model.render(edited.without_weights() if plain else edited)
                         - model.render(inversion.without_weights() if plain else inversion)
                         for plain in (False, True))  # fmt: skip
        lost[weight] = float((after - before).square().mean() / before.square().mean())
    assert lost[2.0] < 0.7 * lost[0.0], lost


def test_w_moves_when_asked_by_one_step_for_every_style(tiny_model, images):
    predicted = load(tiny_model).invert(images)
    moved = load(tiny_model, refine=RefineConfig(steps=5, w_learning_rate=0.01, **PLAIN)).invert(images)
    step = moved.ws - predicted.ws
    assert float(step.abs().max()) > 1e-3 and torch.allclose(step, step[:, :1].expand_as(step), atol=1e-6)


class Brightness(torch.nn.Module):
    """Looks at the mean of an image alone."""

    def features(self, images):
        return images.mean(dim=(1, 2, 3))

    def distance(self, a, b):
        return (a - b).square()


def test_every_distance_counts_with_its_weight(tiny_model, images):
    model = load(tiny_model).refine_by(RefineConfig(steps=15, **PLAIN))
    ruler = Brightness()
    settings = RefineConfig(steps=15, l2=0.0, perceptual=2.0, identity=0.5, learning_rate=0.02, w_learning_rate=0.0)
    model.refiner = replace(
        model.refiner, settings=settings, perceptual=Perceptual("brightness", ruler, None), identity=ruler
    )
    predicted = load(tiny_model).render(load(tiny_model).invert(images))
    model.invert(images)
    distance = ruler.distance(ruler.features(predicted), ruler.features(images))
    torch.testing.assert_close(model.refiner.history[0], 2.5 * distance, rtol=1e-3, atol=1e-5)
    assert bool((model.refiner.history[-1] < model.refiner.history[0]).all())


def test_a_refined_model_may_draw_smaller_images(tiny_model, images):
    model = load(tiny_model, refine=RefineConfig(steps=2, **PLAIN)).draw_at(8)
    assert model.invert(images).images.shape[-1] == 8 and len(model.refiner.history) == 2


def test_images_are_drawn_as_they_will_be_and_compared_reduced(tiny_model, images):
    """An early head is not asked for what the whole generator is to show."""
    model = load(tiny_model, refine=RefineConfig(steps=2, edit_consistency=0.1, **PLAIN))
    drawn = []

    def draw(ws, tokens, px):
        drawn.append(px)
        return model._draw(ws, tokens, px)

    predicted = load(tiny_model).invert(images)
    refiner = replace(model.refiner, loss_resolution=8)
    refiner(draw, images, predicted.ws, predicted.tokens, model.generator)
    assert drawn == [16] * 4
    drawn.clear()
    quick = replace(refiner, settings=replace(refiner.settings, steps=4, early=0.75))
    quick(draw, images, predicted.ws, predicted.tokens, model.generator)
    assert drawn == [8] * 6 + [16] * 2
    assert model.draw_at(8).refiner.drawn_px == 8


def test_phase_1_alone_moves_w_and_scales_of_channels(tiny_model, images, tmp_path):
    """Either alone comes closer, both come closest; what they gave is stored, joined and mixed as other Inversions."""
    model, refined = load(tiny_model, "w_encoder"), {}
    plain = model.invert(images)
    errors = {"predicted": error(model, plain, images)}
    for name, rates in {"w": (0.0, 0.03), "scales": (0.1, 0.0), "both": (0.1, 0.03)}.items():
        settings = {"perceptual": 0.0, "identity": 0.0, "learning_rate": rates[0], "w_learning_rate": rates[1]}
        refined[name] = model.refine_by(RefineConfig(steps=20, **settings)).invert(images)
        errors[name] = error(model, refined[name], images)
    assert all(bool((errors[name] < errors["predicted"]).all()) for name in refined)
    assert bool((errors["both"] < errors["w"]).all())
    assert refined["w"].residuals is None and torch.equal(
        refined["scales"].ws, refined["scales"].ws[:, :1].expand(-1, 6, -1)
    )
    both = refined["both"]
    both.save(tmp_path / "both.safetensors")
    again = type(both).load(tmp_path / "both.safetensors")
    assert "scaled per channel" in repr(again)
    drawn = model.render(both)
    assert torch.equal(model.render(again), drawn)
    assert torch.equal(model.render(type(both).cat(list(again))), drawn)
    torch.testing.assert_close(model.render(model.prepare(again)), drawn, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.render(both.interpolate(again, 0.4)), drawn, rtol=0, atol=1e-5)
    dense = replace(both, residuals=model.weight_residuals(both))
    torch.testing.assert_close(model.render(dense), drawn, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="two kinds"):
        type(both).cat([both, dense])


def test_scales_of_what_is_no_convolution_are_refused(tiny_model):
    """A file of any origin may hold them; they ended in a TypeError or IndexError of the layers."""
    model = load(tiny_model, "w_encoder")
    ws, made_for = torch.zeros(1, model.generator.num_ws, model.generator.w_dim), model.generator_hash
    for name, parameter in model.generator.synthesis.named_parameters():
        shape = [1, *parameter.shape[:1], *(1 for _ in parameter.shape[1:])]  # of output channels
        whole, flat = ({name: ChannelScales(torch.zeros(size))} for size in (shape, [1]))
        if parameter.ndim == 4:
            model.render(Inversion(ws, residuals=whole, generator_hash=made_for))
        for residuals in [flat] if parameter.ndim == 4 else [flat, whole] if parameter.ndim else [flat]:
            with pytest.raises(ValueError, match="expected a convolution's weight"):
                model.render(Inversion(ws, residuals=residuals, generator_hash=made_for))


def test_planted_scales_are_found_again(tiny_model, images):
    model = load(tiny_model, "w_encoder")
    predicted, random = model.invert(images), torch.Generator().manual_seed(1)
    numbers = {name: 0.2 * torch.randn(3, at.channels, generator=random) for name, at in model._targets.items()}
    target = model.render(replace(predicted, residuals=model._scaled(numbers)))
    model.refine_by(RefineConfig(steps=100, w_learning_rate=0.0, **PLAIN))
    start = {name: torch.zeros_like(value) for name, value in numbers.items()}
    ws, found = model.refiner(model._draw, target, predicted.ws, start, model.generator)
    refined = replace(predicted, ws=ws, residuals=model._scaled(found))
    assert bool((error(model, refined, target) < 0.2 * error(model, predicted, target)).all())


def test_a_refined_file_is_read_and_drawn_as_any_other(tiny_model, images, tmp_path):
    model = load(tiny_model, refine=RefineConfig(steps=4, **PLAIN))
    refined = model.invert(images)
    refined.save(tmp_path / "refined.safetensors")
    again = type(refined).load(tmp_path / "refined.safetensors")
    assert torch.equal(load(tiny_model).render(again), model.render(refined))


def test_w_alone_may_move_as_the_page_says():
    """refine.learning_rate=0 was refused on the command line."""
    assert load_config(EvaluateConfig, None, ["refine.steps=1", "refine.learning_rate=0"]).refine.learning_rate == 0
    with pytest.raises(ConfigError, match=r"refine\.edit_consistency"):
        load_config(EvaluateConfig, None, ["refine.edit_consistency=-1"])
    with pytest.raises(ConfigError, match=r"refine\.early"):
        load_config(EvaluateConfig, None, ["refine.early=1.5"])


@pytest.mark.parametrize("schema", [EvaluateConfig, EditConfig, InvertConfig])
def test_a_setting_of_no_steps_is_refused_where_it_is_typed_and_kept_in_a_file(schema, tmp_path):
    with pytest.raises(ConfigError, match=r"command line: refine\.early: does nothing without steps; write refine"):
        load_config(schema, None, ["refine.early=0.5"])
    (tmp_path / "own.yaml").write_text("refine: { early: 0.5 }\n")
    assert load_config(schema, tmp_path / "own.yaml", ["refine.steps=0"]).refine.early == 0.5
    assert load_config(schema, tmp_path / "own.yaml", ["refine.steps=3", "refine.identity=0"]).refine.steps == 3


@pytest.mark.parametrize(("method", "rates"), [("hyperinverter", (TOKEN_RATE, 0)), ("w_encoder", (SCALE_RATE, 0.02))])
def test_null_is_the_methods_own_rate_and_the_protocol_says_which(tiny_model, method, rates):
    settings = load_config(EvaluateConfig, None, ["refine.learning_rate=null", "refine.w_learning_rate=null"]).refine
    assert settings.learning_rate is settings.w_learning_rate is None
    settings = replace(settings, steps=1, perceptual=0.0, identity=0.0)
    for one, wanted in ((settings, rates), (replace(settings, w_learning_rate=0.5), (rates[0], 0.5))):
        told = load(tiny_model, method, refine=one).refiner.described()
        assert (told["refine_learning_rate"], told["refine_w_learning_rate"]) == wanted


def test_what_cannot_be_refined_is_refused(tiny_model):
    with pytest.raises(ValueError, match="refine is for methods hyperinverter and w_encoder, not sg2"):
        load(tiny_model, "sg2", refine=5)
    with pytest.raises(UserError, match=r"refine\.learning_rate and refine\.w_learning_rate are 0, so nothing moves"):
        load(tiny_model, "w_encoder", refine=RefineConfig(steps=5, learning_rate=0, w_learning_rate=0))
    with pytest.raises(UserError, match="leave precision at fp32"):
        load(tiny_model, refine=RefineConfig(steps=2, **PLAIN), precision="bf16")
    with pytest.raises(UserError, match="leave precision at fp32"):
        load(tiny_model, precision="bf16").refine_by(RefineConfig(steps=2, **PLAIN))
    with pytest.raises(UserError, match=r"refine\.early is 2"):
        load(tiny_model, refine=RefineConfig(steps=2, early=2, **PLAIN))
    with pytest.raises(UserError, match=r"refine\.perceptual is 0\.8.*or set it to 0"):
        load(tiny_model, refine=2)
    for refine in ("twenty", -5, 2.5, True):  # an AttributeError, none, an AttributeError
        with pytest.raises(ValueError, match=rf"refine is '?{refine}'?; write a number of steps"):
            load(tiny_model, refine=refine)
    assert load(tiny_model, refine=0).refiner is None


def test_evaluation_keeps_refined_images_and_names_the_settings(tiny_domain, tiny_model, tmp_path):
    config = EvaluateConfig(
        domain=replace(tiny_domain, weights=WeightsConfig(folder=str(tiny_model))),
        output=str(tmp_path),
        data=DataConfig(kind="generated", num_generated=3),
        refine=RefineConfig(steps=6, **PLAIN),
        metrics=["l2"],
        time_repeats=2,
    )
    refined = evaluate(config)
    assert refined["protocol"]["settings"]["hyperinverter"]["refine_steps"] == 6
    assert len(list((tmp_path / "reconstructions").rglob("*.png"))) == 6
    plain = evaluate(replace(config, output=str(tmp_path / "plain"), refine=RefineConfig()))
    methods, before = refined["methods"], plain["methods"]
    assert methods["hyperinverter"]["l2"] < before["hyperinverter"]["l2"]
    assert methods["w_encoder"]["l2"] < before["w_encoder"]["l2"], "by its w"
