"""What `import hyperinverter` promises: nothing heavy at import, three lines from photo to picture, honest refusals."""

import contextlib
import copy
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hyperinverter
from hyperinverter.directions import Direction, save_direction
from hyperinverter.extractors.align import NoFaceError, align_face
from hyperinverter.inverters.w_encoder import WEncoderInverter
from hyperinverter.utils import waiting
from hyperinverter.utils.errors import UserError

# seconds to import, and used by few: fetched inside the functions that need them
HEAVY = (
    "torchvision", "matplotlib", "sklearn", "lpips", "dlib", "cv2", "onnxruntime", "torch_fidelity", "skimage",
    "tensorboard", "av",
)  # fmt: skip


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_a_terminal_loading_and_inverting_show_that_something_happens(tiny_model, monkeypatch, capsys):
    """As commands do; elsewhere nothing, and within a command nothing of its own."""
    monkeypatch.setattr(waiting, "QUIET_S", 0.05)
    slow = WEncoderInverter._invert
    monkeypatch.setattr(WEncoderInverter, "_invert", lambda self, images: (time.sleep(0.2), slow(self, images))[1])

    def shown(terminal: bool) -> str:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        hyperinverter.load(tiny_model, "w_encoder").invert(torch.zeros(3, 3, 16, 16), batch_size=1)
        return capsys.readouterr().err

    assert "inverting:" in shown(True) and "/3 [" in shown(True) and not shown(False)
    with waiting.signs_of_life():
        assert "inverting:" not in shown(True)


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


def test_a_shipped_model_is_loaded_by_few_modules():
    """Issue 19: under 60 of this package."""
    code = (
        "import sys, hyperinverter; hyperinverter.load('faces64')\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] == 'hyperinverter'))"
    )
    loaded = python(code).split()
    assert len(loaded) < 60, loaded


def test_names_of_the_front_door():
    for name in hyperinverter.__all__:
        assert getattr(hyperinverter, name)
    with pytest.raises(AttributeError, match="no attribute 'invertt'"):
        hyperinverter.invertt  # noqa: B018


def test_dir_lists_exactly_what_is_offered():
    code = "import hyperinverter as h; print(*dir(h)); assert set(dir(h)) == set(h.__all__)"
    offered = "HyperInverter Inversion Inverter __version__ load save_image"
    assert python(code).strip() == offered
    assert python(f"import hyperinverter.utils.text; {code}").strip() == offered


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


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> hyperinverter.HyperInverter:
    """With directions `smile` (half a unit of W per standard deviation) and `plain`, whose file does not say."""
    folder = shutil.copytree(tiny_model, tmp_path / "mine")
    loaded = hyperinverter.load(folder)
    vectors = torch.eye(loaded.generator.w_dim)
    save_direction(Direction("smile", vectors[0], {"projection_std": 0.5}), folder / "directions/smile.safetensors")
    np.save(folder / "directions/plain.npy", vectors[1].numpy())
    return loaded


def test_a_direction_of_a_file_with_many_is_listed(model: hyperinverter.HyperInverter):
    """The GANSpace directions of ffhq_mobile were not, as if the file were called pca.safetensors#lipstick."""
    files = {"big": "pca.safetensors#0:0-2", "lost": "lost.safetensors#1:0-2"}
    model.domain = replace(model.domain, directions=files)
    (model.folder / "pca.safetensors").touch()
    assert model.directions == ["big", "plain", "smile"]


