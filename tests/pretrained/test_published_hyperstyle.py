"""HyperStyle as released. No recorded outputs exist: its blocks are held against index formulas written out here."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from as_published import to_rosinality
from torch import Tensor

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.hyperstyle import HyperStyle, HyperStyleConfig
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers, target_names
from hyperinverter.models.wplus import WPlusConfig, WPlusModel
from hyperinverter.models.wplus.model import pooled
from hyperinverter.published import from_published
from hyperinverter.published.reading import files
from hyperinverter.published.rosinality import read_generator
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import skip_init

TRUNK = EncoderConfig(
    trunk="resnet",
    input_size=32,
    stem_width=4,
    widths=[4, 8, 12, 16],
    depths=[1] * 4,
    strides=[1, 1, 2, 1],
    stem_stride=2,
)
GIVEN = {"strides": TRUNK.strides}  # the only size of this small trunk that is not the published one
# Layer number -> kernel, input and output channels of the 1024 px generator (yuval-alaluf/hyperstyle).
PUBLISHED_LAYERS = {
    **{i: (1 if i % 3 == 1 else 3, 512, 3 if i % 3 == 1 else 512) for i in range(14)},
    14: (3, 512, 256),
    15: (3, 256, 256),
    16: (1, 256, 3),
    17: (3, 256, 128),
    18: (3, 128, 128),
    19: (1, 128, 3),
    20: (3, 128, 64),
    21: (3, 64, 64),
    22: (1, 64, 3),
    23: (3, 64, 32),
    24: (3, 32, 32),
    25: (1, 32, 3),
}
PUBLISHED_TUNED = [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24]
PUBLISHED_SHARED = [0, 2, 3, 5, 6, 8, 9, 11, 12]


def small(seed: int = 0, **changes: object) -> tuple[HyperStyle, Generator]:
    """A random HyperStyle around a random 32 px generator of 16, 16, 16 and 8 channels; 9 layers are predicted."""
    torch.manual_seed(seed)
    generator = Generator(resolution=32, z_dim=16, w_dim=16, channel_base=256, channel_max=16, mapping_layers=2)
    layers = target_layers(generator)
    numbers = [0, 1, 2, 3, 5, 6, 8, 9, 10]  # with two toRGB, without three others
    sizes = {
        "resolution": 32,
        "shapes": {i: layers[i].shape for i in numbers},
        "shared": [0, 2, 3, 5],
        "trunk": TRUNK,
        "shared_width": 5,
        "width": 6,
        "code_size": 7,
        "token_size": 7,
        "shared_rows": 16,
        "shared_columns": 16 * 9,
        "w_dim": 16,
        "average_rows": 1,
        "n_iters": 2,
        "w_encoder": WPlusConfig("BackboneEncoderUsingLastLayerIntoW", 8, 16, trunk=replace(TRUNK, trunk="ir_se")),
    }
    model = HyperStyle(HyperStyleConfig(**sizes | changes), generator)
    model.latent_avg.normal_()
    return model.eval().requires_grad_(False), generator.eval().requires_grad_(False)


def released(model: HyperStyle, generator: Generator) -> dict:
    """A checkpoint as published: the shared matrices once more below every block that uses them, no encoder."""
    state = {f"hypernet.{name}": value.clone() for name, value in model.hypernet.state_dict().items()}
    for number in model.config.shared:
        for name in ("w1", "b1", "w2", "b2"):
            shared = state[f"hypernet.shared_weight_hypernet.{name}"]
            state[f"hypernet.refinement_blocks.{number}.hypernet.{name}"] = shared
    state |= {f"decoder.{name}": value for name, value in to_rosinality(generator)["g_ema"].items()}
    opts = {"dataset_type": "ffhq_encode", "n_iters_per_batch": 2, "output_size": 32}
    average = model.latent_avg.expand(generator.num_ws, -1)
    return {
        "state_dict": state,
        "latent_avg": average,
        "opts": opts,
        "global_step": 7,
        "best_val_loss": torch.tensor(1.0),
    }


def w_encoder(model: HyperStyle) -> dict:
    return {"state_dict": {f"encoder.{name}": value for name, value in model.w_encoder.state_dict().items()}}


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ------------------------------------------------------------------------------------------------------- the reader


@pytest.mark.parametrize("separable", [False, True])
def test_every_key_is_used_or_named_and_every_size_is_read_off(separable):
    model, generator = small(separable=separable)
    content = released(model, generator)
    encoder = from_published(w_encoder(model), "w_encoder", strides=TRUNK.strides, input_size=32)
    read = from_published(content, "hyperstyle", w_encoder=encoder, **GIVEN)
    assert read.config == replace(model.config, average_rows=8)
    repeated = {key for key in content["state_dict"] if ".hypernet." in key}
    assert len(repeated) == 16 and repeated <= set(read.published.ignored)
    assert set(read.published.ignored) - repeated == {"opts", "global_step", "best_val_loss"}
    torch.testing.assert_close(read(images()).ws, model(images()).ws)
    torch.testing.assert_close(read(images()).deltas, model(images()).deltas)
    again = HyperStyleConfig.from_json(json.loads(json.dumps(read.published.config["hyperstyle"])))
    assert again == read.config


@pytest.mark.parametrize("separable", [False, True])
def test_the_hypernetwork_alone_tells_layers_and_shapes(separable):
    """Without the decoder: resolution from the last layer's number, conv0's shape from conv1 of its block."""
    model, generator = small(separable=separable)
    state = released(model, generator)["state_dict"]
    bare = {key.removeprefix("hypernet."): value for key, value in state.items() if key.startswith("hypernet.")}
    read = from_published(bare, "hyperstyle", output_size=32, **GIVEN)
    assert read.config.shapes == {i: tuple(shape) for i, shape in model.config.shapes.items()}
    assert (read.decoder, read.w_encoder, read.latent_avg) == (None, None, None)
    six = torch.cat([images(), images().flip(0)], dim=1)
    torch.testing.assert_close(read.hypernet(six), model.hypernet(six))


@pytest.mark.parametrize("layout", ["whole", "without decoder", "module.", "state dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_stores_the_shared_hypernetwork_once_is_read(layout, zipped, tmp_path, monkeypatch):
    """As published: the shared matrices outweigh the rest, so that name by name it is several times the file."""
    monkeypatch.setattr(files, "SPARE_BYTES", 0)
    model, generator = small(token_size=256, code_size=256, shared_columns=16, shared=[0, 2, 3, 5, 6])
    content = released(model, generator)
    if layout == "without decoder":
        content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("decoder.")}
    if layout == "module.":
        content["state_dict"] = {f"module.{key}": value for key, value in content["state_dict"].items()}
    saved = content["state_dict"] if layout == "state dict" else content
    torch.save(saved, tmp_path / "hyperstyle.pt", _use_new_zipfile_serialization=zipped)
    by_name = sum(value.nbytes for value in content["state_dict"].values())
    assert by_name > 4 * (tmp_path / "hyperstyle.pt").stat().st_size
    given = {"output_size": 32} if layout == "without decoder" else {}
    given |= {"latent_avg": model.latent_avg} if layout == "state dict" else {}
    read = from_published(tmp_path / "hyperstyle.pt", "hyperstyle", **GIVEN, **given)
    six = torch.cat([images(), images().flip(0)], dim=1)
    torch.testing.assert_close(read.hypernet(six), model.hypernet(six))


def test_either_name_of_a_shared_matrix_is_enough():
    """Formats that refuse shared memory (safetensors) keep one of them, not always the first."""
    model, generator = small()
    content = released(model, generator)
    for key in [key for key in content["state_dict"] if key.startswith("hypernet.shared_weight_hypernet.")]:
        del content["state_dict"][key]
    read = from_published(content, "hyperstyle", **GIVEN)
    torch.testing.assert_close(read.hypernet.state_dict(), model.hypernet.state_dict())


def test_what_does_not_fit_is_refused_by_name():
    model, generator = small()
    content = released(model, generator)

    def refused(message: str, change: dict | None = None, drop: str = "", **given: object) -> None:
        state = {key: value for key, value in content["state_dict"].items() if key != drop} | (change or {})
        with pytest.raises(UserError, match=message):
            from_published({**content, "state_dict": state}, "hyperstyle", **GIVEN | given)

    refused(
        "refinement_blocks.3.hypernet.w1 differs", {"hypernet.refinement_blocks.3.hypernet.w1": torch.zeros(7, 144)}
    )
    refused("1 missing: .*convs.2.bias", drop="hypernet.refinement_blocks.9.convs.2.bias")
    refused("1 not known: hypernet.extra", {"hypernet.extra": torch.zeros(1)})
    refused("1 keys are not known: other.weight", {"other.weight": torch.zeros(1)})
    refused("reads 3 channels, expected 6", {"hypernet.conv1.weight": torch.zeros(4, 3, 7, 7)})
    refused("layers_to_tune='0,2'.*'0,1,2,3,5,6,8,9,10'", layers_to_tune="0,2")
    refused("output_size=64.*say 32", output_size=64)
    refused("encoder_type='SharedWeightsHyperNetResNetSeparable'", encoder_type="SharedWeightsHyperNetResNetSeparable")
    refused("n_iters_per_batch is 0", n_iters_per_batch=0)
    with pytest.raises(ValueError, match="unknown option n_iter;"):
        from_published(content, "hyperstyle", n_iter=3)
    read = from_published(content, "hyperstyle", **GIVEN)
    with pytest.raises(UserError, match=r"without the encoder of the first codes; give w_encoder=FILE"):
        read(images())
    assert read(images(), ws=torch.zeros(2, 8, 16)).deltas.keys() == model(images()).deltas.keys()
    with pytest.raises(UserError, match="latent_avg has 3 different codes, expected 1 or 8"):
        from_published({**content, "latent_avg": torch.randn(3, 16)}, "hyperstyle", **GIVEN)


# ---------------------------------------------------------------------------------------- what the networks compute


def test_layers_are_numbered_as_published():
    with skip_init():
        layers = target_layers(Generator(resolution=1024))
    found = {i: (layer.shape[-1], layer.shape[1], layer.shape[0]) for i, layer in enumerate(layers)}
    assert found == PUBLISHED_LAYERS
    assert [len(target_names(size, "conv_without_bias")) for size in (256, 512, 1024)] == [20, 23, 26]


def test_the_released_size_has_the_parameters_that_the_published_layers_add_up_to():
    trunk = EncoderConfig(trunk="resnet", depths=[3, 4, 6, 3], strides=[1, 2, 2, 2], stem_stride=2)
    shapes = {i: (o, n, k, k) for i, (k, n, o) in PUBLISHED_LAYERS.items() if i in PUBLISHED_TUNED}
    with skip_init():
        model = HyperStyle(HyperStyleConfig(1024, shapes, PUBLISHED_SHARED, trunk=trunk))

    def conv(n: int, o: int) -> int:
        return 9 * n * o + o

    resnet34 = 21_284_672 + 64 * 3 * 49 + 64  # without its last layer, with three more input channels and PReLU
    matrices = 512 * 4608 + 4608 + 512 * 512**2 + 512**2
    shared = conv(512, 128) + 3 * conv(128, 128) + conv(128, 512) + 512**2 + 512
    others = [shape for i, shape in shapes.items() if i not in PUBLISHED_SHARED]
    own = [conv(512, 256) + conv(256, 256) + conv(256, 512) + 513 * o * n for o, n, *_ in others]
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == resnet34 + matrices + 9 * shared + sum(own) == 332_664_896
    convs = [name for name in model.state_dict() if name.startswith("hypernet.refinement_blocks.0.convs.")]
    assert [name.split(".")[4] for name in convs[::2]] == ["0", "2", "4", "6", "8"]
    assert model.state_dict()["hypernet.refinement_blocks.14.output.1.weight"].shape == (256 * 512, 512, 1, 1)


@torch.no_grad()
def test_the_shared_hypernetworks_product_is_read_anew_not_permuted():
    model, _ = small()
    hypernet, code = model.hypernet.shared_weight_hypernet, torch.randn(1, 7)
    product = (code @ hypernet.w2 + hypernet.b2).view(16, 7) @ hypernet.w1 + hypernet.b1  # [I, O k k]
    kernel = hypernet(code, (16, 16, 3, 3))[0]
    for o, i, kh, kw in [(0, 0, 0, 0), (0, 1, 2, 1), (5, 3, 1, 2), (15, 15, 2, 2)]:
        flat = ((o * 16 + i) * 3 + kh) * 3 + kw
        assert kernel[o, i, kh, kw] == product[flat // 144, flat % 144]


@torch.no_grad()
def test_a_separable_kernel_is_a_product_per_tap_behind_two_linear_layers():
    model, _ = small(separable=True)
    kernel = model.hypernet.refinement_blocks["9"].output[0]  # b32.conv1, 8 channels
    code = torch.randn(1, 7, 1, 1)
    over_in = kernel.make_kernel_in(code.view(1, 7)).view(9, 8)
    over_out = kernel.make_kernel_out(code.view(1, 7)).view(9, 8)
    a, b = kernel.kernel_linear_in, kernel.kernel_linear_out
    made = kernel(code)[0]
    for o, i, tap in [(0, 0, 0), (3, 5, 4), (7, 1, 8)]:
        rows = over_out[tap].outer(over_in[tap]) @ a.weight.t() + a.bias  # [O, I]
        expected = (b.weight[o] @ rows[:, i]) + b.bias[o]
        torch.testing.assert_close(made[o, i, tap // 3, tap % 3], expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_other_blocks_give_one_factor_per_pair_of_channels():
    model, _ = small()
    features = torch.randn(1, 16, 8, 8)
    block = model.hypernet.refinement_blocks["8"]  # b32.conv0, 16 to 8 channels
    x = features
    for conv in (block.convs[0], block.convs[2]):  # 8 -> 4 -> 2 px, then the mean
        x = F.leaky_relu(F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1), 0.01)
    factors = (block.output[1].weight[:, :, 0, 0] @ x.mean(dim=(2, 3))[0] + block.output[1].bias).view(8, 16)
    torch.testing.assert_close(block(features)[0], factors[:, :, None, None].expand(8, 16, 3, 3))
    assert model.hypernet.refinement_blocks["1"](features).shape == (1, 3, 16, 1, 1)


@torch.no_grad()
def test_residuals_are_factors_on_the_stored_weights():
    """weight * delta image by image equals a generator whose published weights were multiplied by 1 + delta."""
    model, generator = small()
    output = model(images())
    drawn = generator.synthesis(output.ws, model.residuals(output.deltas))
    published = {name: value.clone() for name, value in to_rosinality(generator)["g_ema"].items()}
    names = {"b4.conv1": "conv1", "b4.torgb": "to_rgb1"}
    for j, size in enumerate((8, 16, 32)):
        names |= {f"b{size}.conv{c}": f"convs.{2 * j + c}" for c in (0, 1)} | {f"b{size}.torgb": f"to_rgbs.{j}"}
    for i in range(2):
        edited = dict(published)
        for name, delta in output.deltas.items():
            key = f"{names[name.removesuffix('.weight')]}.conv.weight"
            edited[key] = published[key] * (1 + delta[i : i + 1])
        tuned, _ = read_generator({"g_ema": edited, "latent_avg": torch.zeros(16)}, "edited", {})
        torch.testing.assert_close(drawn[i], tuned.synthesis(output.ws[i : i + 1])[0], atol=2e-5, rtol=1e-4)
    assert (drawn - generator.synthesis(output.ws)).abs().max() > 1e-3


@torch.no_grad()
def test_every_iteration_adds_to_the_deltas_and_compares_with_what_they_draw():
    model, generator = small(n_iters=3)
    x = images()
    ws = (model.w_encoder(x) + model.latent_avg).unsqueeze(1).expand(-1, 8, -1)
    drawn, total = generator.synthesis(ws), None
    for _ in range(3):
        deltas = model.hypernet(torch.cat([x, drawn], dim=1))
        total = deltas if total is None else {name: total[name] + deltas[name] for name in deltas}
        drawn = generator.synthesis(ws, model.residuals(total))
    output = model(x)
    torch.testing.assert_close(output.ws, ws)
    torch.testing.assert_close(output.deltas, total)


def test_car_models_see_the_middle_rows_of_a_square_image():
    model, _ = small(wide=True)
    assert model.hypernet.input_shape == (24, 32)
    square = torch.arange(32.0).view(1, 1, 32, 1).expand(1, 3, 32, 32)
    assert torch.equal(pooled(square, (24, 32))[0, 0, :, 0], torch.arange(4.0, 28.0))
    assert isinstance(model.w_encoder, torch.nn.Module) and not isinstance(model.w_encoder, WPlusModel)
    assert model(images()).ws.shape == (2, 8, 16)
