"""pSp, e4e and ReStyle as released: recorded codes, what is inferred, what is refused."""

import json
from dataclasses import replace

import pytest
import recorded
import torch
from as_published import to_rosinality
from torch import Tensor

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus import WPlusConfig, WPlusModel, build_model
from hyperinverter.published import from_published
from hyperinverter.utils.errors import UserError

# A recorded encoder has 50 to 270 million weights; one is enough for every run, and two heads of another.
ENCODERS = recorded.mostly_slow(r"(psp|e4e|restyle_(psp|progressive))_.+", "psp_lastlayer_wplus_n14")
IR_SE = EncoderConfig(input_size=32, stem_width=4, widths=[4, 8, 12, 16], depths=[1, 2, 1, 1], strides=[2, 2, 1, 1])
RESNET = replace(IR_SE, trunk="resnet", stem_stride=2, strides=[1, 2, 1, 1])
PYRAMID = WPlusConfig("GradualStyleEncoder", num_styles=8, w_dim=16, trunk=IR_SE)
BACKBONE = WPlusConfig("BackboneEncoder", num_styles=6, w_dim=16, trunk=RESNET, input_channels=6, n_iters=3)


def model_of(config: WPlusConfig, decoder: Generator | None = None) -> WPlusModel:
    torch.manual_seed(0)
    model = build_model(config, decoder).eval().requires_grad_(False)
    if model.latent_avg is not None:
        model.latent_avg.normal_()
    return model


def bare(model: WPlusModel) -> dict[str, Tensor]:
    return dict(model.encoder.state_dict())


def released(model: WPlusModel, **opts: object) -> dict:
    """The whole checkpoint as the published code saves it."""
    state = {f"encoder.{key}": value for key, value in bare(model).items()}
    if model.decoder is not None:
        state |= {f"decoder.{key}": value for key, value in to_rosinality(model.decoder)["g_ema"].items()}
    average = {} if model.latent_avg is None else {"latent_avg": model.latent_avg.clone()}
    return {"state_dict": state, "opts": {"device": "cuda:0", **opts}, **average}


def small_generator(resolution: int = 16) -> Generator:
    torch.manual_seed(1)
    generator = Generator(resolution=resolution, z_dim=16, w_dim=16, channel_base=128, channel_max=8, mapping_layers=2)
    return generator.eval().requires_grad_(False)


