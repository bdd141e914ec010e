"""The catalog: every published link has its place, every entry says what it is, and names lead to files."""

import csv
from pathlib import Path

import pytest
from script_runner import ROOT

from hyperinverter.config.load import list_domains
from hyperinverter.config.yaml_text import read_yaml
from hyperinverter.releases.catalog import (
    CATALOG,
    FOLDERS,
    catalog,
    download_folder,
    entries_of,
    entry,
    entry_of_file,
    listing,
    released_models,
)
from hyperinverter.releases.identify import KNOWN
from hyperinverter.releases.package_index import MARKERS, REQUIREMENTS
from hyperinverter.utils.errors import UserError

LINKS = ROOT.parent / "shared/reference/model-links.tsv"


@pytest.mark.skipif(not LINKS.is_file(), reason="../shared/reference/model-links.tsv is not here")
def test_every_published_link_is_in_the_catalog_or_left_out_for_a_reason():
    with open(LINKS, newline="") as file:
        links = {row["google-drive id or url"] for row in csv.DictReader(file, delimiter="\t")}
    known = {copy.removeprefix("drive:") for each in catalog().values() for copy in each.copies}
    left_out = read_yaml(CATALOG, CATALOG.name).values["left_out"]
    excused = {copy.removeprefix("drive:") for group in left_out if group["why"] for copy in group["copies"]}
    assert links - known - excused == set()
    assert not known & excused
    assert len({copy for copy in known if copy in links}) == len(links - excused)


def test_no_link_is_listed_twice():
    copies = [copy for each in catalog().values() for copy in each.copies if not each.makes]
    assert len(copies) == len(set(copies))
    # of one package several networks may be made
    files = [(each.folder, each.makes or each.file) for each in catalog().values()]
    assert len(files) == len(set(files)), "two entries would be kept under one name"


@pytest.mark.parametrize("name", catalog())
def test_an_entry_is_complete(name: str):
    each = catalog()[name]
    assert each.what and each.project and each.page and each.copies and each.file == Path(each.file).name
    assert each.kind is None or each.kind in KNOWN
    assert each.folder in FOLDERS
    assert set(each.needs) <= set(catalog()) - {name}
    assert each.licence_text  # a licence, or the word unknown
    assert each.sha256 is None or (
        set(each.sha256) <= set("0123456789abcdef") and each.sha256 in (each.file, each.sha256)
    )
    for copy in each.copies:
        assert copy.startswith(("drive:", "https://", *MARKERS)), copy
    if each.copies[0].startswith(MARKERS):  # a release that never changes: all of its hash is known
        assert REQUIREMENTS[each.copies[0][:4]].fullmatch(each.copies[0][4:])
        assert len(each.sha256) == 64 and each.size and each.members
        assert each.file.endswith((".whl", ".tar.gz") if each.copies[0].startswith("pip:") else ".tgz")
    assert each.makes is None or (each.makes.endswith((".safetensors", ".onnx")) and each.members)


def test_released_models_are_made_from_entries_of_their_kinds():
    assert {"ffhq", "church"} <= set(released_models())
    for model in released_models().values():
        assert model.domain in list_domains()
        if model.is_generator_only:
            assert entry(model.generator).kind.endswith("_generator") and entry(model.generator).domain == model.domain
            assert model.entries() == [entry(model.generator)] and model.w_encoder is None
            continue
        kinds = [entry(name).kind for name in (model.generator, model.w_encoder, model.hyperinverter)]
        assert kinds == ["stylegan2_ada_generator", "w_encoder", "hyperinverter"]
        assert {model.generator, model.w_encoder} == set(entry(model.hyperinverter).needs), "trained with other weights"
        assert {entry(name).domain for name in (model.generator, model.hyperinverter)} == {model.domain}
        assert model.entries() == [entry(model.generator), entry(model.hyperinverter)]


def test_the_twelve_hyperinverter_releases_are_there():
    ours = [each for each in catalog().values() if each.name.startswith(("hyperinverter_", "w_encoder_"))]
    assert len(ours) == 12 and {each.project for each in ours} == {"VinAIResearch/HyperInverter"}


def test_names_of_models_and_files_may_be_mixed_and_a_wrong_one_is_corrected():
    names = [each.name for each in entries_of(["church", "moco", "stylegan2_church"])]
    assert names == ["stylegan2_church", "hyperinverter_psp_church_d256", "pca_church", "moco"]
    fetched = [each.name for each in entries_of(["ffhq_e4e_d128"])]
    assert fetched[2:] == ["age_ffhq", "smile_ffhq", "rotation_ffhq", "pca_ffhq"]
    assert [each.name for each in released_models()["ffhq_mobile"].vectors()] == fetched[2:], "it shares FFHQ's W"
    with pytest.raises(UserError, match="did you mean church"):
        entries_of(["chruch"])
    assert entry_of_file(Path("/somewhere/ffhq.pkl"), "ab").name == "stylegan2_ada_ffhq"
    assert entry_of_file(Path("mine.pkl"), "ab") is None
    age = entry("age_ffhq")
    assert entry_of_file(Path("mine/age.pt"), age.sha256) is age and entry_of_file(Path("mine/age.pt"), "ab") is None
    assert entry_of_file(Path("models/published/age.pt"), "ab") is age, "there its reader refuses it"


def test_files_are_found_in_their_folder_and_directly_and_shown_in_the_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert download_folder() == tmp_path
    generator = entry("stylegan2_church")
    assert generator.find() is None and generator.relative == Path("published", generator.file)
    (tmp_path / generator.file).write_bytes(b"x" * 1_500_000)
    assert generator.find() == tmp_path / generator.file
    line = next(line for line in listing().splitlines() if line.strip().startswith("stylegan2_church "))
    assert " yes " in line and "2 MB" in line and "NVIDIA" in line
