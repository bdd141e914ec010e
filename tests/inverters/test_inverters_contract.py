"""What every method in INVERTERS promises: load, invert any kind of image, render, save, refuse foreign Inversions."""

import numpy as np
import pytest
import torch
from PIL import Image

import hyperinverter
from hyperinverter.config.schema import ProjectionConfig
from hyperinverter.inverters import INVERTERS
from hyperinverter.inverters import load as load_method
from hyperinverter.utils.errors import UserError

FEW_STEPS = ProjectionConfig(steps=2, tuning_steps=1)


def load(source, method="hyperinverter"):
    """Any method, those that optimise with few steps."""
    return load_method(source, method, projection=FEW_STEPS)


@pytest.fixture(scope="module", params=list(INVERTERS))
def inverter(request, tiny_model):
    return load(tiny_model, request.param)


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_a_batch_equals_its_images_one_by_one(inverter, images):
    together = inverter.invert(images, batch_size=4)
    singly = [inverter.invert(image) for image in images]
    for i, one in enumerate(singly):
        torch.testing.assert_close(one.ws, together[i].ws, atol=1e-4, rtol=0)
        for part in ("tokens", "residuals"):
            for name, value in (getattr(one, part) or {}).items():
                torch.testing.assert_close(value, getattr(together[i], part)[name], atol=1e-4, rtol=0)
    rendered = torch.cat([inverter.render(one) for one in singly])
    torch.testing.assert_close(rendered, inverter.render(together, batch_size=3), atol=1e-4, rtol=0)
    half = torch.nn.functional.avg_pool2d(rendered, 2)
    torch.testing.assert_close(inverter.render(together, resolution=rendered.shape[-1] // 2), half, atol=1e-4, rtol=0)
    assert not together.ws.requires_grad and rendered.shape == images.shape


def test_a_saved_inversion_renders_to_the_same_image(inverter, images, tmp_path, tiny_model):
    inversion = inverter.invert(images[:3])
    assert (inversion.model_name, inversion.model_hash) == ("micro", inverter.model_hash)
    inversion.save(tmp_path / "x.safetensors")
    again = load(tiny_model, inverter.name).render(hyperinverter.Inversion.load(tmp_path / "x.safetensors"))
    torch.testing.assert_close(again, inverter.render(inversion), atol=1e-5, rtol=0)


def test_prepared_weights_give_the_same_images_and_go_with_edits_and_slices(inverter, images, tmp_path):
    inversion = inverter.invert(images[:3])
    prepared = inverter.prepare(inversion)
    moved = inversion.ws + 0.1 * torch.randn_like(inversion.ws)
    for one, other in (
        (prepared, inversion),
        (prepared[1], inversion[1]),
        (prepared.with_ws(moved)[1:], inversion.with_ws(moved)[1:]),
    ):
        assert one.prepared is not None
        for batch_size in (1, 4):
            rendered = inverter.render(one, batch_size=batch_size)
            torch.testing.assert_close(rendered, inverter.render(other), atol=1e-5, rtol=0)
    changed = [
        prepared.without_weights(),
        prepared.interpolate(prepared, 0.5),
        type(prepared).cat([prepared, prepared]),
    ]
    assert all(one.prepared is None for one in changed)
    prepared.save(tmp_path / "x.safetensors")
    assert hyperinverter.Inversion.load(tmp_path / "x.safetensors").prepared is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_float32_results_near_those_of_fp32(inverter, images, tiny_model, precision):
    if inverter.optimises:
        with pytest.raises(UserError, match=f"method {inverter.name} optimises for every image"):
            load_method(tiny_model, inverter.name, precision=precision)
        return
    fast = load_method(tiny_model, inverter.name, precision=precision)
    inversion = fast.invert(images[:2])
    values = [inversion.ws, *(inversion.tokens or inversion.residuals or {}).values(), fast.render(inversion)]
    assert {value.dtype for value in values} == {torch.float32}
    expected = inverter.render(inverter.invert(images[:2]))
    assert (fast.render(inversion) - expected).abs().mean() < 0.02 * expected.abs().mean()
    torch.testing.assert_close(fast.render(fast.prepare(inversion)), fast.render(inversion), atol=1e-5, rtol=0)


def test_any_kind_of_image_is_taken(inverter, images, tmp_path):
    pixels = (np.random.default_rng(0).random((16, 16, 3)) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    expected = inverter.invert(torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1).ws
    for given in (picture, [picture], tmp_path / "a.png", str(tmp_path / "a.png"), [tmp_path / "a.png"], tmp_path):
        torch.testing.assert_close(inverter.invert(given).ws, expected, atol=1e-5, rtol=0)
    assert len(inverter.invert([picture, tmp_path / "a.png", images[0]])) == 3
    assert inverter.invert(torch.zeros(1, 3, 40, 40)).ws.shape == inverter.invert(images[:1]).ws.shape


def test_every_kind_is_turned_cropped_and_laid_over_white_as_a_file_is(inverter, tmp_path):
    """The same picture as file, as PIL image and as tensor: upright, the middle square, transparent parts white."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    for name in ("turned.png", "clear.png"):
        expected = inverter.invert(tmp_path / name).ws
        torch.testing.assert_close(inverter.invert(Image.open(tmp_path / name)).ws, expected)
    middle = torch.from_numpy(np.array(turned)[:, 4:20]).permute(2, 0, 1) / 127.5 - 1
    wide = torch.from_numpy(np.array(turned)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(inverter.invert(wide).ws, inverter.invert(middle).ws)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(1, 1, 16, 16), r"shape \(1, 1, 16, 16\); expected \[N, 3, H, W\]"),
        (torch.zeros(0, 3, 16, 16), "with N at least 1"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "divide by 127.5"),
        (torch.full((1, 3, 16, 16), 200.0), r"lie in \[200, 200\]; expected \[-1, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), "finite"),
        ([], "give a tensor"),
        (7, "images is int"),
    ],
)
def test_bad_images_are_refused(inverter, given, message):
    with pytest.raises(ValueError, match=message):
        inverter.invert(given)


def test_another_models_inversion_is_refused_unless_allowed(inverter, images, other_tiny_model):
    other = load(other_tiny_model, inverter.name)
    inversion = other.invert(images[:1])
    with pytest.raises(UserError) as error:
        inverter.render(inversion)
    mine, foreign = ((x.model_hash if inversion.tokens else x.generator_hash) for x in (inverter, other))
    assert mine in str(error.value) and foreign in str(error.value)
    assert inverter.render(inversion, allow_other_model=True).shape == (1, 3, 16, 16)
    inversion.ws = inversion.ws[:, :, :8]
    inversion.tokens = None
    with pytest.raises(UserError, match=r"has styles \(6, 8\)"):
        inverter.render(inversion, allow_other_model=True)


def test_codes_need_only_the_generator_and_tokens_need_the_hypernetworks(tiny_model, images):
    both, phase1 = load(tiny_model), load(tiny_model, "w_encoder")
    inversion = both.invert(images[:2])
    torch.testing.assert_close(phase1.invert(images[:2]).ws, inversion.ws)
    codes = inversion.without_weights()
    torch.testing.assert_close(phase1.render(codes), both.render(codes))
    torch.testing.assert_close(both.render(phase1.invert(images[:2])), both.render(codes))
    assert (both.render(inversion) - both.render(codes)).abs().mean() > 0.01
    with pytest.raises(UserError, match="need the hypernetworks"):
        phase1.render(inversion, allow_other_model=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the compiler is slow
def test_compiled_networks_give_the_same_images(tiny_model, images):
    plain, compiled = load(tiny_model), load_method(tiny_model, compile=True)
    inversion = compiled.invert(images[:2])
    torch.testing.assert_close(inversion.ws, plain.invert(images[:2]).ws, atol=1e-5, rtol=0)
    torch.testing.assert_close(compiled.render(inversion), plain.render(inversion), atol=1e-4, rtol=0)


def test_dense_residuals_of_the_tokens_render_alike(tiny_model, images):
    model = load(tiny_model)
    inversion = model.invert(images[:2])
    with torch.no_grad():
        dense = hyperinverter.Inversion(
            inversion.ws,
            residuals=model.network.hypernetwork.decode(inversion.tokens),
            generator_hash=model.generator_hash,
        )
    torch.testing.assert_close(model.render(dense), model.render(inversion))


def test_the_public_names_are_lazy_and_complete(tiny_model):
    assert hyperinverter.load(tiny_model).name == "hyperinverter"
    with pytest.raises(ValueError, match="write one of hyperinverter, w_encoder"):
        hyperinverter.load(tiny_model, method="no_such_method")
    with pytest.raises(ValueError, match="precision is 'half'; write one of fp32, bf16, fp16"):
        hyperinverter.load(tiny_model, precision="half")
    with pytest.raises(UserError, match="device is 'gpu'"):
        hyperinverter.load(tiny_model, device="gpu")
    with pytest.raises(AttributeError):
        _ = hyperinverter.no_such_name
