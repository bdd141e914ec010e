"""Training that waits for its images is told so, once."""

import pytest
from PIL import Image

from hyperinverter.config.schema import DataConfig
from hyperinverter.data import waiting
from hyperinverter.data.loader import MOST_WORKERS, Batches, open_training_data
from hyperinverter.data.sources import open_source
from hyperinverter.utils import device


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a batch takes to come, and that the step after it takes."""
    now = [0.0]
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: now[0])

    def run(watch: waiting.Waiting, batches: int, wait: float, step: float) -> None:
        for _ in range(batches):
            start = now[0]
            now[0] += wait
            watch.note(start, 8)
            now[0] += step

    return run


def test_a_loader_that_is_slower_than_the_step_is_told_once(clock, caplog):
    clock(waiting.Waiting(3), 300, wait=0.3, step=0.1)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "waits for its images 75 % of the time: 3 threads give 20 images per second" in told
    assert "data.workers" in told and "data.cache_mib" in told


def test_a_loader_that_keeps_up_and_a_slow_start_are_not_told(clock, caplog):
    clock(waiting.Waiting(3), 300, wait=0.02, step=0.1)
    slow_at_first = waiting.Waiting(3)
    clock(slow_at_first, waiting.WATCHED, wait=5.0, step=0.1)
    clock(slow_at_first, 200, wait=0.01, step=0.1)
    clock(waiting.Waiting(3), waiting.WATCHED + 10, wait=5.0, step=0.1)  # too few to say
    assert not caplog.records


def test_batches_of_files_are_watched(tiny_photos, monkeypatch):
    noted = []
    monkeypatch.setattr(waiting.Waiting, "note", lambda self, start, images: noted.append((self.workers, images)))
    Batches(open_source(tiny_photos), 16, workers=2).get(0, 3)
    assert noted == [(2, 3)]


@pytest.mark.parametrize(("cores", "processes", "workers"), [(8, 1, 8), (8, 4, 2), (2, 4, 1), (200, 2, MOST_WORKERS)])
def test_by_default_every_core_of_the_process_decodes(cores, processes, workers, tiny_photos, tiny_domain, monkeypatch):
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    training, _ = open_training_data(DataConfig(root=str(tiny_photos)), tiny_domain, seed=0)
    assert training._pool._max_workers == workers
    unthreaded, _ = open_training_data(DataConfig(root=str(tiny_photos), workers=0), tiny_domain, seed=0)
    assert unthreaded._pool is None


@pytest.fixture
def tiny_photos(tmp_path):
    for i in range(4):
        Image.effect_noise((16, 16), 50 + i).convert("RGB").save(tmp_path / f"{i}.png")
    return tmp_path