def images(n: int = 2, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


# ----------------------------------------------------------------------------------------------- recorded codes


def encoder_of(case: recorded.Case, kind: str, zero: str = "") -> WPlusModel:
    (which,) = case.info["fills"]
    config = case.info["config"]
    return from_published(case.state(which, zero), kind, encoder_type=config["class"], n_styles=config["n_styles"])


@torch.no_grad()
def test_recorded_codes_of_the_first_and_the_last_head():
    """ReStyle's trunk and these two heads; the slow test has all fourteen."""
    case = recorded.Case("restyle_progressive_resnet34_n14")
    model = encoder_of(case, "restyle", zero=r"styles\.([1-9]|1[0-2])\.")
    case.compare("codes", model.encoder(case.input()), columns=(0, 13))


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_recorded_codes(name):
    """The encoder alone, bare: what tensors tell is inferred, the class where they do not is given."""
    case = recorded.Case(name)
    kind = name.partition("_")[0]
    model = encoder_of(case, kind)
    case.compare("codes", model.encoder(case.input()))
    assert model.config.input_channels == case.info["config"]["input_channels"] and model.latent_avg is None
    assert model.published.kind == kind and not model.published.ignored


@pytest.mark.slow
@torch.no_grad()
def test_recorded_restyle_loop():
    """The whole checkpoint: encoder, decoder, average code and the run's options; every iteration's codes and image."""
    case = recorded.Case("restyle_loop32")
    encoder = {f"encoder.{key}": value for key, value in case.state("encoder").items()}
    decoder = {f"decoder.{key}": value for key, value in case.state("decoder").items()}
    content = {"state_dict": encoder | decoder, "latent_avg": case.input("latent_avg")}
    model = from_published(content | {"opts": case.info["config"]["opts"]}, "restyle")
    case.compare("average_image", model.average_image())
    steps = model.steps(case.input())
    case.compare("latents", torch.stack(steps, dim=1))
    for number, ws in enumerate(steps):
        case.compare(f"image_iter{number}", model.render(ws))
    assert torch.equal(model(case.input()), steps[-1])


# ------------------------------------------------------------------------------------------------ what is inferred


@pytest.mark.parametrize(
    ("kind", "encoder_type", "named"),
    [
        ("psp", "GradualStyleEncoder", None),
        ("psp", "BackboneEncoder", None),
        ("e4e", "Encoder4Editing", None),
        ("e4e", "ProgressiveBackboneEncoder", None),
        ("e4e", "GradualStyleEncoder", "GradualStyleEncoder"),
        ("restyle", "GradualStyleEncoder", None),
        ("restyle", "BackboneEncoder", "BackboneEncoder"),
        ("restyle", "ProgressiveBackboneEncoder", "ProgressiveBackboneEncoder"),
    ],
)
@pytest.mark.parametrize("trunk", [IR_SE, replace(IR_SE, trunk="ir"), RESNET], ids=lambda trunk: trunk.trunk)
def test_every_size_is_read_off_the_tensors(kind, encoder_type, named, trunk):
    """Bare, below `encoder.`, and as a checkpoint; what was read builds the network again."""
    is_restyle = kind == "restyle"
    config = WPlusConfig(encoder_type, num_styles=8, w_dim=16, input_channels=6 if is_restyle else 4, trunk=trunk)
    model = model_of(config)
    expected = replace(config, start_from_latent_avg=is_restyle, n_iters=5 if is_restyle else None)
    x = images(channels=config.input_channels)
    if named is not None and trunk.trunk == "resnet":
        named = f"ResNet{named}"
    given = {"strides": trunk.strides} | ({} if named is None else {"encoder_type": named})
    for content in (bare(model), released(model)["state_dict"], released(model)):
        read = from_published(content, kind, **given)
        assert read.config == expected
        torch.testing.assert_close(read.encoder(x), model.encoder(x))
        assert WPlusConfig.from_json(json.loads(json.dumps(read.published.config[kind]))) == expected


def test_an_encoder_without_heads_is_told_its_image_size():
    """Codes of all styles from one layer: an average code tells how long a code is, else the layer before it does."""
    config = WPlusConfig("BackboneEncoderUsingLastLayerIntoWPlus", 6, 16, trunk=IR_SE, hidden_size=12)
    model = model_of(replace(config, average_rows=1))
    read = from_published(released(model), "psp", strides=IR_SE.strides, input_size=32)
    assert read.config == model.config
    torch.testing.assert_close(read(images()), model(images()))
    alone = from_published(bare(model), "psp", strides=IR_SE.strides)
    assert (alone.config.num_styles, alone.config.w_dim, alone.config.trunk.input_size) == (8, 12, 256)


def test_an_encoder_into_w_repeats_its_code():
    config = WPlusConfig("BackboneEncoderUsingLastLayerIntoW", 6, 16, trunk=IR_SE, average_rows=1)
    decoder = small_generator()
    model = model_of(config, decoder)
    given = {"strides": IR_SE.strides, "input_size": 32}
    read = from_published(released(model), "psp", learn_in_w=True, **given)
    assert read.config == config
    code = model.encoder(images()) + model.latent_avg
    torch.testing.assert_close(read(images()), code.unsqueeze(1).expand(-1, 6, -1))
    assert from_published(bare(model), "psp", **given).config.num_styles == 18  # 1024 px, as published
    assert from_published(bare(model), "psp", output_size=256, **given).config.num_styles == 14
    assert from_published(released(model_of(config), output_size=64), "psp", **given).config.num_styles == 10


def test_the_runs_options_decide_where_tensors_do_not_and_given_ones_win():
    model = model_of(replace(PYRAMID, average_rows=8))
    content = released(model, encoder_type="Encoder4Editing", start_from_latent_avg=False, dataset_type="cars_encode")
    given = {"strides": IR_SE.strides}
    read = from_published(content, "psp", **given)
    assert (read.config.encoder_type, read.config.start_from_latent_avg) == ("Encoder4Editing", False)
    assert read.encoder.input_shape == (24, 32)
    own = from_published(
        content, "psp", encoder_type="GradualStyleEncoder", start_from_latent_avg=True, dataset_type="ffhq", **given
    )
    assert own.config == model.config
    torch.testing.assert_close(own(images()), model.encoder(images()) + model.latent_avg)
    restyle = released(model_of(BACKBONE), encoder_type="ResNetBackboneEncoder", n_iters_per_batch=3)
    assert from_published(restyle, "restyle", strides=RESNET.strides).config == BACKBONE
    assert from_published(restyle, "restyle", strides=RESNET.strides, n_iters_per_batch=2).config.n_iters == 2


@pytest.mark.parametrize("shape", [(16,), (1, 16), (8, 16), (5, 16)])
def test_an_average_code_of_any_length_is_one_or_one_per_style(shape):
    content = released(model_of(PYRAMID)) | {"latent_avg": torch.arange(16.0).expand(shape)}
    read = from_published(content, "psp", strides=IR_SE.strides)
    assert read.latent_avg.shape == ((8, 16) if shape == (8, 16) else (1, 16))
    torch.testing.assert_close(read(images()), read.encoder(images()) + torch.arange(16.0))


def test_what_training_leaves_in_a_checkpoint_is_ignored_by_name():
    content = released(model_of(PYRAMID)) | {
        "global_step": 3,
        "optimizer": {"state": {}},
        "best_val_loss": torch.tensor(0.5),
        "discriminator_state_dict": {"mlp.0.weight": torch.zeros(2)},
        "discriminator_optimizer_state_dict": {},
    }
    read = from_published(content, "e4e", strides=IR_SE.strides)
    assert set(read.published.ignored) == set(content) - {"state_dict"}


def refused(message: str, content: dict, kind: str = "psp", **given: object) -> None:
    with pytest.raises(UserError, match=message):
        from_published(content, kind, **{"strides": IR_SE.strides} | given)


def test_what_does_not_fit_is_refused_by_name():
    state = bare(model_of(PYRAMID))
    content = released(model_of(replace(PYRAMID, average_rows=1)))
    refused("n_styles=18 was given, but the tensors say 8", state, n_styles=18)
    refused("output_size=1024 was given, but the tensors say 32", state, output_size=1024)
    refused("input_nc=6", state, input_nc=6)
    refused("input_size=256", state, input_size=256)
    refused("learn_in_w=True", state, learn_in_w=True)
    refused("1 missing: encoder.latlayer2.bias", {k: v for k, v in state.items() if k != "latlayer2.bias"})
    refused("1 not known: encoder.extra.weight", state | {"extra.weight": torch.zeros(1)})
    refused("1 of another shape: encoder.styles.3.linear.bias", state | {"styles.3.linear.bias": torch.zeros(3)})
    refused("neither heads .* nor a last layer", {k: v for k, v in state.items() if "styles" not in k})
    refused("not whole", {k: v for k, v in state.items() if "body.1" not in k})
    refused("none of input_layer.0.weight, conv1.weight", {"mapping.fc0.weight": torch.zeros(2, 2)})
    refused("styles.0.linear.weight has shape", state | {"styles.0.linear.weight": torch.zeros(4)})
    refused("encoder_type 'BackboneEncoder' was given, but its tensors", state, encoder_type="BackboneEncoder")
    refused("'ResNetGradualStyleEncoder' was given", state, encoder_type="ResNetGradualStyleEncoder")
    refused("'MyEncoder' stands in its opts .known: Grad", content | {"opts": {"encoder_type": "MyEncoder"}})
    refused("latent_avg has 12 numbers, the codes have 16", content, latent_avg=torch.zeros(12))
    refused("latent_avg is a list", content | {"latent_avg": [1.0]})
    refused("3 different codes, expected 1 or 8", content, latent_avg=torch.randn(3, 16))
    refused("set, but it has no latent_avg", state, start_from_latent_avg=True)
    refused("takes 6 channels", state, kind="restyle", encoder_type="GradualStyleEncoder")
    refused("not tell ReStyle-pSp from ReStyle-e4e; give encoder_type=", bare(model_of(BACKBONE)), kind="restyle")
    refused("NaN or infinity", content, latent_avg=torch.full((16,), float("nan")))
    with pytest.raises(ValueError, match="unknown option n_iters_per_batch; it takes: n_styles"):
        from_published(state, "psp", n_iters_per_batch=2)
    with pytest.raises(UserError, match="without its decoder"):
        model_of(PYRAMID).render(torch.zeros(1, 8, 16))
    with pytest.raises(UserError, match="without its average code; give latent_avg="):
        model_of(BACKBONE, small_generator())(images())


@pytest.mark.parametrize("named", ["SingleStyleCodeEncoder", "BackboneEncoderUsingLastLayerIntoW", "WEncoder", None])
def test_an_encoder_of_one_code_is_read_whatever_its_project_calls_it(named):
    sizes = WPlusConfig("BackboneEncoderUsingLastLayerIntoW", 8, 16, trunk=IR_SE, average_rows=1)
    model = model_of(sizes, small_generator(32))
    content = released(model) if named is None else released(model, encoder_type=named)
    read = from_published(content, "e4e", strides=IR_SE.strides, input_size=IR_SE.input_size)
    assert read.config.encoder_type == "BackboneEncoderUsingLastLayerIntoW"
    torch.testing.assert_close(read(images()), model(images()))
    message = "'OneCode' stands in its opts .*; if that is what it is under another name, give encoder_type=Backbone"
    refused(message, released(model, encoder_type="OneCode"), kind="e4e")


# -------------------------------------------------------------------------------------- the decoder, and iterations


def test_the_decoder_draws_as_the_generator_it_was():
    generator = small_generator(32)
    model = model_of(replace(PYRAMID, average_rows=1), generator)
    read = from_published(released(model), "psp", strides=IR_SE.strides)
    ws = read(images())
    torch.testing.assert_close(read.render(ws), generator.synthesis(ws))
    torch.testing.assert_close(read.decoder.mapping.w_avg, model.latent_avg[0])
    assert read.published.config["generator"]["resolution"] == 32
    small = model_of(replace(PYRAMID, average_rows=1), small_generator(16))  # the published decoder ignores the rest
    assert from_published(released(small), "psp", strides=IR_SE.strides).render(ws).shape == (2, 3, 16, 16)
    large = model_of(replace(PYRAMID, average_rows=1), small_generator(64))
    refused("its encoder gives 8 codes of 16, its decoder takes 10 of 16", released(large))


def test_restyle_compares_with_the_average_image_and_then_with_what_it_drew():
    generator = small_generator(16)
    model = model_of(replace(BACKBONE, average_rows=6), generator)
    content = released(model, encoder_type="ResNetBackboneEncoder", n_iters_per_batch=3)
    read = from_published(content, "restyle", strides=RESNET.strides)
    x = images(size=32)
    drawn = generator.synthesis(model.latent_avg.unsqueeze(0)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(read.average_image(), drawn[0])
    ws, drawn = model.latent_avg.expand(2, -1, -1), drawn.expand(2, -1, -1, -1)
    for step in read.steps(x):
        ws = ws + model.encoder(torch.cat([x, drawn], dim=1))
        torch.testing.assert_close(step, ws)
        drawn = generator.synthesis(ws).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(read(x), ws)
