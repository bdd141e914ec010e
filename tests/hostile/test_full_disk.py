"""Disks without room under the commands that write results: one message with the file's name, nothing half-written."""

import resource
import signal

import pytest
import torch
from script_runner import run_script, write_labels, write_photos

from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import save_direction
from hyperinverter.utils.files import LEFTOVER


@pytest.fixture
def largest_file():
    """largest_file(bytes): the system lets no file of this process grow beyond, as a full disk would."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


ROOMS = {"invert": (50, 700, 3000), "edit": (50, 700, 3000), "learn_direction": (50, 700)}  # its files are smaller


@pytest.mark.parametrize(("command", "room"), [(command, room) for command, rooms in ROOMS.items() for room in rooms])
def test_one_message(command, room, tiny_model, tmp_path, largest_file, capsys):
    photos = write_photos(tmp_path / "photos", 12, 16)
    write_labels(tmp_path / "labels.csv", photos)
    words = [f"model={tiny_model}", f"output={tmp_path / 'out'}", "device=cpu"]
    if command == "learn_direction":
        words += [
            f"data.root={tmp_path / 'photos'}",
            f"labels={tmp_path / 'labels.csv'}",
            "attributes={smile: Smiling}",
        ]
    elif command == "edit":
        words += [str(photos[0]), f"directions=[{direction_file(tmp_path)}]", "strength_unit=w"]
    else:
        words += [str(photos[0])]
    largest_file(room)
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script(command, words, tmp_path)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {tmp_path / 'out'}") and "File too large; " in told and "make room" in told
    assert not [path for path in (tmp_path / "out").rglob("*") if LEFTOVER.fullmatch(path.name)]


def direction_file(folder):
    save_direction(Direction("d", torch.ones(16)), folder / "d.safetensors")
    return folder / "d.safetensors"
