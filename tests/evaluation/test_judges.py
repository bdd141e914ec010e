"""Judges of attributes: they find what labels say, are the same again, and are fitted anew when something changed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hyperinverter.data import Batches, open_source
from hyperinverter.evaluation import judges as judges_module
from hyperinverter.evaluation.judges import fit_judges
from hyperinverter.extractors.squeezenet import SqueezeNetFeatures
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
    monkeypatch.setattr(judges_module, "INVERSE_RIDGE", 1.0)
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
    arguments = (["Left"], training, held_out, labels, tmp_path / "judges.safetensors", torch.device("cpu"))
    judges = fit_judges(*arguments)
    figures = judges.figures["Left"]
    assert figures["accuracy"] > 0.9 and figures["auc"] > 0.95 and figures["people_in_both"] == 0
    assert (figures["photos_fitted"], figures["photos_tested"]) == (60, 20)

    images = next(held_out.in_order(20))[0]
    logits = judges(images)["Left"]
    assert np.mean((logits.numpy() > 0) == (np.arange(20) % 2 == 1)) == pytest.approx(figures["accuracy"])
    passes = network.passes
    again = fit_judges(*arguments)
    assert network.passes == passes and again.figures == judges.figures
    torch.testing.assert_close(again(images)["Left"], logits)

    labels["train_000.png"]["Left"] = "1"
    fit_judges(*arguments)
    assert network.passes > passes + 1, "other labels, other judges"


def test_photos_without_labels_are_named(network, tmp_path):
    labels: dict = {}
    training = photos(tmp_path / "train", 4, labels)
    del labels["train_002.png"]
    with pytest.raises(UserError, match=r"1 of 4 photos, such as train_002\.png"):
        fit_judges(["Left"], training, training, labels, tmp_path / "judges.safetensors", torch.device("cpu"))
