"""SG2, SG2 W+ and PTI: what each changes, what it measures with, and what is written down about it."""

import json

import pytest
import torch
from PIL import Image, PngImagePlugin
from rulers import SquaredDistance

from hyperinverter.config.schema import DataConfig, DomainConfig, EvaluateConfig, ProjectionConfig, WeightsConfig
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.perceptual import Lpips, LpipsVgg
from hyperinverter.inverters import Inversion, load
from hyperinverter.inverters.optimising import ProjectorInverter, PtiInverter, WPlusProjectorInverter, tune_generator
from hyperinverter.inverters.perceptual import DOWNLOADED, find_perceptual
from hyperinverter.models.build import build_generator
from hyperinverter.utils.errors import UserError


@pytest.fixture
def image():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(scope="module")
def generator(tiny_domain):
    torch.manual_seed(0)
    return build_generator(tiny_domain).eval()


def pixels(images):
    return images.flatten(1) / images[0].numel() ** 0.5


def test_published_numbers_unless_told_otherwise(tiny_model):
    found = {cls.name: (cls.space, cls.steps) for cls in (ProjectorInverter, WPlusProjectorInverter, PtiInverter)}
    assert found == {"sg2": ("w", 600), "sg2_plus": ("w_plus", 2000), "pti": ("w", 450)}
    pti = load(tiny_model, "pti")
    assert (pti.tuning_steps, pti.tuning_learning_rate, pti.lpips_threshold) == (350, 3e-4, 0.06)
    assert (pti.l2_lambda, pti.lpips_lambda, pti.w_avg_samples) == (1.0, 1.0, 600)
    assert ProjectionConfig() == ProjectionConfig(None, None, "auto", "auto", 0)
    told = load(tiny_model, "pti", projection=ProjectionConfig(steps=7, tuning_steps=5, seed=2)).settings()
    assert (told["steps"], told["tuning_steps"], told["seed"]) == (7, 5, 2)


def test_codes_are_equal_in_w_and_differ_in_w_plus(tiny_model, image):
    rows = {}
    for method in ("sg2", "sg2_plus"):
        inversion = load(tiny_model, method, projection=ProjectionConfig(steps=8)).invert(image)
        rows[method] = len(inversion.ws[0].unique(dim=0))
        assert not inversion.has_weights
    assert rows == {"sg2": 1, "sg2_plus": 6}


def test_more_steps_come_closer_and_tuning_closer_still(tiny_model, image):
    def error(method, **projection):
        inverter = load(tiny_model, method, projection=ProjectionConfig(**projection))
        inverter.tuning_learning_rate = 0.003
        return (inverter.render(inverter.invert(image)) - image).square().mean()

    start, code = error("sg2", steps=1), error("sg2", steps=30)
    tuned = error("pti", steps=30, tuning_steps=20)
    assert code < start and tuned < 0.7 * code


def test_what_it_was_made_with_stands_in_the_inversion_and_its_file(tiny_model, image, tmp_path):
    """The tiny model is too small for LPIPS: its own discriminator stands in, and nothing hides that."""
    inverter = load(tiny_model, "pti", projection=ProjectionConfig(steps=2, tuning_steps=1))
    inversion = inverter.invert(torch.cat([image, image]))
    assert inversion.info["perceptual"] == "discriminator_features" and inversion.info["method"] == "pti"
    assert inversion.info["lpips_threshold"] is None  # a distance in LPIPS says nothing about another network
    inversion.save(tmp_path / "x.safetensors")
    again = Inversion.load(tmp_path / "x.safetensors")
    assert again.info == inversion.info and set(again.residuals) == set(inversion.residuals)
    torch.testing.assert_close(inverter.render(again), inverter.render(inversion))


