"""Shipping a model folder: smaller, nearly the same images, hashes still in order, and no silent loss of quality."""

import pytest
import torch

import hyperinverter
from hyperinverter.checkpoint import read_model
from hyperinverter.config.schema import ExportConfig
from hyperinverter.evaluation.export_model import export_model
from hyperinverter.utils.errors import UserError


def test_half_precision_is_smaller_and_nearly_the_same(tiny_model, tmp_path):
    source, target = tiny_model, tmp_path / "shipped"
    found = export_model(ExportConfig(model=str(source), output=str(target), test_images=4, device="cpu"))
    sizes = [(folder / "hyperinverter.safetensors").stat().st_size for folder in (source, target)]
    assert sizes[1] < 0.7 * sizes[0]
    assert 0 < found["largest_change"] <= 0.02 and found["mean_change"] < found["largest_change"]
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    shipped = hyperinverter.load(str(target))
    assert shipped.render(shipped.invert(images)).shape == images.shape
    for part in ("generator", "w_encoder", "discriminator"):
        assert read_model(target / f"{part}.safetensors").hash == read_model(source / f"{part}.safetensors").hash


def test_full_precision_changes_nothing(tiny_model, tmp_path):
    config = ExportConfig(model=str(tiny_model), output=str(tmp_path / "full"), half=False, test_images=2, device="cpu")
    assert export_model(config)["largest_change"] == 0


def test_too_large_a_change_and_missing_settings_are_refused(tiny_model, tmp_path):
    config = ExportConfig(
        model=str(tiny_model), output=str(tmp_path / "x"), tolerance=1e-12, test_images=2, device="cpu"
    )
    with pytest.raises(UserError, match="more than tolerance"):
        export_model(config)
    with pytest.raises(UserError, match="model is not set"):
        export_model(ExportConfig(output=str(tmp_path / "y")))
    with pytest.raises(UserError, match="same folder"):
        export_model(ExportConfig(model=str(tiny_model), output=str(tiny_model)))
    with pytest.raises(UserError, match=r"has no generator\.safetensors; give the model folder of a finished Phase II"):
        export_model(ExportConfig(model=str(tmp_path), output=str(tmp_path / "z")))
    assert not (tmp_path / "z").exists()
