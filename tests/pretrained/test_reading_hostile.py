"""Hostile files: nothing of them runs, each ends in one plain message, and memory stays bounded."""

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from nvidia_file import Stored, nested, nvidia_bytes, save_nvidia
from safetensors.torch import save

from hyperinverter.models.stylegan2 import Generator
from hyperinverter.published import from_published
from hyperinverter.published.reading import read_published
from hyperinverter.published.reading.allowed import ALLOWED
from hyperinverter.published.reading.unpickler import Global
from hyperinverter.utils.errors import UserError

MOST_KIB = 200 * 1024  # the largest file of the corpus has 64 MiB; on top of the imported packages


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The corpus read in a process of its own: file -> how it ended, message, peak memory."""
    folder = tmp_path_factory.mktemp("hostile")
    written = hostile.write_corpus(folder / "files")
    report = folder / "report.json"
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "hostile.py"), str(folder / "files"), str(report)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(written) > 150
    return folder, json.loads(report.read_text()), result.stdout + result.stderr


def test_nothing_of_a_hostile_file_runs(corpus):
    folder, _, printed = corpus
    assert not (folder / hostile.CANARY).exists()
    assert sorted(path.name for path in folder.iterdir()) == ["canary.other", "files", "report.json"]
    assert not printed


def test_every_hostile_file_ends_in_one_plain_message(corpus):
    folder, report, _ = corpus
    start = report.pop("")
    assert {name: result for name, result in report.items() if result[0] != "refused"} == {}
    for name, (_, message, _) in report.items():
        path, _, told = message.partition(": ")
        assert path == str(folder / "files" / name)
        assert told.isprintable() and len(told) < 400 and "; " in told, message
    report[""] = start


def test_memory_stays_bounded(corpus):
    _, report, _ = corpus
    if not report[""][2]:
        pytest.skip("this system does not tell a process its peak memory")
    assert max(result[2] for result in report.values()) - report[""][2] < MOST_KIB


def test_a_refusal_names_what_the_file_wanted(corpus):
    _, report, _ = corpus
    for file, wanted in (
        ("os_system.pkl", "os.system"),
        ("eval.pt", "builtins.eval"),
        ("getattr_chain_in_a_storage.pkl", "builtins.getattr"),
        ("whole_network.pkl", "torch.nn.modules.linear.Linear"),
        ("size_beyond.pt", r"reaches to number 1073741824 of a storage with 4"),
        ("leads_out.pt", "../../evil"),
    ):
        assert wanted in report[file][1]
    assert "state_dict()" in report["whole_network.pkl"][1]


def test_everything_a_file_may_name_is_of_this_project():
    """No entry of the table is a function or class from elsewhere; what a file calls is written here."""
    for name, entry in ALLOWED.items():
        if isinstance(entry, Global):
            assert entry.name == name
            make = getattr(entry.make, "func", entry.make)
            assert make is None or make.__module__.startswith("hyperinverter.published.reading."), name
        else:
            assert isinstance(entry, torch.dtype) or type(entry).__name__ == "StorageType", name


def test_source_inside_an_nvidia_pickle_is_not_looked_at(tmp_path):
    bomb = f"open({str(tmp_path / 'canary')!r}, 'w')"
    weight = torch.randn(3)
    for source in (bomb, "x" * 10**6, 7, None, {"a": [bomb]}):
        stored = Stored(nested({"weight": weight}), "Generator", changes={"module_src": source})
        file = read_published(save_nvidia(tmp_path / "g.pkl", {"G_ema": stored}))
        assert torch.equal(file.content["G_ema"].state["weight"], weight)
    assert not (tmp_path / "canary").exists()


def damaged(whole: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, dropped or doubled."""
    data = bytearray(whole)
    for _ in range(dice.choice((1, 1, 3, 10))):
        place = dice.randrange(len(data))
        kind = dice.randrange(4)
        if kind == 0:
            data[place] = dice.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del data[place : place + dice.randrange(1, 9)]
        else:
            data[place:place] = data[place : place + dice.randrange(1, 30)]
    return bytes(data)


def test_an_npz_of_three_times_its_size_is_refused(tmp_path, monkeypatch):
    """Its limit is two; that of source archives, four, had taken its place."""
    monkeypatch.setattr("hyperinverter.published.reading.archive.SPARE_BYTES", 0)
    noise, path = np.frombuffer(random.Random(0).randbytes(100_000), np.uint8), tmp_path / "a.npz"
    for zeros, is_refused in ((50_000, False), (200_000, True)):
        np.savez_compressed(path, a=noise, b=np.zeros(zeros, np.uint8))
        with pytest.raises(UserError, match="no weights compress") if is_refused else nullcontext():
            read_published(path)


@pytest.mark.parametrize("container", ["zip", "old", "nvidia", "npy", "npz", "safetensors"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(container, tmp_path):
    path, state = tmp_path / "file", {"a": torch.randn(4, 3), "b": torch.ones(2).half()}
    if container in ("zip", "old"):
        torch.save({"state_dict": state, "opts": {"x": 1}}, path, _use_new_zipfile_serialization=container == "zip")
    elif container == "nvidia":
        path.write_bytes(nvidia_bytes({"G": Stored(nested(state), "Generator", {"z_dim": 4})}))
    elif container == "npy":
        np.save(path.with_suffix(".npy"), np.ones((2, 3)))
        path = path.with_suffix(".npy")
    elif container == "npz":
        np.savez_compressed(path.with_suffix(".npz"), a=np.ones((2, 3)), b=np.arange(4))
        path = path.with_suffix(".npz")
    else:
        path.write_bytes(save(state))
    whole, dice = path.read_bytes(), random.Random(0)
    endings = set()
    for _ in range(250):
        path.write_bytes(damaged(whole, dice))
        try:
            read_published(path)
            endings.add("read")
        except UserError as error:
            endings.add("refused")
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert "refused" in endings


def generator_file(path: Path, **changes) -> Path:
    """A small generator as an NVIDIA pickle, with entries changed (None: left out)."""
    torch.manual_seed(0)
    state = Generator(resolution=8, z_dim=4, w_dim=4, channel_base=64, channel_max=8, mapping_layers=2).state_dict()
    state = {key: value for key, value in (state | changes).items() if value is not None}
    return save_nvidia(path, {"G_ema": Stored(nested(state), "Generator", {"img_resolution": 8, "z_dim": 4})})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("synthesis.b8.conv1.weight", torch.full((8, 8, 3, 3), torch.nan), "NaN"),
        ("synthesis.b8.conv1.affine.weight", None, "synthesis.b8.conv1.affine.weight"),
        ("synthesis.b8.extra", torch.ones(3), "synthesis.b8.extra"),
        ("synthesis.b8.conv1.bias", torch.ones(5), "synthesis.b8.conv1.bias"),
        ("synthesis.b8.conv1.bias", torch.ones(8, dtype=torch.complex64), "synthesis.b8.conv1.bias"),
        ("synthesis.b8.conv1.bias", torch.ones(8, dtype=torch.int64), "synthesis.b8.conv1.bias"),
    ],
)
def test_weights_that_are_no_generator_are_refused_by_key(key, value, message, tmp_path):
    pytest.importorskip("hyperinverter.published.nvidia")
    from_published(generator_file(tmp_path / "whole.pkl"), "stylegan2_ada_generator")
    with pytest.raises(UserError, match=message):
        from_published(generator_file(tmp_path / "damaged.pkl", **{key: value}), "stylegan2_ada_generator")