def test_a_folder_has_the_directions_that_its_domain_names(tiny_model: Path, tmp_path: Path, monkeypatch):
    """load("ffhq_mobile") knew no lipstick, which the command line edits: only a config's domain had such names."""
    folder = shutil.copytree(tiny_model, tmp_path / "mine")
    (folder / "pca.safetensors").touch()
    name = hyperinverter.load(folder).domain.name
    (tmp_path / "configs/domains").mkdir(parents=True)
    config = f"name: {name}\ndirections: {{lipstick: pca.safetensors#lipstick, smile: directions/smile.safetensors}}\n"
    (tmp_path / f"configs/domains/{name}.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    assert hyperinverter.load(folder).directions == ["lipstick"], "without the file there is no smile"


def test_edits_by_name_in_standard_deviations(model: hyperinverter.HyperInverter):
    assert model.directions == ["plain", "smile"]
    image = torch.linspace(-1, 1, 3 * model.resolution**2).reshape(1, 3, model.resolution, model.resolution)
    inversion = model.invert(torch.cat([image, -image]))
    edited = model.edit(inversion, smile=2)
    assert torch.equal(edited.ws[:, :, 1:], inversion.ws[:, :, 1:])
    torch.testing.assert_close(edited.ws[:, :, 0], inversion.ws[:, :, 0] + 1, atol=1e-5, rtol=0)
    assert edited.tokens is inversion.tokens, "the weights stay"
    torch.testing.assert_close(edited.images, model.render(edited))
    assert edited.images is edited.images and not torch.equal(edited.images, inversion.images)

    both = model.edit(
        inversion, {model.folder / "directions/plain.npy": -3.0}, smile=torch.tensor([0.0, 1.0]), unit="w"
    )
    moved = both.ws - inversion.ws
    torch.testing.assert_close(moved[:, 0, :2], torch.tensor([[0.0, -3.0], [1.0, -3.0]]), atol=1e-5, rtol=0)
    spread = (model.edit(inversion, plain=2).ws - inversion.ws)[:, :, 1] / 2  # measured on the generator's own codes
    assert spread.min() > 0 and torch.allclose(spread, spread[0, 0].expand_as(spread), atol=1e-5)
    prepared = model.prepare(inversion)
    torch.testing.assert_close(model.edit(prepared, smile=2).images, edited.images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({}, ValueError, r"write, say, edit\(inversion, smile=2\). There are: plain, smile"),
        ({"smiel": 1}, FileNotFoundError, "no direction 'smiel'.*there are: plain, smile"),
        ({"smile": "2"}, ValueError, "smile is '2'; write a number"),
        ({"smile": 1, "unit": "sd"}, ValueError, "unit is 'sd'; write std or w"),
        ({"smile": 1e9}, ValueError, "smile must lie between -100 and 100, usual are -3 to 3; got 1000000000"),
        ({"smile": torch.tensor([1.0, float("nan")])}, ValueError, "smile must lie .* got nan"),
        ({"smile": torch.ones(3)}, ValueError, "3 strengths for 1 images"),
    ],
)
def test_an_edit_that_cannot_be_made_says_what_can(model, words: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        model.edit(model.invert(torch.zeros(3, model.resolution, model.resolution)), **words)


def test_what_they_are_is_printed_in_a_line(model: hyperinverter.HyperInverter):
    assert repr(model) == f"HyperInverter('micro', {model.resolution} px, cpu, fp32, directions: plain, smile)"
    inversion = model.invert(torch.zeros(3, model.resolution, model.resolution))
    made = f"micro {model.model_hash}"
    count, size = len(inversion.tokens), next(iter(inversion.tokens.values())).shape[1]
    codes = list(inversion.ws.shape)
    assert repr(inversion) == f"Inversion(1 image by {made}: codes {codes}, {count} tokens of {size} numbers)"
    assert "2 images by" in repr(hyperinverter.Inversion.cat([inversion] * 2))
    assert repr(hyperinverter.Inversion(torch.zeros(1, 2, 3))) == (
        "Inversion(1 image by an unknown model: codes [1, 2, 3], the generator as it is)"
    )


def test_images_of_a_file_need_its_model_and_copies_do_not_carry_it(model: hyperinverter.HyperInverter, tmp_path: Path):
    inversion = model.invert(torch.zeros(3, model.resolution, model.resolution))
    inversion.save(tmp_path / "one.safetensors")
    again = hyperinverter.Inversion.load(tmp_path / "one.safetensors")
    with pytest.raises(UserError, match=r"without its model \(micro\): load that and write model.render\(inversion\)"):
        again.images  # noqa: B018
    torch.testing.assert_close(model.edit(again, smile=0).images, inversion.images, atol=1e-5, rtol=0)
    assert len(pickle.dumps(inversion)) < 1e5 and copy.deepcopy(inversion).model is None
    assert inversion[0].model is model and inversion.with_ws(inversion.ws).model is model


def test_a_photo_is_aligned_on_request(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("dlib")
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    photo.save(tmp_path / "photo.png")
    model = hyperinverter.load(tiny_model)
    model.domain = replace(model.domain, alignment="ffhq")
    crop = align_face(photo, 256)
    for given in (tmp_path / "photo.png", str(tmp_path), photo, [photo]):
        assert torch.equal(model.invert(given, align=True).ws, model.invert(crop).ws)
    with pytest.raises(NoFaceError, match="an image: no face found"):
        model.invert(Image.new("RGB", (300, 200)), align=True)
    with pytest.raises(ValueError, match="a tensor has to be cropped already"):
        model.invert(torch.zeros(3, 64, 64), align=True)
    for wrong in ("all", -1):
        with pytest.raises(ValueError, match="give True for the largest face, 2 for the second"):
            model.invert(photo, align=wrong)
    model.domain = replace(model.domain, alignment="none")
    with pytest.raises(UserError, match="not of faces in the FFHQ crop"):
        model.invert(photo, align=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, one: model.edit("photo.jpg", smile=1), "expected an Inversion, got a str; write model.invert"),
        (lambda model, one: model.render(one.images), "expected an Inversion, got a Tensor"),
        (lambda model, one: model.prepare(None), "expected an Inversion, got None"),
        (lambda model, one: model.invert(""), r"is empty; write a file or folder, or \."),
        (lambda model, one: model.invert([]), "images is empty"),
        (lambda model, one: model.invert(b"\xff\xd8"), "images is bytes"),
        (
            lambda model, one: model.invert(np.zeros((8, 8, 3), np.uint8)),
            r"ndarray.*PIL's Image.fromarray\(array\)",
        ),
        (lambda model, one: model.render(one, resolution="8"), "resolution: got '8' px"),
        (lambda model, one: one.save("codes.png"), r"ends in \.safetensors; got codes\.png"),
        (lambda model, one: hyperinverter.save_image(one, "a.png"), "image is Inversion; .*of an Inversion its images"),
        (lambda model, one: hyperinverter.save_image(np.zeros((8, 8, 3)), "a.png"), "image is ndarray; give a tensor"),
        (lambda model, one: hyperinverter.save_image(torch.zeros(2, 3, 8, 8), "a.png"), r"of several write each alone"),
    ],
)
def test_what_is_given_in_another_s_place_is_named(model: hyperinverter.HyperInverter, call, message: str, tmp_path):
    """Not an AttributeError from within, nor, of an empty path, all images below the current folder."""
    with contextlib.chdir(tmp_path), pytest.raises((ValueError, FileNotFoundError), match=message):
        call(model, model.invert(torch.zeros(1, 3, 16, 16)))


def test_a_tensor_from_0_to_1_is_doubted(model: hyperinverter.HyperInverter, caplog: pytest.LogCaptureFixture):
    """As torchvision's ToTensor gives it; its inversion was pale, without a word."""
    image = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    model.invert(image * 2 - 1)
    assert not caplog.records
    model.invert(image)
    assert "if 0 is black, give images * 2 - 1" in caplog.text


def test_numbers_of_numpy_are_numbers(model: hyperinverter.HyperInverter):
    two = model.invert(torch.zeros(2, 3, 16, 16))
    assert torch.equal(model.edit(two, smile=np.float32(2)).ws, model.edit(two, smile=2).ws)
    assert two[np.int64(1)].ws.shape == two[1].ws.shape
    with pytest.raises(TypeError, match="'str' object"):
        two["photo"]
