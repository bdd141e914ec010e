"""Batches: a pure function of the position, bad files by name, the split by name, and generated images."""

import io
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.config.schema import DataConfig, DomainConfig
from hyperinverter.data.loader import Batches, open_training_data
from hyperinverter.data.sampler import flips_at, sample_indices, split_by_name
from hyperinverter.data.sources import open_source
from hyperinverter.models.stylegan2.generator import Generator
from hyperinverter.utils.errors import UserError

R = 16


def write_photos(root: Path, count: int, start: int = 0) -> Path:
    """Images whose left half is dark and whose level tells which one it is."""
    root.mkdir(exist_ok=True)
    for i in range(start, start + count):
        pixels = np.full((24, 24, 3), 20 + 5 * (i % 40), np.uint8)
        pixels[:, :12] = 0
        Image.fromarray(pixels).save(root / f"{i:03d}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 10)


@pytest.fixture
def photos_with_bad_ones(photos: Path) -> Path:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    (photos / "003_cut.jpg").write_bytes(buffer.getvalue()[:-600])
    (photos / "004_text.jpg").write_text("this is not an image")
    (photos / "005_empty.png").write_bytes(b"")
    return photos


def stream(batches: Batches, start: int, stop: int, step: int) -> tuple[torch.Tensor, list[str]]:
    parts = [batches.get(position, step) for position in range(start, stop, step)]
    return torch.cat([images for images, _ in parts]), [name for _, names in parts for name in names]


def test_every_epoch_is_a_permutation_and_the_stream_a_function_of_the_position():
    whole = sample_indices(10, 3, 0, 40)
    epochs = [whole[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]
    assert sample_indices(10, 3, 7, 25) == whole[7:32]
    assert sample_indices(10, 4, 0, 10) != epochs[0]
    with pytest.raises(ValueError, match="n >= 1"):
        sample_indices(0, 3, 0, 1)


def test_flips_are_fair_and_differ_between_seeds():
    flips = flips_at(2107, 0, 20_000)
    assert abs(flips.mean() - 0.5) < 0.02
    assert np.array_equal(flips[123:456], flips_at(2107, 123, 333))
    other = flips_at(2108, 0, 20_000)
    assert abs((flips[1:] == other[:-1]).mean() - 0.5) < 0.02  # not the same stream shifted by one


@pytest.mark.parametrize(("cache_mib", "workers"), [(64, 0), (0, 0), (0, 2), (64, 2)])
def test_same_stream_for_any_batch_size_cache_and_worker_count(photos_with_bad_ones, cache_mib, workers):
    source = open_source(photos_with_bad_ones)
    reference, names = stream(Batches(source, R, seed=5, flip=True), 0, 36, 1)
    for step in (4, 36):  # 36 exceeds the 13 files: several epochs in one batch
        batches = Batches(source, R, seed=5, flip=True, cache_mib=cache_mib, workers=workers)
        images, its_names = stream(batches, 0, 36, step)
        assert its_names == names and torch.equal(images, reference)
    resumed = Batches(source, R, seed=5, flip=True, cache_mib=cache_mib, workers=workers)
    assert torch.equal(stream(resumed, 12, 36, 4)[0], reference[12:])
    mirrored = reference[:, 0, 8, 0] > reference[:, 0, 8, -1]
    assert 0 < mirrored.sum() < 36
    assert not torch.equal(stream(Batches(source, R, seed=6, flip=True), 0, 36, 4)[0], reference)


def test_workers_read_two_batches_ahead_and_drop_them_when_the_batch_changes(photos, monkeypatch):
    source, read = open_source(photos), []
    from_disk = type(source).read_bytes
    monkeypatch.setattr(type(source), "read_bytes", lambda self, i: read.append(i) or from_disk(self, i))
    batches = Batches(source, R, seed=3, cache_mib=0, workers=2)
    reference = Batches(source, R, seed=3, cache_mib=64)
    for position, size in [(0, 4), (4, 4), (8, 2), (10, 2), (30, 4)]:  # the adversarial loss joins; a run is resumed
        images, names = batches.get(position, size)
        expected, expected_names = reference.get(position, size)
        assert torch.equal(images, expected) and names == expected_names
        assert set(batches._ahead) == {(position + size, size), (position + 2 * size, size)}
    while not all(row.done() for batch in batches._ahead.values() for row in batch.rows):
        time.sleep(0.01)
    assert set(sample_indices(10, 3, 34, 8)) <= set(read)


def test_an_error_in_a_worker_reaches_the_caller(photos, monkeypatch):
    """One that no damaged file causes."""

    class OwnFault(Exception):
        pass

    def fail(self, index):
        raise OwnFault

    source = open_source(photos)
    monkeypatch.setattr(type(source), "read_bytes", fail)
    with pytest.raises(OwnFault):
        Batches(source, R, cache_mib=0, workers=2).get(0, 4)


def test_images_are_float_in_range(photos):
    images, names = Batches(open_source(photos), R, seed=0).get(0, 10)
    assert images.shape == (10, 3, R, R) and images.dtype == torch.float32
    levels = {name: image[0, 8, -1].item() for name, image in zip(names, images, strict=True)}
    assert levels["007.png"] == pytest.approx(55 / 127.5 - 1)
    assert images.min() == -1


def test_bad_files_are_skipped_by_name_and_their_turn_goes_to_the_next(photos_with_bad_ones, caplog):
    batches = Batches(open_source(photos_with_bad_ones), R, seed=0)
    with caplog.at_level(logging.WARNING):
        _, names = batches.get(0, 13)
    assert set(batches.bad_files) == {"003_cut.jpg", "004_text.jpg", "005_empty.png"}
    assert "truncated" in batches.bad_files["003_cut.jpg"]
    assert "not an image" in batches.bad_files["004_text.jpg"]
    assert "empty" in batches.bad_files["005_empty.png"]
    assert names.count("004.png") == 2 and names.count("005.png") == 2 and names.count("006.png") == 2
    assert sum("skipped unreadable image" in record.message for record in caplog.records) == 3
    assert sum(line.startswith("unreadable, skipped") for line in batches.report()) == 3


def test_refusing_bad_files_names_all_of_them_before_the_first_batch(photos_with_bad_ones):
    with pytest.raises(UserError, match=r"3 of 13 image files") as error:
        Batches(open_source(photos_with_bad_ones), R, on_bad_file="refuse", workers=2)
    assert all(
        name in str(error.value) for name in ("003_cut.jpg", "004_text.jpg", "005_empty.png", "on_bad_file=skip")
    )


def test_only_bad_files_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match="none of the 1 image files is readable"):
        Batches(open_source(tmp_path), R).get(0, 1)


def test_cropped_and_enlarged_images_are_reported(photos):
    Image.new("RGB", (40, 24)).save(photos / "wide.png")
    Image.new("RGB", (8, 8)).save(photos / "tiny.png")
    Image.new("RGB", (200, 199)).save(photos / "nearly_square.png")
    (photos / "notes.txt").write_text("")
    batches = Batches(open_source(photos), R)
    batches.get(0, 13)
    assert batches.report() == [
        "ignored, no image by their extension: 1 file, such as notes.txt",
        "not square, centre-cropped: 1 file, such as wide.png",
        "smaller than 16 px, enlarged: 1 file, such as tiny.png",
    ]


def test_what_is_remembered_of_images_does_not_grow_with_the_epochs(photos):
    """A name for each image of another shape: with LSUN, where none is square, millions of them."""
    for i in range(10):
        Image.new("RGB", (30, 12)).save(photos / f"{i:03d}.png")
    batches = Batches(open_source(photos), R, cache_mib=0)
    for position in range(0, 40, 4):
        batches.get(position, 4)
    assert batches.fit._others == (set(), set()) and batches.fit._marks.sum() == 20
    other = Batches(open_source(photos), R, cache_mib=0)
    other.fit.merge(batches.fit.state())
    assert other.report() == batches.report() and all("10 files, such as 000.png" in line for line in other.report())


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_goes_once_through_all_readable_images_in_name_order(photos_with_bad_ones, workers):
    batches = Batches(open_source(photos_with_bad_ones), R, flip=True, workers=workers, cache_mib=0)
    seen = list(batches.in_order(4))
    assert [name for _, names in seen for name in names] == [f"{i:03d}.png" for i in range(10)]
    assert all(image[0, 8, 0] == -1 for images, _ in seen for image in images)  # never mirrored
    assert sum(len(images) for images, _ in batches.in_order(3, max_images=2)) == 2


def test_split_by_name_moves_no_image_when_images_are_added(tmp_path):
    few = open_source(write_photos(tmp_path / "p", 40))
    training, validation = split_by_name(few, 0.25)
    assert sorted([*training.names, *validation.names]) == few.names and 0 < len(validation) < 25
    more = open_source(write_photos(tmp_path / "p", 40, start=40))
    bigger_training, bigger_validation = split_by_name(more, 0.25)
    assert set(training.names) <= set(bigger_training.names)
    assert set(validation.names) <= set(bigger_validation.names)


def test_small_sets_keep_at_least_one_validation_image(photos, tmp_path):
    training, validation = split_by_name(open_source(photos), 1e-6)
    assert (len(training), len(validation)) == (9, 1)
    training, validation = split_by_name(open_source(photos), 0.0)
    assert (len(training), len(validation)) == (10, 0)
    alone = open_source(write_photos(tmp_path / "one", 1))
    assert [part.names for part in split_by_name(alone, 0.1)] == [["000.png"], ["000.png"]]


def test_open_training_data(photos, tmp_path):
    domain = DomainConfig(resolution=R)
    training, validation = open_training_data(DataConfig(root=str(photos), validation_fraction=0.3), domain, 1)
    assert not set(training.names) & set(validation.names) and len(training) + len(validation) == 10
    assert training.flip and not validation.flip and training.resolution == R
    other = write_photos(tmp_path / "other", 3)
    training, validation = open_training_data(DataConfig(root=str(photos), validation_root=str(other)), domain, 1)
    assert (len(training), len(validation)) == (10, 3)
    with pytest.raises(UserError, match=r"no images were given: .*; or write data\.kind=generated"):
        open_training_data(DataConfig(), domain, 1)


def test_generated_images_are_seeded_by_index():
    generator = Generator(resolution=R, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=2).eval()
    data = DataConfig(kind="generated", num_generated=40, validation_fraction=0.1, flip=False)
    domain = DomainConfig(resolution=R)
    training, validation = open_training_data(data, domain, 1, generator)
    assert (len(training), len(validation)) == (40, 4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    images, _ = training.get(0, 20)
    assert torch.equal(before, torch.get_rng_state())  # a run's own random stream is left alone
    assert images.shape == (20, 3, R, R) and len({image.numpy().tobytes() for image in images}) == 20
    again, _ = open_training_data(data, domain, 1, generator)
    assert torch.equal(again.get(13, 7)[0], images[13:])
    uncached, _ = open_training_data(
        DataConfig(kind="generated", num_generated=40, flip=False, cache_mib=0), domain, 1, generator
    )
    assert (uncached.get(0, 20)[0] - images).abs().max() <= 1.01 / 127.5  # one uint8 level: other batch, other rounding
    (held_out, held_names), *_ = validation.in_order(4)
    assert held_names[0] == "validation_000000"
    assert all((held_out[0] - image).abs().max() > 0.01 for image in training.get(0, 40)[0])
    with pytest.raises(ValueError, match="needs generator="):
        open_training_data(data, domain, 1)
    few = DataConfig(
        kind="generated", num_generated=40, max_images=20, validation_fraction=0.1
    )  # max_images was ignored
    assert [len(part) for part in open_training_data(few, domain, 1, generator)] == [20, 2]
