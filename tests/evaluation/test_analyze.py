"""The analysis figures: numbers against ones computed by hand, statements that can fail, pictures that are there."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import hyperinverter
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AnalyzeConfig
from hyperinverter.config.schema import DataConfig
from hyperinverter.evaluation.analysis import difference_maps, quality_time, weight_changes
from hyperinverter.evaluation.analysis.command import analyze
from hyperinverter.evaluation.analysis.weight_changes import Layer, as_json, evenness_of
from hyperinverter.evaluation.drawing import new_figure
from hyperinverter.models.mobile_stylegan import MobileGenerator
from hyperinverter.models.target_layers import target_layers
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image


@pytest.fixture
def config(tiny_model, photos, tmp_path) -> AnalyzeConfig:
    return AnalyzeConfig(
        model=str(tiny_model), output=str(tmp_path / "out"), device="cpu", data=DataConfig(root=str(photos)),
        batch_size=5, rows=3, pairs=2, steps=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hyperinverter.utils.images import save_image

    folder = tmp_path_factory.mktemp("analysed")
    for i in range(7):
        torch.manual_seed(i)
        save_image(torch.rand(3, 16, 16) * 2 - 1, folder / f"{i}.png")
    return folder


def result_file(path: Path, seconds: float, l2: float, images: str = "test.zip", method: str = "hyperinverter") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {method: {"l2": l2, "time_ms_median": 1000 * seconds}}
    protocol = {"models": {method: f"model_{path.stem} 0123"}, "images": images, "device": "cpu"}
    about = {"metrics": {"l2": {"unit": "squared", "better": "lower"}}, "num_images": 9, "protocol": protocol}
    path.write_text(json.dumps({**about, "methods": values, "intervals_95": {method: {"l2": [l2 / 2, l2 * 2]}}}))
    return str(path)


# ------------------------------------------------------------------------------------------------------ the command


def test_every_figure_is_drawn_and_its_numbers_kept(config: AnalyzeConfig, tmp_path: Path, capsys):
    config.results = [result_file(tmp_path / "a.json", 0.05, 0.02), result_file(tmp_path / "b.json", 50.0, 0.01)]
    found = analyze(config)
    folder = Path(config.output)
    assert set(found) == {"weight_changes", "difference_maps", "interpolation", "quality_time"}
    for figure, result in found.items():
        assert json.loads((folder / f"{figure}.json").read_text()) == result
        for picture in result["pictures"]:
            path = folder / picture
            assert path.stat().st_size > 100
            if path.suffix == ".png":
                assert len(load_image(path, 32).unique()) > 10, f"{picture} is empty"
            if path.suffix == ".svg":
                assert "<text" in path.read_text(), f"{picture}: letters became outlines"
    assert found["weight_changes"]["images"] == found["difference_maps"]["images"] == 7
    assert len(found["interpolation"]["pairs"]) == 2 and (folder / "interpolation_1.gif").is_file()
    told = capsys.readouterr().err
    assert "main convolutions change more than toRGB:" in told and "weight_changes.csv" in told

    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    analyze(config)
    again = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert first == again, "the same numbers gave other files"


def test_figures_without_their_input_are_left_out(config: AnalyzeConfig, capsys):
    config.figures = ["quality_time", "interpolation"]
    config.data = replace(config.data, max_images=1)
    assert analyze(config) == {}
    told = capsys.readouterr().err
    assert "interpolation: left out: it needs two images at least, got 1" in told
    assert "quality_time: left out: results is not given" in told
    config.data.root = None
    with pytest.raises(UserError, match="nothing to draw"):
        analyze(config)
    config.data.max_images = None
    config.data.kind, config.data.num_generated, config.method = "generated", 6, "w_encoder"
    config.figures = ["weight_changes", "interpolation"]
    (pair, *_) = analyze(config)["interpolation"]["pairs"]
    assert "codes_only" in pair and "codes_and_weights" not in pair
    assert "weight_changes: left out: method w_encoder leaves the generator's weights as they are" in (
        capsys.readouterr().err
    )
    config.figures = ["weight_changes", "difference_maps"]
    with pytest.raises(UserError, match=r"nothing to draw \(weight_changes: method w_encoder leaves .* or a method"):
        analyze(config)


def test_unreadable_images_are_named(config: AnalyzeConfig, tmp_path: Path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.png").write_bytes(b"x")
    config.figures, config.data.root = ["difference_maps"], str(tmp_path / "photos")
    with pytest.raises(UserError, match=r"none of the 1 images is readable: .*broken\.png"):
        analyze(config)
    (tmp_path / "photos/whole.png").write_bytes(
        next(Path(__file__).parents[2].glob("docs/results/*/*.png")).read_bytes()
    )
    assert analyze(config)["difference_maps"]["images"] == 1 and "broken.png" in capsys.readouterr().err


def test_mistakes_in_settings_are_told_together():
    with pytest.raises(ConfigError) as error:
        load_config(AnalyzeConfig, None, ["figures=[weight_change]", "steps=1", "quality=l3", "method=nothing"])
    told = str(error.value)
    assert "did you mean weight_changes" in told and "steps" in told and "quality" in told and "method" in told


# -------------------------------------------------------------------------------------------------------- weights


def test_mean_changes_are_those_of_the_dense_residuals(config: AnalyzeConfig, photos: Path):
    inverter = hyperinverter.load(config.model)
    images = torch.stack([load_image(path, 16) for path in sorted(photos.iterdir())])
    layers, values = weight_changes.measure_weight_changes(inverter, images.split(3))
    residuals = inverter.network.hypernetwork.decode(inverter.invert(images).tokens)
    assert [layer.name for layer in layers] == list(residuals) == list(inverter.network.hypernetwork.targets)
    for layer, column in zip(layers, values.T, strict=True):
        expected = residuals[layer.name].abs().mean(tuple(range(1, residuals[layer.name].ndim)))
        np.testing.assert_allclose(column, expected.numpy(), rtol=1e-4)
    assert {layer.kind for layer in layers} == {"conv", "torgb"} and {layer.resolution for layer in layers} == {
        4,
        8,
        16,
    }
    found = as_json(layers, values, "faces")
    folder = Path(config.output)
    folder.mkdir()
    weight_changes.draw_weight_changes(found, "micro", folder)
    with (folder / "weight_changes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [layer.name for layer in layers]
    assert float(rows[0]["mean_abs_change"]) == pytest.approx(values[:, 0].mean())
    assert float(rows[0]["low_95"]) < float(rows[0]["mean_abs_change"]) < float(rows[0]["high_95"])


def made(conv: list[float], torgb: list[float], noise: float = 0.01) -> tuple[list[Layer], np.ndarray]:
    """Blocks 4, 8, ... with one convolution and one toRGB each, 50 images."""
    layers, means = [], []
    for i, pair in enumerate(zip(conv, torgb, strict=True)):
        for kind, mean in zip(("conv", "torgb"), pair, strict=True):
            layers.append(Layer(f"b{4 * 2**i}.{kind}", 4 * 2**i, kind, 9, 1.0))
            means.append(mean)
    spread = np.random.default_rng(0).normal(1, noise, (50, len(means)))
    return layers, np.array(means) * spread


def test_kernels_of_other_sizes_are_compared_by_their_share():
    """Separable convolutions: a depthwise kernel's numbers are tens of times a pointwise one's."""
    torch.manual_seed(0)
    generator = MobileGenerator(resolution=32, z_dim=8, w_dim=8, channel_base=128, channel_max=16, mapping_layers=2)
    weights = dict(generator.synthesis.named_parameters())
    images = torch.zeros(3, 3, 32, 32)
    targets = target_layers(generator)
    changes = {t.name: 0.1 * weights[t.name].detach().expand(3, *t.shape) for t in targets}
    inverter = SimpleNamespace(generator=generator, name="x", invert=lambda *_, **__: None)
    inverter.weight_residuals = lambda _: changes
    layers, values = weight_changes.measure_weight_changes(inverter, [images])
    np.testing.assert_allclose(values, 0.1, rtol=1e-5)
    found = as_json(layers, values, "faces")
    assert "share" in found["unit"] and found["evenness"]["value"] == pytest.approx(1)
    assert {row["kind"] for row in found["layers"]} == {"conv", "depthwise", "pointwise", "torgb"}


def verdicts(*arguments, **options) -> dict[str, str]:
    return {one["statement"]: one["verdict"] for one in as_json(*arguments, **options)["statements"]}


def test_the_papers_statements_hold_or_not():
    most, least = "the last resolution (16 px) changes most", "main convolutions change more than toRGB"
    assert verdicts(*made([1, 1, 3], [0.1, 0.1, 0.1]), "faces") == {least: "holds", most: "holds"}
    assert verdicts(*made([3, 1, 1], [4, 4, 4]), "faces") == {least: "does not hold", most: "does not hold"}
    layers, values = made([1, 1, 1], [1, 1, 1], noise=0)
    values[::2, ::2] += 0.5  # in half of the images the convolutions change more, in the others toRGB
    values[1::2, 1::2] += 0.5
    undecided = verdicts(layers, values, "faces")
    assert undecided[least] == "open: the interval holds 1"


def test_evenness_is_one_for_equal_layers_and_tells_domains_apart(tmp_path: Path):
    even, uneven = (as_json(*made(conv, [0.1] * 3), "scenes") for conv in ([1, 1, 1], [0.01, 0.01, 3]))
    assert even["evenness"]["value"] == pytest.approx(1, abs=1e-3) and uneven["evenness"]["value"] < 0.4
    assert evenness_of(np.array([[1.0, 1.0, 0.0]] * 4))["value"] == pytest.approx(2 / 3)
    statement = "the change is spread over the layers more evenly than for faces"
    assert verdicts(*made([1, 1, 1], [0.1] * 3), "scenes", other=uneven)[statement] == "holds"
    assert verdicts(*made([0.01, 0.01, 3], [0.1] * 3), "scenes", other=even)[statement] == "does not hold"
    assert "not checked" in verdicts(*made([1, 1, 1], [0.1] * 3), "scenes")[statement]
    (tmp_path / "other.json").write_text(json.dumps(even))
    assert weight_changes.read_other(str(tmp_path / "other.json")) == even
    (tmp_path / "other.json").write_text(json.dumps({"weight_changes": even}))  # analysis.json of reproduce
    assert weight_changes.read_other(str(tmp_path / "other.json")) == even
    (tmp_path / "other.json").write_text("{}")
    for path in ("other.json", "absent.json"):
        with pytest.raises(UserError, match=f"compare_with: .*{path}"):
            weight_changes.read_other(str(tmp_path / path))


# --------------------------------------------------------------------------------------------- maps and blends


def test_the_mean_map_is_grey_and_streamed():
    found = difference_maps.MeanMap()
    phase1 = torch.zeros(4, 3, 6, 6)
    phase2 = torch.zeros(4, 3, 6, 6)
    phase2[:, 0, :2, :2] = torch.tensor([0.5, -0.5, 1.0, -1.0])[:, None, None]  # red, in the top left
    for i in (0, 2):
        found.add(phase1[i : i + 2], phase2[i : i + 2], [str(i), str(i + 1)])
    grey = found.grey()
    assert grey[0, 0] == pytest.approx(0.299 * 0.75) and grey[3:, 3:].abs().max() == 0
    assert found.means == pytest.approx([0.5 / 27, 0.5 / 27, 1 / 27, 1 / 27])
    scenes, faces = (difference_maps.as_json(found, kind) for kind in ("scenes", "faces"))
    (sky,) = scenes["statements"]
    assert sky["verdict"] == "does not hold" and "statements" not in faces
    assert sky["ratio"] == pytest.approx(1 / 9) and sky["interval_95"] == pytest.approx([1 / 9, 1 / 9])
    found.add(phase1, phase1 + 1 - phase2[:, :1].ne(0).float() * 0.99, list("abcd"))  # the rest changes, it hardly does
    (sky,) = difference_maps.as_json(found, "scenes")["statements"]
    low, high = sky["interval_95"]
    assert low < 1 < high and sky["verdict"].startswith("open") and low < sky["ratio"] < high
    assert scenes["ninths"][0][0] == pytest.approx(0.299 * 0.75) and scenes["ninths"][2][2] == 0


def test_interpolation_ends_at_the_reconstructions(config: AnalyzeConfig):
    config.figures = ["interpolation"]
    (pairs,) = (analyze(config)["interpolation"]["pairs"],)
    inverter = hyperinverter.load(config.model)
    first = load_image(Path(config.data.root) / pairs[0]["first"], 16)[None]
    expected = (inverter.render(inverter.invert(first)).clamp(-1, 1) - first).square().mean().item()
    assert pairs[0]["codes_and_weights"]["l2_ends"][0] == pytest.approx(expected, rel=1e-3)
    assert pairs[0]["codes_only"]["l2_ends"][0] != pytest.approx(expected, rel=1e-3)


# ------------------------------------------------------------------------------------------------ quality and time


def test_names_beside_points_do_not_cover_each_other():
    figure, axes = new_figure(4.0, 3.0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = [(name, "C0", 0.5 + i / 100, 0.5) for i, name in enumerate(("psp", "e4e", "restyle", "hyperstyle"))]
    texts = quality_time.place_labels(axes, labels)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert [text.get_text() for text in texts] == ["psp", "e4e", "restyle", "hyperstyle"]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert len(axes.texts) == 4  # places that were tried leave nothing behind


def test_a_name_beside_a_point_stays_inside_the_axes():
    figure, axes = new_figure(4.0, 3.0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels = [("e4e", "C0", 0.05, 0.5), ("w_encoder", "C1", 0.05, 0.5)]  # to the left there is no room
    texts = quality_time.place_labels(axes, labels)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    assert all(text.get_window_extent(renderer).x0 >= axes.get_window_extent(renderer).x0 for text in texts)


def test_a_shared_core_counts_as_one_of_its_own(config: AnalyzeConfig, tmp_path: Path):
    protocol = {"models": {}, "images": "some", "device": "cpu, 1 threads", "computing": {"a": 0.25, "b": 1.02}}
    about = {"metrics": {"l2": {"unit": "", "better": "lower"}}, "num_images": 9, "protocol": protocol}
    methods = {name: {"l2": 0.1, "time_ms_median": 80.0} for name in ("a", "b", "c")}
    (tmp_path / "metrics.json").write_text(json.dumps({**about, "methods": methods, "intervals_95": {}}))
    points, _, _ = quality_time.read_points([str(tmp_path / "metrics.json")], "l2")
    assert [point["time_ms"] for point in points] == [20.0, 80.0, 80.0]
    protocol["device"] = "cpu, 2 threads"
    (tmp_path / "metrics.json").write_text(json.dumps({**about, "methods": methods, "intervals_95": {}}))
    assert {point["time_ms"] for point in quality_time.read_points([str(tmp_path / "metrics.json")], "l2")[0]} == {80.0}


def test_points_of_several_files_and_what_cannot_be_compared(config: AnalyzeConfig, tmp_path: Path):
    fast = result_file(tmp_path / "run1/metrics.json", 0.05, 0.02)
    result_file(tmp_path / "run2/metrics.json", 50.0, 0.01, images="other.zip", method="pti")
    points, about, notes = quality_time.read_points([str(tmp_path / "run*/metrics.json"), fast], "l2")
    assert [(point["method"], point["quality"], point["time_ms"]) for point in points] == [
        ("hyperinverter", 0.02, 50.0),
        ("pti", 0.01, 50_000.0),
    ]
    assert about["better"] == "lower" and notes == [
        "images differ between the files (test.zip; other.zip): compare with care"
    ]
    with pytest.raises(UserError, match="has no psnr, only l2"):
        quality_time.read_points([fast], "psnr")
    config.figures, config.results = ["weight_changes", "quality_time"], [str(tmp_path / "absent.json")]
    with pytest.raises(UserError, match="cannot read"):  # before the images are inverted
        analyze(config)
    assert not (Path(config.output) / "weight_changes.json").exists()
    with pytest.raises(UserError, match="cannot read"):
        quality_time.read_points([str(tmp_path / "absent.json")], "l2")
    (tmp_path / "else.json").write_text("[]")
    with pytest.raises(UserError, match=r"is no metrics\.json"):
        quality_time.read_points([str(tmp_path / "else.json")], "l2")
