"""psp, e4e, restyle and hyperstyle as methods: their files, and what an Inversion of each holds."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import hyperinverter
from hyperinverter.config.checks import problems
from hyperinverter.config.report_schema import AnalyzeConfig
from hyperinverter.config.schema import (
    DataConfig,
    DomainConfig,
    EditConfig,
    EvaluateConfig,
    InterpolateConfig,
    InvertConfig,
    PhotosConfig,
    ProjectionConfig,
    RefineConfig,
    WeightsConfig,
)
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.directions import Direction, save_direction
from hyperinverter.editing.commands import edit_images, interpolate_images, invert_images
from hyperinverter.evaluation.analysis.command import analyze
from hyperinverter.evaluation.reconstructing import as_taken
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.inverters import load
from hyperinverter.pretrained.load import load_generator
from hyperinverter.pretrained.methods import PUBLISHED_METHODS, load_method, save_method
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import save_image


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_codes_are_the_networks_own(tiny_model, images):
    for method in ("psp", "e4e", "restyle"):
        inverter = load(tiny_model, method)
        inversion = inverter.invert(images)
        torch.testing.assert_close(inversion.ws, inverter.network(images))
        assert not inversion.has_weights and (inversion.ws[:, 0] != inversion.ws[:, 1]).any()
    assert inverter.settings() == {"n_iters": 2}
    torch.testing.assert_close(inverter.network.steps(images)[1], inversion.ws)


def test_hyperstyle_renders_weights_multiplied_by_one_plus_delta(tiny_model, images):
    inverter = load(tiny_model, "hyperstyle")
    inversion = inverter.invert(images)
    output = inverter.network(images)
    assert inversion.residuals.keys() == output.deltas.keys() and "b8.torgb.weight" not in inversion.residuals
    drawn = inverter.render(inversion)
    for i in range(2):
        tuned = load_generator(tiny_model)
        for name, parameter in tuned.synthesis.named_parameters():
            if name in output.deltas:
                parameter.data.mul_(1 + output.deltas[name][i])
        torch.testing.assert_close(drawn[i], tuned.synthesis(inversion.ws[i : i + 1])[0], atol=1e-5, rtol=1e-4)
    plain = inverter.render(inversion.without_weights())
    assert (drawn - plain).abs().max() > 1e-3
    torch.testing.assert_close(plain, load(tiny_model, "psp").render(inversion.without_weights()))


def test_dense_residuals_interpolate_and_survive_a_file(tiny_model, images, tmp_path):
    inverter = load(tiny_model, "hyperstyle")
    first, last = inverter.invert(images)
    middle = first.interpolate(last, 0.5)
    middle.save(tmp_path / "middle.safetensors")
    again = hyperinverter.Inversion.load(tmp_path / "middle.safetensors")
    torch.testing.assert_close(inverter.render(again), inverter.render(middle))


@pytest.mark.parametrize("method", PUBLISHED_METHODS)
def test_a_methods_file_names_its_generator_and_where_it_comes_from(method, tiny_model, other_tiny_model, tmp_path):
    other = shutil.copytree(other_tiny_model, tmp_path / "micro")
    (other / f"{method}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {method}.safetensors; make it .*scripts/convert.py FILE "):
        load(other, method)
    shutil.copy(tiny_model / f"{method}.safetensors", other)
    with pytest.raises(UserError, match=rf"this {method} was trained for generator \w+, this is generator"):
        load(other, method)
    shutil.copy(tiny_model / "psp.safetensors", other / "restyle.safetensors")
    with pytest.raises(UserError, match="holds a psp, but a restyle is needed"):
        load(other, "restyle")


def test_a_domain_names_the_folder(tiny_model, images):
    domain = hyperinverter.load(tiny_model).domain
    named = DomainConfig(**{**vars(domain), "weights": WeightsConfig(folder=str(tiny_model))})
    torch.testing.assert_close(load(named, "e4e").invert(images).ws, load(tiny_model, "e4e").invert(images).ws)


def test_files_survive_half_precision_and_refuse_what_cannot_invert(tiny_model, tmp_path, images):
    loaded = load_method(tiny_model, "hyperstyle")
    folder = tmp_path / "half"
    shutil.copytree(tiny_model, folder)
    about = {"method": "hyperstyle", "domain": "micro", "generator_hash": loaded.hashes["generator"]}
    digest = save_method(folder / "hyperstyle.safetensors", loaded.method, **about, half=True)
    again = load_method(folder, "hyperstyle")
    assert again.hashes["hyperstyle"] == digest != loaded.hashes["hyperstyle"] and again.hash != loaded.hash
    torch.testing.assert_close(again.method(images).ws, loaded.method(images).ws, atol=0.01, rtol=0)
    loaded.method.w_encoder = None
    with pytest.raises(UserError, match=r"has no W encoder or no average code, .* w_encoder=FILE"):
        save_method(folder / "hyperstyle.safetensors", loaded.method, **about)
    with pytest.raises(ValueError, match="write one of psp, e4e, restyle, hyperstyle"):
        save_method(folder / "x.safetensors", loaded.method, **{**about, "method": "w_encoder"})


@pytest.mark.parametrize("method", PUBLISHED_METHODS)
@pytest.mark.parametrize(("photo_px", "wide"), [(40, False), (12, False), (40, True)])
def test_a_photo_is_resized_once_from_its_file_to_the_networks_input(method, photo_px, wide, tiny_model, tmp_path):
    """Issue 17, 8b: not to the generator's resolution first, which blurs photos smaller than that (here 16 px)."""
    size = (photo_px * 4 // 3, photo_px) if wide else (photo_px, photo_px)
    torch.manual_seed(0)
    save_image(torch.rand(3, size[1], size[0]) * 2 - 1, tmp_path / "photo.png")
    inverter, seen = load(tiny_model, method), []
    names = ["hypernet", "w_encoder"] if method == "hyperstyle" else ["encoder"]
    for network in map(inverter.network.get_submodule, names):
        network.input_shape = (6, 8) if wide else (8, 8)
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :3]))
    assert inverter.input_shape == network.input_shape
    inverter.invert(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as photo:
        published = np.asarray(photo.resize(inverter.input_shape[::-1], Image.Resampling.BILINEAR), np.float32)
    expected = torch.from_numpy(published / 127.5 - 1).permute(2, 0, 1)[None]
    for given in seen:
        torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)
    batches = Batches(open_source(tmp_path), inverter.resolution)
    photos, names = next(batches.in_order(1))
    torch.testing.assert_close(as_taken(inverter, batches, photos, names), expected, atol=1e-6, rtol=0)


