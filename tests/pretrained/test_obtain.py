"""Released models by name, from nothing to an inverted image: what goes where, downloads, conversion, one path for all.

The model is a tiny one in the released formats, served on this machine; the catalog is told of it.
"""

import io
import shutil
from pathlib import Path

import pytest
import torch
from file_server import QUOTA_PAGE, Answer, FileServer
from released_files import E1, NAME, PKL, WHOLE, below, church_model, write_domain, write_releases
from script_runner import run_script, write_photos

import hyperinverter
from hyperinverter.checkpoint import read_model
from hyperinverter.config.load import load_domain
from hyperinverter.directions import fit_pca, load_direction
from hyperinverter.models.wplus import WPlusConfig, build_model
from hyperinverter.pretrained.load import load_discriminator, load_generator, load_model
from hyperinverter.published.vectors import Space
from hyperinverter.releases.catalog import CatalogEntry, ReleasedModel, catalog, released_models
from hyperinverter.releases.download import LOCK_NAME
from hyperinverter.releases.obtain import make_model, obtain, obtain_weights
from hyperinverter.utils.errors import UserError

KINDS = {PKL: "stylegan2_ada_generator", E1: "w_encoder", WHOLE: "hyperinverter"}


@pytest.fixture
def models(server: FileServer, files, tmp_path, monkeypatch) -> Path:
    """A folder of pretrained models, empty; the catalog knows micro_church, and the server has its files."""
    server.answers.update({f"/{name}": Answer((files / name).read_bytes()) for name in KINDS})
    for name, kind in KINDS.items():
        entry = CatalogEntry(
            kind, kind, name, "me/mine", "README.md", (server.url(f"/{name}"),), kind, NAME, licence="MIT"
        )
        monkeypatch.setitem(catalog(), kind, entry)
    monkeypatch.setitem(released_models(), NAME, ReleasedModel(NAME, NAME, *KINDS.values()))
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    write_domain(tmp_path)
    return tmp_path / "models"


def put(files: Path, models: Path, *names: str) -> None:
    (models / "published").mkdir(parents=True, exist_ok=True)
    for name in names:
        (models / "published" / name).write_bytes((files / name).read_bytes())


def parts(models: Path) -> list[str]:
    return sorted(path.stem for path in (models / NAME).glob("*.safetensors"))


def test_without_files_it_says_what_to_run_and_which_file_goes_where(models, server):
    for source in (NAME, load_domain(NAME)):
        with pytest.raises(FileNotFoundError) as error:
            hyperinverter.load(source)
        told = (f"python scripts/download.py {NAME}", str(models / "published" / PKL), f"{models}/published/{WHOLE}",
                server.url(f"/{PKL}"), "licence: MIT", f"Phase I alone (method w_encoder) takes {E1}", "download=True",
                "python scripts/train_stylegan2.py")  # fmt: skip
        assert all(text in str(error.value) for text in told), error.value
    with pytest.raises(FileNotFoundError) as error:
        hyperinverter.load(NAME, method="w_encoder")
    assert E1 in str(error.value) and WHOLE not in str(error.value)
    assert "download.py stylegan2_ada_generator w_encoder\n" in str(error.value)
    assert not server.requests and not models.exists()


@torch.no_grad()
def test_download_and_conversion_in_one_call(models, server, church):
    inverter = hyperinverter.load(NAME, download=True)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(inverter.render(inverter.invert(images)), church[0](images).reconstruction)
    assert [path for path, _ in server.requests] == [f"/{PKL}", f"/{WHOLE}"], "E1 lies in the HyperInverter's file"
    assert parts(models) == ["discriminator", "generator", "hyperinverter", "w_encoder"]
    assert read_model(models / NAME / "hyperinverter.safetensors").info["licence"] == "MIT"
    server.answers.clear()  # from now on all is here
    hyperinverter.load(NAME, download=True)
    hyperinverter.load(load_domain(NAME))
    assert load_model(obtain(NAME, "hyperinverter")).domain.alignment == "none"
    load_discriminator(obtain_weights(load_domain(NAME), "discriminator"), load_domain(NAME))


def test_phase_one_alone_downloads_its_small_file_and_phase_two_joins_later(models, server):
    hyperinverter.load(NAME, method="w_encoder", download=True)
    assert parts(models) == ["discriminator", "generator", "w_encoder"]
    assert [path for path, _ in server.requests] == [f"/{PKL}", f"/{E1}"]
    hyperinverter.load(NAME, download=True)
    assert [path for path, _ in server.requests][2:] == [f"/{WHOLE}"]


def test_files_put_there_by_hand_are_converted_without_asking(models, files, server):
    put(files, models, PKL)
    assert load_generator(obtain_weights(load_domain(NAME), "generator")).resolution == 32
    with pytest.raises(FileNotFoundError, match="of which 1 is missing"):
        hyperinverter.load(NAME)
    put(files, models, WHOLE)
    assert hyperinverter.load(NAME).domain.name == NAME
    assert not server.requests and (models / LOCK_NAME).is_file()


