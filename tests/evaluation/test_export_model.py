"""Shipping a model folder: smaller, nearly the same images, hashes still in order, and no silent loss of quality."""

import shutil

import pytest
import torch

import hyperinverter
from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.model_schema import EXPORTED, ExportConfig
from hyperinverter.evaluation import export_model as module
from hyperinverter.evaluation.export_model import PIECES, by_size, export_model
from hyperinverter.pretrained.load import load_discriminator
from hyperinverter.utils.errors import UserError


def config(tiny_model, target, **settings) -> ExportConfig:
    return ExportConfig(model=str(tiny_model), output=str(target), test_images=4, device="cpu", **settings)


def stored_types(path) -> set[torch.dtype]:
    from safetensors.torch import load_file

    return {tensor.dtype for tensor in load_file(path).values()}


def test_half_precision_is_smaller_and_nearly_the_same(tiny_model, tmp_path):
    target = tmp_path / "shipped"
    found = export_model(config(tiny_model, target, tolerance=0.01))
    assert set(found["half"]) == set(PIECES)
    assert 0 < found["mean_change"] <= found["largest_change"] <= 0.02 and found["mean_change"] <= 0.01
    files = [folder / "hyperinverter.safetensors" for folder in (tiny_model, target)]
    assert files[1].stat().st_size < 0.7 * files[0].stat().st_size
    assert found["mb"] == pytest.approx(sum(path.stat().st_size for path in target.glob("*.safetensors")) / 1e6)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    shipped = hyperinverter.load(str(target))  # every file names the others by their new hashes, else it is refused
    assert shipped.render(shipped.invert(images)).shape == images.shape
    assert load_discriminator(target).weights_hash != load_discriminator(tiny_model).weights_hash
    generator = read_model(target / "generator.safetensors")
    assert generator.hash != read_model(tiny_model / "generator.safetensors").hash
    assert read_model(target / "discriminator.safetensors").requires == {"generator": generator.hash}


def test_parts_are_known_by_these_names():
    assert tuple(PIECES) == EXPORTED


def test_only_parts_within_the_bounds_are_rounded(tiny_model, tmp_path, monkeypatch):
    """E1's rounding is made to show; the others' are left alone."""
    within, write = module.Change.is_within, module.write_folder
    tried = []

    def noted(files, target, half):
        tried.append(set(half))
        write(files, target, half)

    monkeypatch.setattr(module, "write_folder", noted)
    monkeypatch.setattr(
        module.Change, "is_within", lambda self, config: "w_encoder" not in tried[-1] and within(self, config)
    )
    found = export_model(config(tiny_model, tmp_path / "shipped", tolerance=0.01))
    assert set(found["half"]) == set(PIECES) - {"w_encoder"} and tried[-1] == set(found["half"])
    assert stored_types(tmp_path / "shipped" / "w_encoder.safetensors") >= {torch.float32}
    assert torch.float32 not in stored_types(tmp_path / "shipped" / "generator.safetensors")
    hyperinverter.load(str(tmp_path / "shipped"))


def test_nothing_is_rounded_beyond_the_tolerance_or_without_half(tiny_model, tmp_path):
    for settings in ({"tolerance": 1e-12}, {"half": False}):
        found = export_model(config(tiny_model, tmp_path / "full", **settings))
        assert found["half"] == [] and found["largest_change"] == found["mean_change"] == 0
        for part in ("generator", "w_encoder", "hyperinverter"):
            files = [read_model(folder / f"{part}.safetensors").hash for folder in (tiny_model, tmp_path / "full")]
            assert files[0] == files[1]


def test_a_part_stays_as_it_is_where_others_publish_it(tiny_model, tmp_path):
    source = shutil.copytree(tiny_model, tmp_path / "source")
    (source / "pca.safetensors").write_bytes(b"components")
    published = read_model(source / "generator.safetensors")
    found = export_model(config(source, tmp_path / "shipped", tolerance=0.01, as_they_are=["generator"]))
    assert set(found["half"]) == set(PIECES) - {"generator"}
    assert read_model(tmp_path / "shipped" / "generator.safetensors").hash == published.hash
    assert (tmp_path / "shipped" / "pca.safetensors").read_bytes() == b"components"
    assert by_size({"early_head_128": published}) == ["early_head_128"]  # tried too, each by itself


def test_directions_follow_their_generator(tiny_model, tmp_path):
    source = shutil.copytree(tiny_model, tmp_path / "source")
    old = read_model(source / "generator.safetensors").hash
    for name, requires in (("ours", {"generator": old}), ("foreign", {"generator": "f" * 16})):
        save_model(
            source / "directions" / f"{name}.safetensors", {"direction": torch.ones(16)}, kind="direction",
            config={"domain": "micro", "resolution": 16}, requires=requires,
        )  # fmt: skip
    export_model(config(source, tmp_path / "shipped", tolerance=0.01))
    new = read_model(tmp_path / "shipped" / "generator.safetensors").hash
    requires = {
        name: read_model(tmp_path / "shipped" / "directions" / f"{name}.safetensors").requires["generator"]
        for name in ("ours", "foreign")
    }
    assert new != old and requires == {"ours": new, "foreign": "f" * 16}


def test_too_large_a_model_and_missing_settings_are_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"take \d\.\d MB, more than max_mb \(0\.01\)"):
        export_model(config(tiny_model, tmp_path / "x", max_mb=0.01))
    with pytest.raises(UserError, match="model is not set"):
        export_model(ExportConfig(output=str(tmp_path / "y")))
    with pytest.raises(UserError, match="same folder"):
        export_model(ExportConfig(model=str(tiny_model), output=str(tiny_model)))
    with pytest.raises(UserError, match=r"has no generator\.safetensors; give the model folder of a finished Phase II"):
        export_model(ExportConfig(model=str(tmp_path), output=str(tmp_path / "z")))
    assert not (tmp_path / "z").exists()
