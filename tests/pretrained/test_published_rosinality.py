"""StyleGAN2 as published by rosinality: recorded outputs, what is inferred, what is refused."""

from typing import Any

import pytest
import recorded
import torch
from as_published import to_published, to_rosinality
from small_stylegan2 import broken, make_generator

from hyperinverter.models.stylegan2 import Generator
from hyperinverter.published import from_published
from hyperinverter.utils.errors import UserError

ROSINALITY = "rosinality_generator"


@pytest.mark.parametrize("name", recorded.names("ros_g.*"))
def test_rosinality_generators_give_the_recorded_numbers(name: str) -> None:
    case = recorded.Case(name)
    config = case.info["config"]
    content = {"g_ema": case.state(), "latent_avg": case.input("mean_latent")}
    generator = from_published(content, ROSINALITY, **config["kwargs"])
    assert generator.num_ws == config["n_latent"]
    z, latent = case.input("z"), case.input("latent")
    with torch.no_grad():
        results = {
            "w": generator.mapping(z)[:, 0],
            "img_latent_const": generator.synthesis(latent),
            "img_latent_zeronoise": generator.synthesis(latent, noise_mode="none"),
            "img_z_const": generator(z),
            "img_z_truncated": generator(z, config["truncation"]),
        }
    for key in case.info["tensors"]:
        case.compare(key, results[key])


def make_expressible(**changes: Any) -> Generator:
    return make_generator(**{"z_dim": 8, **changes})


def test_decoders_are_found_in_every_container() -> None:
    generator = make_expressible()
    checkpoint = to_rosinality(generator)
    state, w_avg = checkpoint["g_ema"], checkpoint["latent_avg"]
    decoder = {f"decoder.{key}": value for key, value in state.items()}
    encoder = {"encoder.input_layer.0.weight": torch.zeros(1)}
    contents = {
        "rosinality": ({**checkpoint, "d": {}, "g": {}}, {"d", "g"}),
        "one w": ({"g_ema": state, "latent_avg": w_avg[None]}, set()),
        "psp": (
            {"state_dict": {**encoder, **decoder}, "latent_avg": w_avg.repeat(6, 1), "opts": {"output_size": 16}},
            {"encoder.input_layer.0.weight", "opts"},
        ),
        "prefix": ({**decoder, "latent_avg": w_avg}, set()),
    }
    for name, (content, ignored) in contents.items():
        again = from_published(content, ROSINALITY)
        assert set(again.published.ignored) == ignored, name
        expected = generator.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items()), name
    again = from_published(state, ROSINALITY, latent_avg=w_avg, size=16, n_mlp=3, style_dim=8, n_styles=6, lr_mlp=0.01)
    assert again.config == generator.config == again.published.config


def test_without_latent_avg_the_mean_is_estimated() -> None:
    generator = make_expressible()
    again = from_published(to_rosinality(generator)["g_ema"], ROSINALITY)
    mean = generator.mapping(torch.randn(20_000, 8))[:, 0].mean(dim=0)
    spread = generator.mapping(torch.randn(2_000, 8))[:, 0].std(dim=0)
    assert ((again.mapping.w_avg - mean).abs() < 0.1 * spread).all()
    assert "w_avg is the mean of 10000 mapped latents" in again.published.ignored["latent_avg"]


def test_rosinality_kernels_are_used_and_checked() -> None:
    """An asymmetric kernel shows a flip that a symmetric one hides."""
    generator = make_expressible(resample_filter=[1.0, 2.0, 4.0, 1.0])
    checkpoint = to_rosinality(generator)
    again = from_published(checkpoint, ROSINALITY)
    ws = torch.randn(2, 6, 8)
    assert again.config["resample_filter"] == [1.0, 2.0, 4.0, 1.0]
    assert torch.equal(again.synthesis(ws), generator.synthesis(ws))
    other = to_rosinality(make_expressible())["g_ema"]["to_rgbs.0.upsample.kernel"]
    with pytest.raises(UserError, match=r"expected equal kernels"):
        from_published({"g_ema": {**checkpoint["g_ema"], "to_rgbs.0.upsample.kernel": other}}, ROSINALITY)
    with pytest.raises(UserError, match="blur_kernel"):
        from_published(checkpoint, ROSINALITY, blur_kernel=[1, 3, 3, 1])


def test_channel_multiplier_is_what_the_widths_say() -> None:
    state = {
        key: value
        for key, value in to_rosinality(make_expressible(channel_max=512, channel_base=16384))["g_ema"].items()
    }
    assert from_published(state, ROSINALITY, channel_multiplier=2).config["channel_max"] == 512
    small = to_rosinality(make_expressible())["g_ema"]
    with pytest.raises(UserError, match="channel_multiplier=2"):
        from_published(small, ROSINALITY, channel_multiplier=2)


def test_damaged_and_foreign_rosinality_generators_are_refused_by_name() -> None:
    state = to_rosinality(make_expressible())["g_ema"]
    for content, message in [
        (broken(state, convs__0__conv__weight=None), r"it has no convs\.0\.conv\.weight"),
        (broken(state, noises__noise_0=torch.zeros(4, 4)), r"noises\.noise_0 has shape \(4, 4\)"),
        (broken(state, more=torch.zeros(1)), "1 keys are not known: more"),
        (broken(state, input__input=torch.zeros(16, 4, 4)), r"input\.input has shape \(16, 4, 4\)"),
        ({"g_ema": state, "latent_avg": torch.randn(6, 8)}, r"rows of latent_avg differ.*give latent_avg=\[w\]"),
        ({"g_ema": state, "latent_avg": torch.randn(9)}, r"latent_avg has shape \(9,\), expected \[8\]"),
        (to_published(make_generator()), "it has no conv1.conv.weight"),
        (None, "it holds a NoneType"),
    ]:
        with pytest.raises(UserError, match=message):
            from_published(content, ROSINALITY)


def test_variants_that_rosinality_has_not_are_refused() -> None:
    for changes in ({"architecture": "orig"}, {"c_dim": 3}, {"z_dim": 6}, {"conv_clamp": 256}, {"use_noise": False}):
        name = next(iter(changes))
        with pytest.raises(ValueError, match=f"no such variant: .*{name} is"):
            to_rosinality(make_expressible(**changes))
