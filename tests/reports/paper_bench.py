"""A tiny domain with photos, on which the paper's tables and figures are made in seconds."""

import shutil
from pathlib import Path

import pytest
import torch

from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.config.schema import ProjectionConfig
from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import save_direction
from hyperinverter.extractors import base as extractor_base
from hyperinverter.pretrained.load import load_generator
from hyperinverter.reports.reproduce import edits as edits_module
from hyperinverter.utils.images import save_image

SLOW = ["sg2", "pti"]


class Brightness:
    """Stands in for the fitted classifiers."""

    def __init__(self) -> None:
        keys = ("accuracy", "balanced_accuracy", "auc", "positive_fraction", "photos_fitted", "photos_tested")
        self.attributes, self.figures = ["Bright"], {"Bright": dict.fromkeys(keys, 0.5)}

    def __call__(self, images):
        return {"Bright": images.mean(dim=(1, 2, 3)).cpu()}


def paper_config(tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ReproduceConfig:
    """Six photos, methods that need no training, pSp that is absent; no networks of others."""
    monkeypatch.setattr(extractor_base, "locate", lambda name: None)
    monkeypatch.setattr("hyperinverter.reports.paper.bench.SHOWN_POOL", 6)
    monkeypatch.chdir(folder)
    model = shutil.copytree(tiny_model, folder / "micro")
    info = {"attribute": "Bright", "projection_std": 1.0}
    bright = Direction("bright", torch.eye(16)[0], info, load_generator(model).weights_hash)
    save_direction(bright, model / "directions" / "bright.safetensors", domain="micro", resolution=16)
    for i in range(6):
        torch.manual_seed(i)
        save_image(torch.rand(3, 16, 16) * 2 - 1, folder / "photos" / f"{i}.png")
    rows = [f"{i}.png,{i},{i % 2}" for i in range(6)]
    (folder / "labels.csv").write_text("\n".join(["file,identity,Bright", *rows]) + "\n")
    monkeypatch.setattr(edits_module, "fit_classifiers", lambda *arguments: Brightness())
    return ReproduceConfig(
        model=str(model), output=str(folder / "out"), device="cpu", threads=1, photos=str(folder / "photos"),
        training_photos=str(folder / "photos"), labels=str(folder / "labels.csv"), metrics=["l2", "psnr", "fid"],
        batch_size=4, time_repeats=1, strengths=[1.0, 2.0], edited_photos=3, optimised_photos=2, shown_photos=3,
        methods=[*SLOW, "psp", "w_encoder", "hyperinverter"], projection=ProjectionConfig(steps=2, tuning_steps=1),
    )  # fmt: skip
