"""Directions from a predictor's scores instead of labels: a planted one is found, on samples and on photos."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperinverter.checkpoint import read_safetensors
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import DirectionConfig
from hyperinverter.config.schema import DataConfig
from hyperinverter.directions import load_direction
from hyperinverter.editing.learn_command import learn_directions
from hyperinverter.editing.predicted import surest_ends
from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.inverters import Inversion, load
from hyperinverter.releases.writing import spread_along
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image, save_image
from hyperinverter.utils.safetensors_io import write_tensors


class Planted(Extractor):
    """A score that is linear in pixels, fitted so that it follows w along a direction on the tiny generator."""

    plane = torch.zeros(3 * 16 * 16)
    shown = 0  # images, ever

    @classmethod
    def find(cls):
        return cls()

    def features(self, images):
        Planted.shown += len(images)
        return (images.flatten(1) @ self.plane)[:, None]


@pytest.fixture(scope="module")
def planted(tiny_model):
    """A model, two directions of its W, and a predictor that follows each; see `Planted`."""
    model = load(tiny_model, "w_encoder")
    ws = model.generator.mapping(torch.randn(1500, 16, generator=torch.Generator().manual_seed(9)))
    images = model.render(Inversion(ws, generator_hash=model.generator_hash), batch_size=64).clamp(-1, 1).flatten(1)
    images, w = (values - values.mean(0) for values in (images, ws[:, 0]))
    axes = torch.linalg.eigh(torch.cov(w.T)).eigenvectors  # codes spread most along the last ones
    vectors = torch.stack([axes[:, -1], (axes[:, -1] + axes[:, -2]) / 2**0.5], dim=1)
    ridge = torch.eye(images.shape[1]) * 1e-4
    planes = torch.linalg.solve(images.T @ images / len(images) + ridge, images.T @ w @ vectors / len(images))
    return model, vectors.T, [type("Fitted", (Planted,), {"plane": plane}) for plane in planes.T]


@pytest.fixture
def planted_predictor(planted, monkeypatch):
    """The two directions, one by one; fsanet_yaw follows the first, ssrnet_age the second."""
    model, vectors, judges = planted
    for name, judge in zip(("fsanet_yaw", "ssrnet_age"), judges, strict=True):
        monkeypatch.setitem(FACE_CLASSIFIERS, name, replace(FACE_CLASSIFIERS[name], extractor=judge))
    return model, vectors


def predicting(tiny_domain, tiny_model, tmp_path, **settings):
    settings = {
        "predictors": {"yaw": "fsanet_yaw"},
        "samples": 1000,
        "truncation_psi": 1.0,
        "attributes": {},
    } | settings
    domain = replace(tiny_domain, kind="faces")
    return DirectionConfig(domain=domain, model=str(tiny_model), output=str(tmp_path / "out"), **settings)


def test_what_a_predictor_follows_is_recovered_without_labels(
    tmp_path, tiny_model, tiny_domain, planted_predictor, capsys
):
    _, (vector, beside) = planted_predictor
    asked = {"yaw": "fsanet_yaw", "young": "-ssrnet_age", "alone": "ssrnet_age"}
    config = predicting(
        tiny_domain, tiny_model, tmp_path, predictors=asked, without={"alone": ["yaw"]},
        attributes={"smile": "Smiling"},  # as a config file brings them; there are no labels
    )  # fmt: skip
    summary = learn_directions(config)
    made = {name: load_direction(tmp_path / "out" / "directions" / f"{name}.safetensors") for name in asked}
    assert made["yaw"].vector @ vector >= 0.95 and made["young"].vector @ beside <= -0.95
    assert abs(made["alone"].vector @ made["yaw"].vector) < 1e-4  # what it has in common with the other is out
    assert made["yaw"].info["attribute"] == "Yaw" and made["young"].info["attribute"] == "Young"
    figures = summary["directions"]["yaw"]
    assert figures["n_train"] + figures["n_held_out"] == 400, "a fifth of the samples at each end"
    assert figures["score_correlation"] > 0.9
    spread = spread_along(load(tiny_model, "w_encoder").generator, made["yaw"].vector)["projection_std"]
    assert made["yaw"].info["projection_std"] == pytest.approx(spread, rel=0.1), "of all samples, not of the ends"
    assert "smile" not in summary["directions"] and "yaw (yaw of the head" in capsys.readouterr().out


def test_a_killed_prediction_goes_on_and_gives_the_same(
    tmp_path, tiny_model, tiny_domain, planted_predictor, monkeypatch
):
    config = predicting(tiny_domain, tiny_model, tmp_path, samples=200)
    whole = learn_directions(config)
    file = tmp_path / "out" / "scores.safetensors"
    metadata, tensors = read_safetensors(file, "")
    write_tensors(file, {"scores": tensors["scores"][:128].contiguous()}, metadata)  # as saved before the end
    before = Planted.shown
    assert learn_directions(config) == whole and Planted.shown - before == 72
    learn_directions(config)
    assert Planted.shown - before == 72
    learn_directions(replace(config, seed=7))  # of other samples none is taken
    assert Planted.shown - before == 272
    file.write_bytes(b"cut short")
    assert learn_directions(config) == whole
    before = Planted.shown
    other = classmethod(lambda cls: {"net.onnx": "another"})
    monkeypatch.setattr(FACE_CLASSIFIERS["fsanet_yaw"].extractor, "file_hashes", other)
    learn_directions(config)  # nor what another file of the network said
    assert Planted.shown - before == 200


def test_a_predictor_scores_photos_too(tmp_path, tiny_model, tiny_domain, planted_predictor):
    model, _ = planted_predictor
    ws = model.generator.mapping(torch.randn(80, 16))
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(model.render(Inversion(ws, generator_hash=model.generator_hash))):
        save_image(image, tmp_path / "photos" / f"{number:02d}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    data = DataConfig(root=str(tmp_path / "photos"), on_bad_file="skip")
    config = predicting(tiny_domain, tiny_model, tmp_path, data=data, ends=0.5, held_out_fraction=0.3)
    summary = learn_directions(config)
    assert summary["predicted"]["images"] == 80 and summary["predicted"]["of"] == "E1 codes of real photos"
    photos = torch.stack([load_image(tmp_path / "photos" / f"{number:02d}.png", 16) for number in range(80)])
    codes = model.invert(photos).ws[:, 0]
    scores = FACE_CLASSIFIERS["fsanet_yaw"].extractor.find().features(photos)[:, 0]
    yaw = load_direction(tmp_path / "out" / "directions" / "yaw.safetensors")
    expected = np.corrcoef((codes @ yaw.vector).numpy(), scores.numpy())[0, 1]
    assert yaw.info["score_correlation"] == pytest.approx(expected, abs=1e-3) and expected > 0.3


def test_a_difference_beside_predictors_keeps_the_unit_of_a_difference(
    tmp_path, tiny_model, tiny_domain, planted_predictor
):
    """Its standard deviation is over W, not over the samples, which may be truncated."""
    for name in ("one", "two"):
        save_image(torch.rand(3, 16, 16) * 2 - 1, tmp_path / f"{name}.png")
    groups = {"turned": [str(tmp_path / "one.png"), str(tmp_path / "two.png")]}
    more = {"differences": groups, "without": {"turned": ["yaw"]}, "truncation_psi": 0.3, "samples": 200}
    learn_directions(predicting(tiny_domain, tiny_model, tmp_path, **more))
    turned = load_direction(tmp_path / "out" / "directions" / "turned.safetensors")
    spread = spread_along(load(tiny_model, "w_encoder").generator, turned.vector)
    assert turned.info["projection_std"] == pytest.approx(spread["projection_std"], rel=1e-3)


def test_scores_that_tell_nothing_are_refused(tmp_path, tiny_model, tiny_domain, planted_predictor, monkeypatch):
    with pytest.raises(UserError, match="the 2 lowest and 2 highest of 10 images have the score 1 in common"):
        surest_ends(np.array([0.0] + [1.0] * 9), 0.2, "smile")
    with pytest.raises(UserError, match="1 of 2 scores are no finite numbers"):
        surest_ends(np.array([0.0, np.nan]), 0.5, "smile")
    kept, is_high = surest_ends(np.array([3.0, 9.0, 1.0, 5.0, 4.0]), 0.4, "smile")
    assert kept.tolist() == [0, 1, 2, 3] and is_high.tolist() == [False, True, False, True]
    config = predicting(tiny_domain, tiny_model, tmp_path, samples=40)
    with pytest.raises(UserError, match="fsanet_yaw tells of faces alone"):
        learn_directions(replace(config, domain=replace(tiny_domain, kind="scenes")))
    monkeypatch.setattr(
        FACE_CLASSIFIERS["fsanet_yaw"].extractor, "why_missing", classmethod(lambda cls: "get a network")
    )
    with pytest.raises(UserError, match="predictors: get a network"):
        learn_directions(config)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("predictors={a: fsanet_yam}", r"no such predictor 'fsanet_yam'; did you mean fsanet_yaw\?"),
        ("predictors={a: attributes}", "no such predictor 'attributes'"),
        ("ends=0.6", r"ends: must be above 0 and at most 0\.5, got 0\.6"),
        ("truncation_psi=.nan", "truncation_psi: must be above 0 and finite, got nan"),
        ("without={a: [b]}", "is no direction of attributes, predictors or differences"),
    ],
)
def test_settings_that_cannot_be_are_told(override, told):
    with pytest.raises(ConfigError, match=told):
        load_config(DirectionConfig, None, [override])


def test_two_kinds_may_not_make_one_direction_and_those_of_the_config_file_step_back():
    both = ["predictors={smile: emotion_happy}", "differences={smile: [a, b]}"]
    with pytest.raises(ConfigError, match="both make a direction smile; rename one"):
        load_config(DirectionConfig, "configs/directions/faces64.yaml", both)
    load_config(DirectionConfig, "configs/directions/faces64.yaml", both[:1])  # it brings an attribute of this name