def test_methods_of_the_paper_see_the_photo_at_the_generators_resolution(tiny_model, tmp_path):
    save_image(torch.rand(3, 40, 40) * 2 - 1, tmp_path / "photo.png")
    batches = Batches(open_source(tmp_path), 16)
    photos, names = next(batches.in_order(1))
    for method in ("w_encoder", "hyperinverter"):
        inverter = load(tiny_model, method)
        assert inverter.input_shape == (16, 16) and as_taken(inverter, batches, photos, names) is photos


def test_evaluation_takes_them(tiny_model, tmp_path):
    config = EvaluateConfig(
        model=str(tiny_model),
        data=DataConfig(kind="generated", num_generated=2),
        methods=list(PUBLISHED_METHODS),
        metrics=["l2"],
        output=str(tmp_path),
        device="cpu",
        time_batch_size=1,
        time_repeats=1,
        sheet_rows=1,
    )
    assert set(evaluate(config)["methods"]) == set(PUBLISHED_METHODS)


@pytest.mark.parametrize("method", ["psp", "hyperstyle", "sg2"])
def test_every_command_takes_them(method, tiny_model, tmp_path):
    """Photos of another size than the encoder's, resized once from their files."""
    changes = method == "hyperstyle"
    torch.manual_seed(0)
    for name in ("a.png", "b.png"):
        save_image(torch.rand(3, 20, 20) * 2 - 1, tmp_path / name)
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    generator_hash = load(folder, method).generator_hash
    save_direction(Direction("up", torch.ones(16), {}, generator_hash), folder / "directions" / "up.safetensors")
    roots = [str(tmp_path / name) for name in ("a.png", "b.png")]
    common = {"model": str(folder), "method": method, "data": PhotosConfig(root=roots), "device": "cpu"}
    common |= {"projection": ProjectionConfig(steps=2), "output": str(tmp_path / "out")}
    inverted = invert_images(InvertConfig(**common))["images"]
    assert [set(image) >= {"l2"} and ("l2_of_code" in image) == changes for image in inverted] == [True, True]
    saved = hyperinverter.Inversion.load(tmp_path / "out" / "a.safetensors")
    expected = load(folder, method, projection=ProjectionConfig(steps=2)).invert(tmp_path / "a.png")
    torch.testing.assert_close(saved.ws, expected.ws, atol=1e-5, rtol=0)
    edit_images(EditConfig(**common, directions=["up"], strengths=[1.0]))
    edited = hyperinverter.Inversion.load(tmp_path / "out" / "a" / "up_+1.safetensors")
    torch.testing.assert_close(edited.ws, expected.ws + 0.25, atol=1e-5, rtol=0)
    interpolate_images(InterpolateConfig(**common, steps=2))
    assert (tmp_path / "out" / "codes_and_weights.gif").exists() == changes
    assert json.loads((tmp_path / "out" / "interpolate.json").read_text())["method"] == method
    if method != "sg2":
        figures = ["weight_changes", "interpolation"]
        found = analyze(
            AnalyzeConfig(
                model=str(folder),
                method=method,
                data=DataConfig(root=roots),
                figures=figures,
                pairs=1,
                steps=2,
                output=str(tmp_path / "figures"),
                device="cpu",
            )
        )
        assert list(found) == figures[not changes :]


