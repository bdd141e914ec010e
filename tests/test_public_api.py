"""What `import hyperinverter` promises: nothing heavy at import, three lines from photo to picture, honest refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import hyperinverter

# seconds to import, and used by few: fetched inside the functions that need them
HEAVY = (
    "torchvision", "matplotlib", "sklearn", "lpips", "dlib", "cv2", "onnxruntime", "torch_fidelity", "skimage",
    "tensorboard",
)  # fmt: skip


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    assert python("import hyperinverter, sys; print('torch' in sys.modules)").strip() == "False"


def test_every_module_imports_and_keeps_heavy_packages_for_later():
    code = (
        "import importlib, pkgutil, sys, hyperinverter\n"
        "for module in pkgutil.walk_packages(hyperinverter.__path__, 'hyperinverter.'):\n"
        "    importlib.import_module(module.name)\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    assert python(code).strip() == ""


def test_names_of_the_front_door():
    for name in hyperinverter.__all__:
        assert getattr(hyperinverter, name)
    with pytest.raises(AttributeError, match="no attribute 'invertt'"):
        hyperinverter.invertt  # noqa: B018


def test_photo_to_picture_and_back_from_a_file(tiny_model: Path, tmp_path: Path):
    Image.new("RGB", (40, 40), (200, 120, 90)).save(tmp_path / "photo.png")
    model = hyperinverter.load(tiny_model)
    inversion = model.invert(tmp_path / "photo.png")
    image = model.render(inversion)
    assert image.shape == (1, 3, model.resolution, model.resolution) and torch.isfinite(image).all()
    inversion.save(tmp_path / "photo.safetensors")
    again = hyperinverter.Inversion.load(tmp_path / "photo.safetensors")
    torch.testing.assert_close(hyperinverter.load(tiny_model).render(again), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["hyperinverter", "w_encoder"])
def test_eight_at_once_equal_eight_alone(tiny_model: Path, method: str):
    model = hyperinverter.load(tiny_model, method)
    images = torch.rand(8, 3, model.resolution, model.resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = model.render(model.invert(images, batch_size=8), batch_size=8)
    alone = torch.cat([model.render(model.invert(image)) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_model_by_name_from_the_environment(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tiny_model.parent))
    assert hyperinverter.load(tiny_model.name).folder == tiny_model
    with pytest.raises(FileNotFoundError, match=f"no such thing.*Models found: .*{tiny_model.name}"):
        hyperinverter.load("no such thing")
    with pytest.raises(ValueError, match="hyperinverter, w_encoder"):
        hyperinverter.load(tiny_model, "w_enc")
