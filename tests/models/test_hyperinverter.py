"""The whole method: what is frozen, where gradients go, batch against singles, ablations, recorded outputs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import recorded
import torch

from hyperinverter.config.domain_schema import TARGET_SETS, DomainConfig
from hyperinverter.models.build import build_hyperinverter
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.published import from_published


def make(domain: DomainConfig, **hypernetwork) -> HyperInverterNetwork:
    torch.manual_seed(0)
    domain = replace(domain, hypernetwork=replace(domain.hypernetwork, **hypernetwork))
    model = build_hyperinverter(domain).eval()
    with torch.no_grad():  # enlarge the residuals, else Phase II would hide behind rounding
        for regressor in model.hypernetwork.weight_regressors.values():
            regressor.w1.mul_(10)
    return model


def images_for(model: HyperInverterNetwork, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, model.generator.resolution, model.generator.resolution).clamp(-1, 1)


def test_forward_is_encode_render_invert_render(tiny_domain):
    model = make(tiny_domain)
    images = images_for(model)
    with torch.no_grad():
        output = model(images)
        w = model.w_encoder(images) + model.generator.mapping.w_avg
        ws = torch.stack([w] * model.generator.num_ws, dim=1)
        h, h_w = model.layerwise_encoder(images), model.layerwise_encoder(model.generator.synthesis(ws))
        residuals = model.hypernetwork(h, h_w)
        expected = model.generator.synthesis(ws, weight_residuals=residuals)
    torch.testing.assert_close(output.w, w)
    torch.testing.assert_close(output.ws, ws)
    torch.testing.assert_close(output.w_image, model.generator.synthesis(ws))
    torch.testing.assert_close(output.reconstruction, expected, rtol=0, atol=1e-5)
    assert (output.reconstruction - output.w_image).abs().max() > 1e-2


def test_batch_equals_singles(tiny_domain):
    model = make(tiny_domain)
    images = images_for(model, 8)
    with torch.no_grad():
        together = model(images).reconstruction
        apart = torch.cat([model(image[None]).reconstruction for image in images])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)


def test_gradients_reach_e2_and_the_hypernetworks_only(tiny_domain):
    model = make(replace(tiny_domain, resolution=32)).train()  # below 32 px no style reads the finest pyramid level
    output = model(images_for(model))
    assert not output.w_image.requires_grad and not output.ws.requires_grad
    output.reconstruction.square().mean().backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    expected = {
        name for name, _ in model.named_parameters() if name.startswith(("layerwise_encoder.", "hypernetwork."))
    }
    assert got == expected
    assert {id(parameter) for parameter in model.trainable_parameters()} == {
        id(parameter) for name, parameter in model.named_parameters() if name in expected
    }


def test_training_leaves_generator_and_e1_untouched(tiny_domain):
    model = make(tiny_domain).train()
    frozen = {**model.generator.state_dict(prefix="g."), **model.w_encoder.state_dict(prefix="e.")}
    before = {name: value.clone() for name, value in frozen.items()}
    assert model.layerwise_encoder.training and model.hypernetwork.training
    assert not any(module.training for part in (model.generator, model.w_encoder) for module in part.modules())
    optimizer = torch.optim.Adam(model.trainable_parameters())
    model(images_for(model)).reconstruction.square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in frozen.items())
    assert not model.eval().layerwise_encoder.training


@pytest.mark.parametrize(
    "options",
    [
        *({"target_set": target_set} for target_set in TARGET_SETS),
        {"use_w_image_features": False},
        {"shared_code": True},
        {"weight_layout": "paper", "style_index": "true"},
        {"hidden_size": 8},
    ],
    ids=str,
)
def test_every_ablation_runs_forward_and_backward(tiny_domain, options):
    model = make(tiny_domain, **options).train()
    output = model(images_for(model))
    assert output.reconstruction.shape == (2, 3, 16, 16)
    output.reconstruction.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.hypernetwork.parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in model.hypernetwork.parameters())


def test_render_without_tokens_is_phase_one(tiny_domain):
    model = make(tiny_domain)
    images = images_for(model)
    with torch.no_grad():
        output = model.invert(images)
        torch.testing.assert_close(model.render(output.ws), output.w_image)
    assert output.reconstruction is None


def test_parts_that_do_not_fit_are_named(tiny_domain):
    model = make(tiny_domain)
    other = make(replace(tiny_domain, generator=replace(tiny_domain.generator, w_dim=20, channel_max=8)))
    with pytest.raises(
        ValueError, match=r"w_dim of w_encoder and generator: 16 and 20; .*b4.conv1.weight: hypernetwork"
    ):
        HyperInverterNetwork(other.generator, model.w_encoder, model.layerwise_encoder, model.hypernetwork)


@pytest.mark.slow
@pytest.mark.parametrize("name", recorded.names("hi_.*"))
@torch.no_grad()
def test_hyperinverter_gives_the_recorded_output(name):
    case = recorded.Case(name)
    told = {key: case.info["config"]["opts"][key] for key in ("output_size", "hidden_dim", "target_shape_name")}
    model = from_published(case.release(), "hyperinverter", generator=case.state("generator"), **told)
    images = case.input()
    output = model(images)
    h, h_w = model.layerwise_encoder.pair(images, output.w_image)
    residuals = model.hypernetwork.decode(output.tokens)
    order = case.info["config"]["predicted_order"]
    assert list(residuals) == order
    assert model.hypernetwork.style_indices == case.info["config"]["w_idx"]
    flat = [residuals[layer].flatten(1) for layer in order]
    final, w_image = output.reconstruction, output.w_image
    case.compare("w_codes", output.w)
    case.compare("w_images", w_image)
    case.compare("final_images", final)
    case.compare("channel_mean_w_image", w_image.mean(dim=(2, 3)))
    case.compare("channel_mean_final", final.mean(dim=(2, 3)))
    case.compare("diff_final_minus_w_l2", (final - w_image).square().mean().sqrt())
    case.compare("w_bar_codes", h)
    case.compare("w_image_codes", h_w)
    case.compare("w_bar_codes_slot_l2", h.square().sum(dim=(2, 3, 4)).sqrt())
    case.compare("w_image_codes_slot_l2", h_w.square().sum(dim=(2, 3, 4)).sqrt())
    case.compare("pred_mean", torch.stack([x.mean(1) for x in flat], dim=1))
    case.compare("pred_absmean", torch.stack([x.abs().mean(1) for x in flat], dim=1))
    case.compare("pred_std", torch.stack([x.std(1, unbiased=False) for x in flat], dim=1))
    for layer in order:
        case.compare(f"pred.{layer}", residuals[layer])


@torch.no_grad()
def test_w_is_e1s_offset_from_the_mean_of_the_generators_w(tiny_domain):
    model = make(tiny_domain)
    images = images_for(model)
    model.generator.mapping.w_avg.fill_(3.0)
    torch.testing.assert_close(model.encode(images), model.w_encoder(images) + 3.0)


@pytest.mark.parametrize(("input_size", "drawn"), [(128, 256), (256, 256), (257, 1024), (2048, 1024)])
def test_e2_is_given_the_smallest_phase_one_image_that_need_not_be_enlarged(input_size: int, drawn: int):
    generator = SimpleNamespace(resolution=1024, synthesis=SimpleNamespace(resolutions=(256, 1024)))
    model = SimpleNamespace(generator=generator, layerwise_encoder=SimpleNamespace(input_size=input_size))
    assert HyperInverterNetwork.enough_for_e2(model) == drawn
