"""prepare-data: official lists become splits, counts and sizes are checked, photos in two splits are found."""

import json
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from hyperinverter.config import names
from hyperinverter.config.checks import problems
from hyperinverter.config.schema import PhotosConfig, PrepareConfig
from hyperinverter.data import prepare
from hyperinverter.data.prepare import Dataset, celeba_hq_partition, fingerprint, prepare_data, same_photos
from hyperinverter.utils.errors import UserError

MAPPING = "     idx    orig_idx      orig_file\n0 119613 119614.jpg\n1 5 000006.jpg\n2 7 000008.jpg\n17 9 000010.jpg\n"
PARTITION = "119614.jpg 2\n000006.jpg 0\n000008.jpg 1\n000010.jpg 2\n000011.jpg 0\n"


def picture(seed: int, side: int = 64) -> Image.Image:
    """Smooth and different for every seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def celeba_hq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareConfig:
    """Four images in two folders, with their lists."""
    for number, name in enumerate(["a/0.jpg", "a/00001.jpg", "b/2.jpg", "b/17.jpg"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(number).save(tmp_path / name, quality=95)
    (tmp_path / "map.txt").write_text(MAPPING)
    (tmp_path / "split.txt").write_text(PARTITION)
    monkeypatch.setitem(prepare.DATASETS, "celeba_hq", Dataset({"train": 1, "validation": 1, "test": 2}))
    data = PhotosConfig(root=[str(tmp_path / "a"), str(tmp_path / "b")])
    lists = {"mapping": str(tmp_path / "map.txt"), "partition": str(tmp_path / "split.txt")}
    return PrepareConfig(data=data, dataset="celeba_hq", output=str(tmp_path / "out"), **lists)


def test_celeba_hq_is_split_by_its_lists_and_linked(celeba_hq, tmp_path):
    assert prepare_data(celeba_hq) == {"train": 1, "validation": 1, "test": 2}
    out = tmp_path / "out"
    written = sorted(str(path.relative_to(out)) for path in out.glob("*/*"))
    assert written == ["test/00000.jpg", "test/00017.jpg", "train/00001.jpg", "validation/00002.jpg"]
    assert (out / "test" / "00017.jpg").samefile(tmp_path / "b" / "17.jpg")
    report = json.loads((out / "prepare.json").read_text())
    assert report["duplicates"] == [] and report["shorter_sides_px"]["test"] == {"64": 2}
    assert Image.open(out / "sheet.png").width > 128
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    prepare_data(celeba_hq)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*")}


def test_what_is_missing_is_said_before_anything_is_written(celeba_hq, tmp_path):
    (tmp_path / "b" / "17.jpg").unlink()
    with pytest.raises(UserError, match=r"test: 1 images, all are 2.*incomplete=true"):
        prepare_data(celeba_hq)
    assert not (tmp_path / "out").exists()
    celeba_hq.incomplete = True
    assert prepare_data(celeba_hq) == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("name", "told"), [("portrait.jpg", "named by their number"), ("b/0.png", "there twice"), ("99.jpg", "0 to 17")]
)
def test_images_that_are_not_the_lists_are_named(celeba_hq, tmp_path, name, told):
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    picture(9).save(tmp_path / "a" / name)
    with pytest.raises(UserError, match=told):
        prepare_data(celeba_hq)


@pytest.mark.parametrize(
    ("mapping", "partition", "told"),
    [
        ("0 1 2.jpg extra\n", PARTITION, "mapping, line 1"),
        ("0 1 000099.jpg\n", PARTITION, "000099.jpg is not in the partition"),
        (MAPPING, "119614.jpg 3\n", "partition, line 1"),
        ("²  1 000006.jpg\n", PARTITION, "mapping, line 1"),
    ],
)
def test_a_list_of_another_form_is_refused_by_its_line(mapping, partition, told):
    with pytest.raises(UserError, match=told):
        celeba_hq_partition(mapping.split("\n"), partition.split("\n"))


def test_kaggles_csv_is_read_too():
    rows = "image_id,partition\n" + PARTITION.replace(" ", ",")
    assert celeba_hq_partition(MAPPING.split("\n"), rows.split("\n")) == {
        0: "test",
        1: "train",
        2: "validation",
        17: "test",
    }


def test_a_photo_in_two_splits_is_found_in_another_size_and_format(tmp_path):
    for folder, seeds in (("train", (1, 2, 3)), ("held", (4, 5))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            picture(seed).save(tmp_path / folder / f"{seed}.png")
    picture(2, side=96).save(tmp_path / "held" / "again.jpg", quality=60)
    data = PhotosConfig(root=str(tmp_path / "train"))
    config = PrepareConfig(data=data, test_root=str(tmp_path / "held"), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"1 photos stand in two splits, such as \['train/2.png', 'test/again.jpg'\]"):
        prepare_data(config)
    assert (tmp_path / "out" / "duplicates.png").is_file()


def test_files_of_an_earlier_run_are_refused_and_never_taken_for_others(tmp_path):
    """A photo that was removed from the dataset must not stay in its split."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in (1, 2):
        picture(seed).save(photos / f"{seed}.bmp")  # all of one size
    config = PrepareConfig(data=PhotosConfig(root=str(photos)), output=str(tmp_path / "out"))
    prepare_data(config)
    (photos / "2.bmp").unlink()
    with pytest.raises(UserError, match=r"train: has 1 files that are not of this dataset's train images.*2\.bmp"):
        prepare_data(config)
    with pytest.raises(UserError, match=r"such as 2\.bmp"):
        prepare.dry_run(config)
    (tmp_path / "out" / "train" / "2.bmp").rename(tmp_path / "other.bmp")
    (photos / "1.bmp").unlink()
    (tmp_path / "other.bmp").rename(photos / "1.bmp")
    prepare_data(config)
    assert (tmp_path / "out" / "train" / "1.bmp").samefile(photos / "1.bmp")
    (tmp_path / "out" / "test").mkdir()
    picture(3).save(tmp_path / "out" / "test" / "old.png")
    with pytest.raises(UserError, match=r"test: has 1 files.*old\.png"):
        prepare_data(config)


