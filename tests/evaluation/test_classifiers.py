"""Classifiers of attributes: they find what labels say, are the same again, and are fitted anew after a change."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.directions.direction import Direction
from hyperinverter.evaluation import classifiers as classifiers_module
from hyperinverter.evaluation.classifiers import Classifiers, classifiers_of, fit_classifiers
from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.extractors.perceptual import SqueezeNetFeatures
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import save_image


class Pixels(nn.Module):
    """Small images in the place of a network's maps."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def features(self, images):
        self.passes += 1
        return [F.adaptive_avg_pool2d(images, 4)] * 7


@pytest.fixture
def network(monkeypatch) -> Pixels:
    pixels = Pixels()
    monkeypatch.setattr(SqueezeNetFeatures, "find", classmethod(lambda cls: pixels))
    monkeypatch.setattr(classifiers_module, "INVERSE_RIDGE", 1.0)
    return pixels


def photos(folder, count: int, labels: dict) -> Batches:
    """Every second one is brighter on the left."""
    for i in range(count):
        torch.manual_seed(i)
        image = 0.3 * torch.randn(3, 32, 32).clamp(-1, 1)
        image[:, :, :16] += 0.5 * (i % 2)
        name = f"{folder.name}_{i:03d}.png"
        save_image(image.clamp(-1, 1), folder / name)
        labels[name] = {"file": name, "Left": str(i % 2), "identity": f"{folder.name} {i}"}
    return Batches(open_source(folder), 32)


def test_judges_are_right_and_the_same_again(network, tmp_path):
    labels: dict = {}
    training, held_out = photos(tmp_path / "train", 60, labels), photos(tmp_path / "test", 20, labels)
    arguments = (["Left"], training, held_out, labels, tmp_path / "classifiers.safetensors", torch.device("cpu"))
    classifiers = fit_classifiers(*arguments)
    figures = classifiers.figures["Left"]
    assert figures["accuracy"] > 0.9 and figures["auc"] > 0.95 and figures["people_in_both"] == 0
    assert (figures["photos_fitted"], figures["photos_tested"]) == (60, 20)

    images = next(held_out.in_order(20))[0]
    logits = classifiers(images)["Left"]
    assert np.mean((logits.numpy() > 0) == (np.arange(20) % 2 == 1)) == pytest.approx(figures["accuracy"])
    passes = network.passes
    again = fit_classifiers(*arguments)
    assert network.passes == passes and again.figures == classifiers.figures
    torch.testing.assert_close(again(images)["Left"], logits)

    labels["train_000.png"]["Left"] = "1"
    fit_classifiers(*arguments)
    assert network.passes > passes + 1, "other labels, other classifiers"


def test_photos_without_labels_are_named(network, tmp_path):
    labels: dict = {}
    training = photos(tmp_path / "train", 4, labels)
    del labels["train_002.png"]
    with pytest.raises(UserError, match=r"1 of 4 photos, such as train_002\.png"):
        fit_classifiers(["Left"], training, training, labels, tmp_path / "classifiers.safetensors", torch.device("cpu"))


def test_classifiers_of_a_direction():
    def found(attribute: str | None, name: str = "any", known=("Young", "Smiling", *FACE_CLASSIFIERS)):
        return classifiers_of(Direction(name, torch.eye(4)[0], {"attribute": attribute} if attribute else {}), known)

    assert found("-Young") == {"ssrnet_age": 1, "faceres_age": 1, "Young": -1}
    assert found("Young", known=["ssrnet_age", "Young"]) == {"ssrnet_age": -1, "Young": 1}
    assert found("Smiling") == {"emotion_happy": 1, "Smiling": 1}
    assert found(None) == {} and found("Hat") == {}
    # the published files of FFHQ hold a vector alone: their names tell
    assert found(None, "rotation") == {"fsanet_yaw": 1} and found(None, "smile", ["emotion_happy"]) == {
        "emotion_happy": 1
    }
    assert found(None, "age") == found("-Young") and found("Young", "age") == found("Young")


def test_only_the_judges_that_are_asked_for_run(monkeypatch, tmp_path):
    passes = []

    class Mean(Extractor):
        def features(self, images):
            passes.append(self.name)
            return images.mean(dim=(1, 2, 3))[:, None]

    def network(name: str) -> type[Extractor]:
        file = tmp_path / name
        file.write_bytes(name.encode())
        return type(name, (Mean,), {"name": name, "filenames": (str(file),), "find": classmethod(lambda cls: cls())})

    table = {
        name: classifier.__class__(network(name), "", classifier.unit, classifier.attribute)
        for name, classifier in FACE_CLASSIFIERS.items()
    }
    monkeypatch.setattr(classifiers_module, "FACE_CLASSIFIERS", table)
    monkeypatch.setattr("hyperinverter.extractors.base.locate", lambda name: tmp_path / name)
    classifiers = Classifiers(["faceres_age", "fsanet_yaw"], None, torch.device("cpu"))
    found = classifiers(torch.full((2, 3, 8, 8), 0.5), {"fsanet_yaw"})
    assert list(found) == ["fsanet_yaw"] and found["fsanet_yaw"].tolist() == [0.5, 0.5] and passes == ["fsanet_yaw"]
    about = classifiers.about()
    assert list(about) == classifiers.known == ["faceres_age", "fsanet_yaw"]
    (digest,) = about["faceres_age"]["sha256"].values()
    assert len(digest) == 64 and digest not in about["fsanet_yaw"]["sha256"].values()
