"""Rows of stats.jsonl and TensorBoard's points after a stop: none doubled, none missing, nothing cut in two."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hyperinverter.training.common import EVENTS, Curves, forget_later

from .forks import points


def fail(error: OSError) -> None:
    raise error


def write_part(folder: Path, first: int, last: int) -> None:
    """A part of a run: a row and a point for every step, a picture at each fourth one."""
    forget_later(folder, first - 1)
    curves = Curves(folder, first, fail)
    with open(folder / "stats.jsonl", "a") as file:
        for step in range(first, last + 1):
            file.write(json.dumps({"step": step}) + "\n")
            curves.scalar("loss", step / 10, step)
            if step % 4 == 0:
                curves.image("fakes", torch.zeros(3, 2, 2), step)
    curves.close()


def test_parts_of_a_run_are_one_run(tmp_path):
    """As restarts leave them: each part went on from an earlier step than the one before had reached; one of them from
    before that part's start, and one wrote nothing at all."""
    for first, last in ((1, 9), (7, 8), (5, 4), (5, 11), (9, 12)):
        write_part(tmp_path, first, last)
    rows = [json.loads(line)["step"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 13))
    assert points(tmp_path) == {
        **{("loss", step): 1 for step in range(1, 13)},
        ("fakes", 4): 1,
        ("fakes", 8): 1,
        ("fakes", 12): 1,
    }
    shown = EventAccumulator(str(tmp_path)).Reload()
    assert [(p.step, round(p.value, 6)) for p in shown.Scalars("loss")] == [(s, s / 10) for s in range(1, 13)]


@pytest.mark.parametrize("cut", [1, 5, 13])
def test_what_was_cut_in_two_is_taken_out(tmp_path, cut):
    write_part(tmp_path, 1, 3)
    for path in tmp_path.glob(f"{EVENTS}*"):
        path.write_bytes(path.read_bytes()[:-cut])
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"step": 2')
    write_part(tmp_path, 3, 5)
    assert points(tmp_path) == {("loss", step): 1 for step in range(1, 6)} | {("fakes", 4): 1}
    assert [json.loads(line)["step"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_files_follow_each_other_whatever_the_clock_says(tmp_path, monkeypatch):
    """TensorBoard reads them by name, which holds the second; restarts within one, or a clock set back, mixed them."""
    for now, (first, last) in ((2000.0, (1, 4)), (2000.5, (3, 6)), (1000.0, (5, 8))):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_part(tmp_path, first, last)
    shown = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in shown.Scalars("loss")] == list(range(1, 9))


def test_nothing_is_rewritten_where_nothing_is_to_be_taken_out(tmp_path):
    write_part(tmp_path, 1, 3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    forget_later(tmp_path, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