def test_an_unreadable_image_is_named_as_its_file_is(celeba_hq, tmp_path):
    (tmp_path / "b" / "17.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(UserError, match=r"1 image cannot be used.*\n  17\.jpg: "):
        prepare_data(celeba_hq)


def test_fingerprints_of_different_pictures_are_far_apart():
    prints = np.array([fingerprint(picture(seed)) for seed in range(40)])
    assert list(same_photos(prints, prints)) == [(i, i) for i in range(40)]
    flipped = prints.copy()
    flipped[0, :2] ^= 0b00011111  # ten bits
    assert (0, 0) in same_photos(flipped, prints)
    flipped[0, 5] ^= 1
    assert (0, 0) not in same_photos(flipped, prints)


def test_a_database_is_written_out_and_a_wrong_size_named(tmp_path, monkeypatch):
    monkeypatch.setitem(prepare.DATASETS, "lsun_church", Dataset({"train": 2, "test": 1}, side=64))
    roots = {}
    for split, sizes in (("train", (64, 64)), ("val", (64,))):
        roots[split] = tmp_path / f"{split}_lmdb"
        with lmdb.open(str(roots[split]), map_size=10**6) as database, database.begin(write=True) as change:
            for number, side in enumerate(sizes):
                path = tmp_path / "one.webp"
                picture(10 * len(sizes) + number, side).save(path, lossless=True)
                change.put(f"{split}{number}".encode(), path.read_bytes())
    data = PhotosConfig(root=str(roots["train"]))
    settings = {"dataset": "lsun_church", "test_root": str(roots["val"]), "output": str(tmp_path / "out")}
    assert prepare_data(PrepareConfig(data=data, **settings)) == {"train": 2, "test": 1}
    files = sorted((tmp_path / "out" / "train").iterdir())
    assert [file.name for file in files] == ["train0.webp", "train1.webp"]
    assert Image.open(files[0]).size == (64, 64)
    monkeypatch.setitem(prepare.DATASETS, "lsun_church", Dataset({"train": 2, "test": 1}, side=256))
    with pytest.raises(UserError, match=r"(?s)3 images cannot be used.*64 px on its shorter side; lsun_church has 256"):
        prepare_data(PrepareConfig(data=data, **settings))


def test_settings_that_do_not_fit_the_dataset_are_all_named():
    found = {problem.keys for problem in problems(PrepareConfig(dataset="celeba_hq", test_root="x"))}
    assert found == {("mapping",), ("partition",), ("test_root",)}
    assert [p.keys for p in problems(PrepareConfig(dataset="ffhq", mapping="x"))] == [("mapping",)]
    assert [p.keys for p in problems(PrepareConfig(dataset="lsun_church"))] == [("test_root",)]
    assert prepare.DATASETS.keys() == set(names.DATASETS)