def test_every_parameter_of_the_synthesis_network_is_tuned(tiny_model, image):
    inverter = load(tiny_model, "pti", projection=ProjectionConfig(steps=2, tuning_steps=2))
    before = {name: value.clone() for name, value in inverter.generator.state_dict().items()}
    inversion = inverter.invert(image)
    parameters = dict(inverter.generator.synthesis.named_parameters())
    assert set(inversion.residuals) == set(parameters)
    for name, value in inversion.residuals.items():
        assert value.shape == (1, *parameters[name].shape)
        assert value.abs().max() > 0, name
    after = inverter.generator.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_residuals_are_what_tuning_a_copy_gives(generator, tiny_domain, image):
    """Adam on a copy's own parameters, as PTI does it, and the copy's image."""
    steps, rate = 6, 0.002
    ruler = SquaredDistance(pixels)
    ws = generator.mapping.w_avg.expand(1, generator.num_ws, -1) + 0.5
    tuning = tune_generator(generator, ws, image, ruler, steps=steps, learning_rate=rate, lpips_threshold=None)
    assert tuning.steps == steps
    tuned = build_generator(tiny_domain).eval()
    tuned.load_state_dict(generator.state_dict())
    optimizer = torch.optim.Adam(tuned.parameters(), lr=rate)
    for _ in range(steps):
        shown = tuned.synthesis(ws)
        loss = (shown - image).square().mean() + ruler.distance(pixels(image), pixels(shown)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        ours = generator.synthesis(ws, weight_residuals=tuning.residuals)
        torch.testing.assert_close(ours, tuned.synthesis(ws), atol=1e-4, rtol=1e-4)
        assert (ours - generator.synthesis(ws)).abs().max() > 0.01


def test_tuning_stops_at_the_threshold(generator, image):
    ws = generator.mapping.w_avg.expand(1, generator.num_ws, -1)
    seen = []
    tuning = tune_generator(
        generator,
        ws,
        image,
        SquaredDistance(pixels),
        steps=50,
        learning_rate=0.01,
        lpips_threshold=1e9,
        on_step=lambda step, l2, perceptual: seen.append(step),
    )
    assert tuning.steps == 0 and seen == [0]
    assert all(value.abs().max() == 0 for value in tuning.residuals.values())
    with pytest.raises(ValueError, match=r"ws has shape \(2, 6, 16\)"):
        tune_generator(generator, ws.repeat(2, 1, 1), image, SquaredDistance(pixels))


def test_only_the_generator_is_needed(tiny_model, tiny_domain, image, tmp_path):
    for part in ("generator", "discriminator"):
        (tmp_path / f"{part}.safetensors").symlink_to(tiny_model / f"{part}.safetensors")
    few = ProjectionConfig(steps=2)
    from_folder = load(tmp_path, "sg2", projection=few).invert(image)
    domain = DomainConfig(**{**vars(tiny_domain), "weights": WeightsConfig(folder=str(tmp_path))})
    assert torch.equal(load(domain, "sg2", projection=few).invert(image).ws, from_folder.ws)
    (tmp_path / "discriminator.safetensors").unlink()
    with pytest.raises(UserError, match=r"no perceptual network.*lpips: .*at least 32 px.*has no discriminator"):
        load(tmp_path, "sg2")


def test_the_network_asked_for_is_taken_or_its_absence_told(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="perceptual is 'vgg'; write one of auto, lpips_vgg"):
        find_perceptual("vgg", 64, lambda: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("hyperinverter.extractors.base.find_network_file", lambda name: None)
    with pytest.raises(UserError, match=r"lpips: .*was not found"):
        find_perceptual("lpips", 64, lambda: None)


def test_tokens_need_another_method(tiny_model, image):
    inverter = load(tiny_model, "sg2")
    with pytest.raises(UserError, match="need the hypernetworks"):
        inverter.render(load(tiny_model).invert(image), allow_other_model=True)


def test_evaluation_takes_the_settings_and_writes_them_down(tiny_model, tmp_path):
    config = EvaluateConfig(
        model=str(tiny_model),
        methods=["w_encoder", "sg2"],
        metrics=["l2"],
        data=DataConfig(kind="generated", num_generated=2),
        projection=ProjectionConfig(steps=2, seed=5),
        output=str(tmp_path),
        device="cpu",
        time_repeats=1,
    )
    settings = {"space": "w", "steps": 2, "perceptual": "discriminator_features", "seed": 5}
    settings["perceptual_at"] = "full resolution"
    assert evaluate(config)["protocol"]["settings"] == {"sg2": settings}


@pytest.fixture
def networks(monkeypatch):
    """LPIPS networks of these classes are there; gives the names of those that were read."""
    read = []

    def have(*present):
        for name, cls in DOWNLOADED.items():
            monkeypatch.setattr(cls, "smallest_px", 1)
            missing = None if cls in present else f"no file of {name}"
            monkeypatch.setattr(cls, "why_missing", classmethod(lambda cls, missing=missing: missing))
            find = classmethod(lambda cls, name=name: read.append(name) or Pixels())
            monkeypatch.setattr(cls, "find", find)
        return read

    return have


class Pixels(Extractor):
    """Stands in for a network of a file."""

    def features(self, images):
        return pixels(images)

    def distance(self, a, b):
        return (a - b).square().sum(dim=1)


def test_codes_are_measured_by_vgg16_and_tuning_by_alexnet_as_published(tiny_model, networks, image):
    """Issue 17, 12: LPIPS was AlexNet's for both."""
    read = networks(LpipsVgg, Lpips)
    pti = load(tiny_model, "pti", projection=ProjectionConfig(steps=1, tuning_steps=1))
    told = pti.invert(image).info
    assert (told["perceptual"], told["tuning_perceptual"], told["lpips_threshold"]) == ("lpips_vgg", "lpips", 0.06)
    assert load(tiny_model, "sg2").settings()["perceptual"] == "lpips_vgg"
    assert read == ["lpips_vgg", "lpips", "lpips_vgg"]
    chosen = ProjectionConfig(perceptual="lpips", tuning_perceptual="lpips_vgg")
    told = load(tiny_model, "pti", projection=chosen).settings()
    assert (told["perceptual"], told["tuning_perceptual"], told["lpips_threshold"]) == ("lpips", "lpips_vgg", None)


def test_without_vgg16_the_next_network_serves_both(tiny_model, networks):
    read = networks(Lpips)
    told = load(tiny_model, "pti").settings()
    assert (told["perceptual"], told["tuning_perceptual"], told["lpips_threshold"]) == ("lpips", "lpips", 0.06)
    read.clear()
    with pytest.raises(UserError, match="lpips_vgg: no file of lpips_vgg"):
        load(tiny_model, "sg2", projection=ProjectionConfig(perceptual="lpips_vgg"))


def test_settings_tell_at_which_size_the_network_looks(tiny_model, networks, monkeypatch):
    networks(LpipsVgg)
    monkeypatch.setattr("hyperinverter.inverters.perceptual.FEATURE_PX", 8)
    inverter = load(tiny_model, "sg2")
    assert inverter.settings()["perceptual_at"] == "8 px, by box mean"
    inverter.generator.synthesis.resolutions = (8, 16)
    assert inverter.settings()["perceptual_at"] == "8 px, drawn by an early head"


# ----------------------------------------------------------------------- evaluated: once per image, kept, found again


@pytest.fixture
def evaluation(tiny_model, tmp_path):
    def make(**changes) -> EvaluateConfig:
        settings = {
            "methods": ["w_encoder", "sg2", "hyperinverter", "pti"],
            "metrics": ["l2", "psnr"],
            "data": DataConfig(kind="generated", num_generated=3),
            "projection": ProjectionConfig(steps=2, tuning_steps=1),
            "time_repeats": 2,
            "sheet_rows": 2,
            "batch_size": 2,
            "output": str(tmp_path / "out"),
        }
        return EvaluateConfig(model=str(tiny_model), device="cpu", **settings | changes)

    return make


@pytest.fixture
def runs(monkeypatch):
    """Names of the methods that optimised, one entry per image."""
    made = []
    for cls in (ProjectorInverter, PtiInverter):
        real = cls._invert_one
        monkeypatch.setattr(
            cls, "_invert_one", lambda self, image, real=real: made.append(self.name) or real(self, image)
        )
    return made


def test_every_image_is_optimised_once_for_metrics_timing_and_sheet(evaluation, runs, tmp_path, capsys):
    result = evaluate(evaluation())
    assert sorted(runs) == ["pti"] * 3 + ["sg2"] * 3
    assert len(list((tmp_path / "out" / "reconstructions" / "pti").glob("*.png"))) == 3
    records = [json.loads(line) for line in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    times = [record["pti"]["time_ms"] for record in records]
    assert result["methods"]["pti"]["time_ms_median"] == pytest.approx(sorted(times)[1])
    assert set(result["protocol"]["time_of_methods_that_optimise"]) == {"sg2", "pti"}
    assert "2 calls" in result["protocol"]["time"]
    assert list(result["comparison"]) == ["w_encoder", "sg2", "pti"]  # HyperInverter against each
    table = (tmp_path / "out" / "table.md").read_text()
    assert "hyperinverter against pti" in table and "pti against" not in table
    assert "12/12" in capsys.readouterr().err  # four methods, three images


def test_seconds_are_of_images_that_tell_how_busy_the_processor_was(evaluation, tmp_path):
    """An earlier version noted the seconds alone; they may be another program's."""
    evaluate(evaluation(methods=["pti"]))
    first, *others = sorted((tmp_path / "out" / "reconstructions" / "pti").glob("*.png"))
    with Image.open(first) as kept:
        about = PngImagePlugin.PngInfo()
        about.add_text("seconds", "1000.0")
        kept.save(first, format="PNG", pnginfo=about)
    result = evaluate(evaluation(methods=["pti"]))
    assert result["methods"]["pti"]["time_ms_p95"] < 1e6 and result["protocol"]["computing"]["pti"] > 0
    for path in others:
        path.unlink()
    result = evaluate(evaluation(methods=["pti"], data=DataConfig(kind="generated", num_generated=1)))
    assert result["methods"]["pti"]["time_ms_median"] == 1e6 and "pti" not in result["protocol"]["computing"]


def test_an_interrupted_evaluation_finds_what_was_finished(evaluation, runs, monkeypatch, tmp_path):
    whole = evaluate(evaluation(output=str(tmp_path / "whole")))
    runs.clear()
    real = PtiInverter._invert_one

    def stopped_at_the_second(self, image):
        if runs.count("pti") == 1:
            raise KeyboardInterrupt
        return real(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(PtiInverter, "_invert_one", stopped_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            evaluate(evaluation())
    assert sorted(runs) == ["pti", "sg2", "sg2"]
    again = evaluate(evaluation())
    assert sorted(runs) == ["pti"] * 3 + ["sg2"] * 3
    for method in ("sg2", "pti"):
        assert again["methods"][method]["l2"] == whole["methods"][method]["l2"]


def test_kept_images_are_of_the_same_settings_pixels_and_whole(evaluation, runs, tmp_path):
    sg2 = {"methods": ["sg2"], "sheet_rows": 0}
    evaluate(evaluation(**sg2))
    evaluate(evaluation(**sg2, metrics=["l2"]))
    assert len(runs) == 3
    evaluate(evaluation(**sg2, projection=ProjectionConfig(steps=3)))
    assert len(runs) == 6
    evaluate(evaluation(**sg2, data=DataConfig(kind="generated", num_generated=3, generated_seed=1)))
    assert len(runs) == 9  # other images under the same names
    for path in (tmp_path / "out" / "reconstructions" / "sg2").glob("*.png"):
        path.write_bytes(path.read_bytes()[:-30])
    evaluate(evaluation(**sg2))
    assert len(runs) == 12
