"""Distances at equal counts, and halves without a person in common."""

import numpy as np
import pytest
import torch

from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.metrics import NotMeasured
from hyperinverter.pretrained.load import load_generator
from hyperinverter.reports.reproduce import generator_distance
from hyperinverter.reports.reproduce.generator_distance import halves, measure_generator
from hyperinverter.training.augment import Augmentation
from hyperinverter.utils.images import save_image


def test_halves_share_nobody_and_are_equally_long():
    people = ["b", "a", "b", "c", "a", None, None, "c", "c"]
    first, second = halves([f"{i}.png" for i in range(9)], people)
    assert len(first) == len(second) > 2
    assert not {people[i] for i in first} & {people[i] for i in second} - {None} and not set(first) & set(second)


@pytest.fixture
def photos(tmp_path) -> Batches:
    for i in range(10):
        torch.manual_seed(i)
        save_image(torch.rand(3, 16, 16) * 2 - 1, tmp_path / f"{i}.png")
    return Batches(open_source(tmp_path), 16)


def test_samples_are_held_against_as_many_photos(tiny_model, photos, monkeypatch):
    monkeypatch.setattr(
        generator_distance, "sample_features", lambda device: ("frechet_test", lambda x: x.flatten(1)[:, ::97].cpu())
    )
    settings = {"batch_size": 4, "seed": 0, "device": torch.device("cpu")}
    found = measure_generator(load_generator(tiny_model), photos, [None] * 10, **settings)
    distances = found["distances"]
    assert found["name"] == "frechet_test" and found["images"] == 10
    assert [(d["samples"], d["photos"]) for d in distances.values()] == [(20, 20), (10, 10), (None, 10)]
    assert all(np.isfinite(d["distance"]) for d in distances.values())
    assert found == measure_generator(load_generator(tiny_model), photos, [None] * 10, **settings)

    monkeypatch.setattr(generator_distance, "sample_features", lambda device: "no network here")
    with pytest.raises(NotMeasured, match="no network here"):
        measure_generator(load_generator(tiny_model), photos, [None] * 10, **settings)
    with pytest.raises(NotMeasured, match="at least 4 photos"):
        measure_generator(load_generator(tiny_model), photos, ["a"] * 10, **settings)


@pytest.mark.parametrize(("changed", "nearest"), [(0, 0.0), (3, 0.3)])  # of 10 samples
def test_samples_that_show_changed_photos_are_found_out(tmp_path, monkeypatch, changed, nearest):
    for i in range(40):
        torch.manual_seed(i)
        colour = torch.tensor([0.6, -0.2, -0.5]) + 0.02 * torch.randn(3)
        save_image(colour[:, None, None].expand(3, 16, 16), tmp_path / f"{i:02d}.png")
    photos = Batches(open_source(tmp_path), 16)
    images = next(photos.in_order(40))[0]

    class Copies:
        """Draws the photos, some of them in other colours."""

        z_dim = 4

        def __init__(self):
            self.drawn = 0

        def __call__(self, z):
            numbers = [(self.drawn + i) % 40 for i in range(len(z))]
            self.drawn += len(z)
            torch.manual_seed(numbers[0])
            change = Augmentation(["color"], 0.6, 100, torch.device("cpu"))
            change.state["p"].fill_(1.0)
            copies = images[numbers]
            other = torch.tensor([number % 10 < changed for number in numbers])
            return torch.where(other[:, None, None, None], change(copies), copies)

    means = ("frechet_test", lambda x: x.mean((2, 3)).cpu())
    monkeypatch.setattr(generator_distance, "sample_features", lambda device: means)
    settings = {"batch_size": 8, "seed": 0, "device": torch.device("cpu"), "augment": ["color"]}
    found = measure_generator(Copies(), photos, [None] * 40, **settings)["leaks"]["color"]
    assert found["nearest"] == nearest and len(found["distances"]) == 3