def test_what_a_method_cannot_do_is_said_before_any_work(tiny_model):
    config = InvertConfig(method="pti", precision="bf16", resolution=8, refine=RefineConfig(steps=3))
    found = {problem.keys[0]: problem.message for problem in problems(config)}
    assert found.keys() == {"precision", "resolution", "refine.steps"}
    assert "pti optimise for every image" in found["precision"]
    assert not list(problems(replace(config, method="w_encoder")))
    (problem,) = problems(EvaluateConfig(methods=["psp", "sg2"], compile=True))
    assert problem.keys == ("compile", "methods") and "sg2 optimise" in problem.message
    assert not list(problems(EvaluateConfig(methods=["psp", "w_encoder"], refine=RefineConfig(steps=3))))


def test_all_missing_methods_are_named_at_once_before_a_photo_is_read(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "micro")
    for method in ("psp", "e4e"):
        (folder / f"{method}.safetensors").unlink()
    config = EvaluateConfig(
        model=str(folder), data=DataConfig(kind="generated"), methods=["w_encoder", *PUBLISHED_METHODS], device="cpu"
    )
    with pytest.raises(FileNotFoundError) as refusal:
        evaluate(config)
    for method in ("psp", "e4e"):
        assert f"has no {method}.safetensors; make it with: python scripts/train_encoder.py" in str(refusal.value)
        assert f"method={method}" in str(refusal.value)
    assert "restyle" not in str(refusal.value)


def test_a_domain_names_files_of_several_methods_trained_apart(tiny_model, tmp_path, images):
    """As evaluate takes them beside each other: domain.weights.psp=FILE domain.weights.e4e=FILE."""
    bare = tmp_path / "micro"
    bare.mkdir()
    for part in ("generator", "w_encoder"):
        shutil.copy(tiny_model / f"{part}.safetensors", bare)
    files = {method: shutil.copy(tiny_model / f"{method}.safetensors", tmp_path) for method in ("psp", "hyperstyle")}
    domain = load(tiny_model, "psp").domain
    domain = replace(domain, weights=WeightsConfig(folder=str(bare), **{k: str(v) for k, v in files.items()}))
    for method in files:
        torch.testing.assert_close(load(domain, method).invert(images).ws, load(tiny_model, method).invert(images).ws)
    with pytest.raises(FileNotFoundError, match=r"has no e4e.safetensors"):
        load(domain, "e4e")
    with pytest.raises(FileNotFoundError, match=r"domain.weights.e4e: .*no such file"):
        load(replace(domain, weights=replace(domain.weights, e4e="gone.safetensors")), "e4e")
