"""The list of shipped models: the repository's files are the ones it names; new hashes replace a model's own only."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperinverter.config.model_schema import ExportConfig
from hyperinverter.evaluation.export_model import export_model
from hyperinverter.extractors.face_judges import SsrNetAge
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.extractors.onnx_faces import EmotionHappy, FsaNetYaw
from hyperinverter.extractors.perceptual import Lpips, SqueezeNetFeatures
from hyperinverter.pretrained.files import find_model_folder
from hyperinverter.releases import shipped
from hyperinverter.releases.catalog import released_models
from hyperinverter.releases.shipped import record_shipped, shipped_models
from hyperinverter.utils.checkout import REPOSITORY
from hyperinverter.utils.errors import UserError


def differing_files(name: str) -> list[str]:
    """What is wrong with the files of a shipped model, one line each; [] when all are the ones that the list names."""
    model, folder = shipped._known(name, shipped.shipped_models()), find_model_folder(name)
    found = shipped._hashes(model, folder)
    lines = [f"{file}: missing" for file in model.files if file not in found]
    lines += [f"{file}: not in the list" for file in found if file not in model.files]
    return lines + [
        f"{file}: SHA-256 {found[file][:16]}..., the list says {digest[:16]}..."
        for file, digest in model.files.items()
        if file in found and found[file] != digest
    ]


@pytest.mark.parametrize("name", shipped_models())
def test_files_are_the_ones_in_the_list(name, monkeypatch):
    monkeypatch.delenv("HYPERINVERTER_MODELS", raising=False)
    assert differing_files(name) == [], (
        f"run: python scripts/export_model.py record={name} output=pretrained_models/{name}"
    )
    model, folder = shipped_models()[name], REPOSITORY / "pretrained_models" / name
    assert model.licence and model.source and (folder / "README.md").is_file()
    own = {"generator.safetensors", "hyperinverter.safetensors"}
    if name != shipped.NETWORKS:
        assert (own if name not in released_models() else {"w_encoder.safetensors"}) <= set(model.files)
    assert sum((folder / file).stat().st_size for file in model.files) <= 40e6, "a repository is no store"


def test_every_carried_network_has_its_licence_beside_it():
    folder = REPOSITORY / "pretrained_models" / shipped.NETWORKS
    rows = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| `")]
    told = {name: row for row in rows for name in re.findall(r"`([\w.-]+\.(?:safetensors|npz|onnx|h5))`", row)}
    assert set(told) == set(shipped_models()[shipped.NETWORKS].files)
    links = {name: re.findall(r"\((licences/[\w.-]+)\)", row) for name, row in told.items()}
    assert all(links.values()) and {link for each in links.values() for link in each} == {
        file.relative_to(folder).as_posix() for file in (folder / "licences").iterdir()
    }


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="not a checkout")
def test_the_carried_networks_and_no_download_are_in_git():
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "pretrained_models/nets"]
    listed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    names = {Path(file).name for file in listed if "/licences/" not in file and not file.endswith(".md")}
    assert names == set(shipped_models()[shipped.NETWORKS].files)


@pytest.mark.parametrize(
    "extractor",
    [Lpips, MobileFaceNet, SqueezeNetFeatures, FsaNetYaw, EmotionHappy, SsrNetAge],
    ids=lambda e: e.__name__,
)
def test_carried_networks_are_found_without_any_download(extractor, monkeypatch):
    monkeypatch.delenv("HYPERINVERTER_MODELS", raising=False)
    if extractor in (FsaNetYaw, EmotionHappy):
        pytest.importorskip("onnxruntime")
    if extractor is SsrNetAge:
        pytest.importorskip("h5py")
    assert extractor.why_missing() is None
    extractor.find()


@pytest.fixture
def own_list(tiny_model, tmp_path, monkeypatch):
    """A list of two models, one of which is a copy of the tiny one."""
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path / "models"))
    shutil.copytree(tiny_model, tmp_path / "models" / "mine")
    path = tmp_path / "shipped.yaml"
    text = "# a remark\nmine:\n  source: here\n  licence: none\n  files: {}\nother:\n  source: there\n  licence: none\n"
    path.write_text(text + f"  files:\n    generator.safetensors: {'a' * 64}\n")
    monkeypatch.setattr(shipped, "shipped_models", lambda p=path: shipped_models(p))
    return path


def test_hashes_are_taken_anew(own_list, tmp_path):
    folder = tmp_path / "models" / "mine"
    assert "generator.safetensors: not in the list" in differing_files("mine")
    record_shipped("mine", folder, own_list)
    assert differing_files("mine") == [] and own_list.read_text().startswith("# a remark\n")
    assert shipped_models(own_list)["other"].files == {"generator.safetensors": "a" * 64}

    file = folder / "w_encoder.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    (folder / "discriminator.safetensors").unlink()
    told = differing_files("mine")
    assert told[0] == "discriminator.safetensors: missing" and told[1].startswith("w_encoder.safetensors: SHA-256")


def test_mistakes_are_told(own_list, tmp_path):
    with pytest.raises(UserError, match="no model 'faces63' is shipped; shipped are mine, other"):
        record_shipped("faces63", tmp_path, own_list)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.safetensors files"):
        record_shipped("mine", tmp_path / "empty", own_list)


def test_export_records_what_it_wrote_or_only_that(tiny_model, tmp_path, monkeypatch):
    recorded = []
    monkeypatch.setattr("hyperinverter.evaluation.export_model.record_shipped", lambda *what: recorded.append(what))
    target = tmp_path / "shipped"
    settings = {"output": str(target), "record": "mine", "test_images": 2, "device": "cpu"}
    export_model(ExportConfig(model=str(tiny_model), half=False, **settings))
    assert export_model(ExportConfig(model=None, **settings)) == {}
    assert recorded == [("mine", target)] * 2