def test_methods_of_others_join_the_same_folder(models, server, monkeypatch):
    trunk = {"stem_width": 4, "widths": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}
    kind = "BackboneEncoderUsingLastLayerIntoWPlus"
    model = build_model(WPlusConfig.from_json({"encoder_type": kind, "num_styles": 8, "w_dim": 12, "trunk": trunk}))
    content = {"state_dict": below("encoder.", model.encoder.state_dict()), "latent_avg": torch.zeros(8, 12)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    server.answers["/psp.pt"] = Answer(buffer.getvalue())
    entry = CatalogEntry("psp_micro", "pSp", "psp.pt", "me/mine", "README.md", (server.url("/psp.pt"),), "psp", NAME)
    monkeypatch.setitem(catalog(), "psp_micro", entry)
    with pytest.raises(FileNotFoundError, match=r"download.py stylegan2_ada_generator psp_micro\n"):
        hyperinverter.load(NAME, method="psp")
    inverter = hyperinverter.load(NAME, method="psp", download=True)
    assert inverter.invert(torch.zeros(1, 3, 32, 32)).ws.shape == (1, 8, 12)
    assert parts(models) == ["discriminator", "generator", "psp"]


def test_a_method_that_nobody_released_for_a_domain_is_said_to_be_so(models, server):
    """pSp's authors published no churches, ReStyle's and e4e's did."""
    with pytest.raises(FileNotFoundError, match=r"no psp of church has been released.*train_encoder.*method=psp"):
        make_model("church", ["psp"], download=True)
    with pytest.raises(FileNotFoundError, match="Fetch them"):
        make_model("church", ["e4e"])


def test_a_file_that_changed_is_refused_before_it_is_converted(models, files):
    put(files, models, PKL, WHOLE)
    make_model(NAME, ["generator"])
    (models / NAME / "generator.safetensors").unlink()
    other = write_releases(models.parent / "other", *church_model(seed=1))
    put(other, models, PKL)
    with pytest.raises(UserError, match="when first used here"):
        hyperinverter.load(NAME)


def test_directions_and_a_pca_come_with_the_model_and_belong_to_its_generator(models, server, church, monkeypatch):
    generator = church[0].generator
    pca = fit_pca(generator, 4, samples=2000)
    generator.mapping.w_avg.copy_(pca.mean)
    contents = {"tilt.pt": torch.ones(1, 12), "micro_pca.pt": {"mean": pca.mean[None], "comp": pca.components[:, None],
                                                               "std": pca.stds}}  # fmt: skip
    whole = write_releases(models.parent / "whole", *church)
    for name in KINDS:
        server.answers[f"/{name}"] = Answer((whole / name).read_bytes())
    for file, content in contents.items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        server.answers[f"/{file}"] = Answer(buffer.getvalue())
        name, kind = Path(file).stem, "pca" if "pca" in file else "direction"
        about = {"kind": kind, "domain": NAME, "needs": ("stylegan2_ada_generator",)}
        entry = CatalogEntry(name, name, file, "me/mine", "README.md", (server.url(f"/{file}"),), **about)
        monkeypatch.setitem(catalog(), name, entry)
    run_script("download", [NAME], models.parent)
    inverter = hyperinverter.load(NAME)
    known = {"space": Space.of(inverter.generator), "generator_hash": inverter.generator_hash}
    tilt = load_direction("tilt", inverter.folder, **known)
    assert tilt.generator_hash == inverter.generator_hash and torch.equal(tilt.vector, torch.full((12,), 12**-0.5))
    codes = generator.mapping(torch.randn(20_000, generator.z_dim))[:, 0]
    assert tilt.info["projection_std"] == pytest.approx(float((codes @ tilt.vector).std()), rel=0.05)
    for files in ({}, {"first": "pca.safetensors#0:1-3"}):
        first = load_direction("first" if files else "pca#0:1-3", inverter.folder, files=files, **known)
        assert torch.equal(first.vector, pca.components[0]) and (first.start, first.end) == (1, 3)
    server.answers.clear()
    shutil.rmtree(models / NAME / "directions")
    hyperinverter.load(NAME)  # of the file that was fetched
    assert load_direction("tilt", inverter.folder).info["source"]["catalog"] == "tilt"


def test_a_model_works_without_its_directions(models, server, monkeypatch, capsys):
    about = {"kind": "direction", "needs": ("stylegan2_ada_generator",)}
    gone = CatalogEntry("tilt", "tilt", "tilt.pt", "me/mine", "README.md", (server.url("/tilt.pt"),), **about)
    monkeypatch.setitem(catalog(), "tilt", gone)
    run_script("download", [NAME], models.parent)
    assert "tilt could not be fetched" in capsys.readouterr().out
    assert hyperinverter.load(NAME, download=True).domain.name == NAME
    assert "tilt: left out: tilt could not be fetched" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script("download", ["tilt"], models.parent)


def test_a_quota_page_ends_with_what_to_do(models, server):
    server.answers[f"/{PKL}"] = Answer(QUOTA_PAGE, 200, {"Content-Type": "text/html"})
    with pytest.raises(UserError, match=r"(?s)quota for this file is used up.*put it at .*micro-church.pkl"):
        hyperinverter.load(NAME, download=True)


def test_a_folder_trained_here_is_left_alone(models, tiny_model):
    (models / NAME).mkdir(parents=True)
    for part in ("generator", "w_encoder"):
        (models / NAME / f"{part}.safetensors").write_bytes((tiny_model / f"{part}.safetensors").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no hyperinverter.safetensors.*make it with"):
        hyperinverter.load(NAME)
    assert hyperinverter.load(NAME, method="w_encoder").resolution == 16


def test_scripts_take_the_same_path(models, server, tmp_path, capsys):
    write_photos(tmp_path / "photos", 1, 32)
    words = ["photos", f"domain={NAME}", "device=cpu", "output=out"]
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script("invert", words, tmp_path)
    assert "scripts/download.py" in capsys.readouterr().err
    run_script("download", [NAME], tmp_path)
    assert f"ready in {models / NAME}" in capsys.readouterr().out
    run_script("invert", words, tmp_path)
    assert (tmp_path / "out/photo_00.safetensors").is_file()
    run_script("download", [NAME, "--output", "elsewhere", "convert=false"], tmp_path)
    assert (tmp_path / "elsewhere/published" / WHOLE).is_file() and not (tmp_path / "elsewhere" / NAME).exists()
