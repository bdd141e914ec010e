"""reproduce on a tiny model: JSON without the machine's paths, the page made of it, parts that keep what they had."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_bench import Brightness

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config, to_yaml
from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.config.schema import AdversarialConfig, Phase2Config
from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import save_direction
from hyperinverter.extractors import base as extractor_base
from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.pretrained.load import load_generator
from hyperinverter.reports.reproduce import edits as edits_module
from hyperinverter.reports.reproduce import generator_distance
from hyperinverter.reports.reproduce.command import reproduce
from hyperinverter.reports.reproduce.publish import pages
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image, save_image


@pytest.fixture
def config(tiny_model, tmp_path, monkeypatch) -> ReproduceConfig:
    """A model with a direction, a few photos with labels, and no networks of others."""
    monkeypatch.setattr(extractor_base, "locate", lambda name: None)
    features = ("frechet_test", lambda x: x.flatten(1)[:, ::97].cpu())
    monkeypatch.setattr(generator_distance, "sample_features", lambda device: features)
    monkeypatch.setattr(edits_module, "fit_classifiers", lambda *arguments: Brightness())
    model = shutil.copytree(tiny_model, tmp_path / "micro")
    info = {"attribute": "Bright", "projection_std": 1.0}
    bright = Direction("bright", torch.eye(16)[0], info, load_generator(model).weights_hash)
    save_direction(bright, model / "directions" / "bright.safetensors", domain="micro", resolution=16)
    for i in range(6):
        torch.manual_seed(i)
        save_image(torch.rand(3, 16, 16) * 2 - 1, tmp_path / "photos" / f"{i}.png")
    rows = [f"{i}.png,{i // 2},{i % 2}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,identity,Bright", *rows]) + "\n")
    return ReproduceConfig(
        model=str(model), output=str(tmp_path / "out"), publish=str(tmp_path / "docs" / "results"), device="cpu",
        photos=str(tmp_path / "photos"), training_photos=str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"),
        metrics=["l2", "psnr"], generated=10, batch_size=4, time_repeats=1, strengths=[1.0, 2.0],
        bounds_photos=3, bounds_steps=20, augment=["color"],
    )  # fmt: skip


def run_folder(folder: Path) -> str:
    folder.mkdir()
    settings = Phase2Config(loss_weights={"l2": 1.0})
    settings.schedule.batch_size = 8
    settings.adversarial = AdversarialConfig(weight=0.1, start_step=200, batch_size=4)
    (folder / "config.yaml").write_text(to_yaml(settings))
    rows = [{"step": i, "train/l2": 1.0} if i % 2 else {"step": i, "validation/l2": 1 / i} for i in range(1, 301)]
    (folder / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_everything_is_measured_and_the_page_is_made_of_the_json(config, tmp_path, capsys):
    config.runs = {"Phase II": run_folder(tmp_path / "run")}
    found = reproduce(config)
    folder, overview = tmp_path / "docs" / "results" / "ffhq", tmp_path / "docs" / "results.md"
    text = folder.with_suffix(".md").read_text()
    written = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert written == found and set(found) == {
        "photos", "generated", "editability", "generator", "analysis", "figures", "bounds", "learning_curve"
    }  # fmt: skip
    assert "other_photos: left out, because other_photos is not given" in capsys.readouterr().err
    made = pages({"ffhq": written}, folder.parent)
    assert made == {path: path.read_text() for path in (overview, folder.with_suffix(".md"))}
    assert "| held-out photos | n | l2 ↓ |" in made[overview] and "| Phase I | 6 |" in made[overview]
    for section in (
        "Held-out photos",
        "Images of the generator",
        "Edits",
        "Generator",
        "What Phase II changes",
        "Figures",
        "What bounds it",
        "Learning curve",
    ):
        assert f"## {section}" in text
    assert "## ffhq" in made[overview] and "](ffhq/learning_curve.svg)" in text
    for path in folder.iterdir():
        if path.suffix != ".png":
            assert str(tmp_path) not in path.read_text(), f"{path.name} holds a path of this machine"
    command = "python scripts/reproduce.py --config configs/reproduce/ffhq.yaml 'parts=[photos]' photos=FOLDER/photos"
    assert found["photos"]["about"]["command"] == command
    assert set(found["photos"]["about"]["model"]) == {"generator", "discriminator", "w_encoder", "hyperinverter"}
    assert [r["name"] for r in found["generated"]["first_images"]] == [f"evaluation_{i:06d}" for i in range(8)]
    assert found["generated"]["num_images"] == 10
    against = found["photos"]["comparison"]["w_encoder"]["l2"]
    assert against["interval_95"][0] < against["ratio"]
    edits = found["editability"]
    assert edits["photos"] == 3 and list(edits["directions"]["bright"]["classifiers"]) == ["Bright"]  # one per person
    assert "ssrnet_age" in edits["not_measured"]
    assert all(word in edits["about"]["command"] for word in (" labels=FOLDER/labels.csv ", "'strengths=[1.0, 2.0]'"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "editability.jsonl").read_text().splitlines()]
    assert [line["photo"] for line in lines] == ["0.png", "2.png", "4.png"]  # the first one of each person
    table = (tmp_path / "out" / "editability.md").read_text()
    assert "The paper's Table 2" in table and "](edits.png)" in table and "- fsanet_yaw: fsanet-1x1-iter" in table
    bounds = {what: l2["mean"] for what, l2 in found["bounds"]["metrics"]["l2"].items()}
    assert found["bounds"]["images"] == 3 and "Do the augmentations that D was trained with appear" in text
    assert found["generator"]["about"]["command"].endswith("photos=FOLDER/photos labels=FOLDER/labels.csv")
    assert bounds["w optimised"] < bounds["w predicted (Phase I)"]
    assert bounds["w predicted, tokens optimised"] < bounds["w and tokens predicted (Phase II)"]
    curve = found["learning_curve"]["runs"]["Phase II"]
    assert curve["images_seen"][-1] == 200 * 8 + 100 * 4  # half the batch once D has joined
    assert curve["l2"][-1] == 1 / 300 and len(curve["l2"]) <= 40
    assert "learning_curve.svg" in text and (folder / "learning_curve.svg").is_file()
    assert "main convolutions change more than toRGB" in text and (folder / "weight_changes.svg").is_file()
    assert set(found["figures"]) == {"interpolation", "difference_maps", "about"} and "Figure 1:" not in text
    for name in ("interpolation.png", "difference_maps.png"):
        assert (folder / name).is_file() and f"](ffhq/{name})" in text
    for name in ("samples", "reconstructions", "edits"):
        assert load_image(tmp_path / "out" / "pictures" / f"{name}.png", 64).shape == (3, 64, 64)

    # without anything to measure the pages are made again, the same
    for path in made:
        path.unlink()
    config.parts = []
    assert reproduce(config) == {} and {path: path.read_text() for path in made} == made

    # a part measured again replaces its own numbers only
    config.parts, config.generated = ["generated"], 4
    reproduce(config)
    assert json.loads((folder / "generated.json").read_text())["num_images"] == 4
    assert json.loads((folder / "photos.json").read_text()) == found["photos"]

    # figure 1 of an evaluation; a wrong file is told before anything is measured
    config.parts, config.results = ["figures"], [str(tmp_path / "out" / "photos" / "metrics.json")]
    time = reproduce(config)["figures"]["quality_time"]
    assert {(point["num_images"], point["file"]) for point in time["points"]} == {(6, "photos")}
    assert str(tmp_path) not in (folder / "figures.json").read_text() and (folder / "quality_time.svg").is_file()
    assert "Figure 1: l2 against seconds per image on a logarithmic axis, 6 images" in (
        folder.with_suffix(".md").read_text()
    )
    config.parts, config.results = ["generated", "figures"], [str(folder / "generator.json")]
    with pytest.raises(UserError, match=r"generator\.json"):
        reproduce(config)
    config.parts, config.results = ["generated", "figures"], []

    # another domain stands beside it, the one with more parts first; of its own pictures alone
    config.domain.name = "church"
    reproduce(config)
    assert (folder.parent / "church" / "interpolation.png").is_file()
    assert not (folder.parent / "church" / "quality_time.svg").exists()
    both = overview.read_text()
    assert "## ffhq" in both and both.index("## ffhq") < both.index("## church")


def test_what_cannot_be_measured_is_told_and_left_out(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator_distance, "sample_features", lambda device: "no network here")
    config.parts = ["generator"]
    assert reproduce(config) == {} and "generator: not measured: no network here" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stats.jsonl").write_text('{"step": 1, "train/l2": 1.0}\n')
    config.parts, config.runs = ["learning_curve"], {"one": str(tmp_path / "run")}
    assert reproduce(config) == {} and "holds no validation numbers" in capsys.readouterr().err


class Redness(Extractor):
    """Stands in for a network that tells of faces."""

    filenames = ("redness.onnx",)

    @classmethod
    def find(cls):
        return cls()

    def features(self, images):
        return 100 * images[:, :1].mean(dim=(2, 3))


def test_table_2_needs_no_labels(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "redness.onnx").write_bytes(b"weights")
    monkeypatch.setattr(extractor_base, "locate", lambda name: tmp_path / name if name == "redness.onnx" else None)
    monkeypatch.setitem(FACE_CLASSIFIERS, "fsanet_yaw", replace(FACE_CLASSIFIERS["fsanet_yaw"], extractor=Redness))
    folder = Path(config.model)
    np.save(folder / "directions" / "rotation.npy", np.eye(16, dtype=np.float32)[2])  # a vector alone, as published
    config.parts, config.training_photos, config.labels, config.publish = ["editability"], None, None, None
    config.classifiers, config.strength_unit = ["fsanet_yaw", "faceres_age"], "w"
    found = reproduce(config)["editability"]
    out, err = capsys.readouterr()
    assert "no classifier of bright: left out" in err and list(found["directions"]) == ["rotation"]
    assert found["photos"] == 6 and found["strength_unit"] == "w" and "faceres_age" in found["not_measured"]
    assert found["classifier_networks"]["fsanet_yaw"]["stands_in_for"] == "FacePoseNet"
    measured = found["directions"]["rotation"]["classifiers"]["fsanet_yaw"]
    assert measured["unit"] == "degrees" and set(measured["change"]["w_encoder"]) == {"-2", "-1", "1", "2"}
    assert "in the place of the paper's FacePoseNet" in out and "| rotation | fsanet_yaw, degrees | Phase I |" in out
    assert out.strip() == (tmp_path / "out" / "editability.md").read_text().strip()
    assert found["about"]["command"].startswith("python scripts/reproduce.py --config configs/reproduce/ffhq.yaml")

    config.classifiers = ["faceres_age"]
    assert reproduce(config) == {}
    assert "no classifier of bright, rotation: faceres-deep.onnx was not found" in capsys.readouterr().err
    config.classifiers = ["attributes"]
    with pytest.raises(UserError, match=r"editability needs training_photos=\.\.\., labels=\.\.\."):
        reproduce(config)


def test_parts_of_which_none_has_its_images_are_refused(config):
    config.parts, config.photos = ["photos", "bounds"], None
    with pytest.raises(UserError, match=r"photos needs photos=\.\.\.; bounds needs photos=\.\.\."):
        reproduce(config)


def test_mistakes_in_settings_are_told_together():
    with pytest.raises(ConfigError) as error:
        load_config(
            ReproduceConfig, None, ["parts=[photo]", "strengths=[-1.0, 1.0]", "edited_photos=1", "classifiers=[age]"]
        )
    told = str(error.value)
    assert "classifiers" in told and "strength_unit" not in told
    assert "did you mean photos" in told and "applied in both ways" in told and "edited_photos" in told


def test_the_page_alone_wants_its_folder(config):
    with pytest.raises(UserError, match="publish=docs/results"):
        reproduce(replace(config, parts=[], publish=None))
