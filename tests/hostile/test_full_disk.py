"""Disks without room under the commands that write results: one message with the file's name, nothing half-written."""

import numpy as np
import pytest
import torch
from PIL import Image
from script_runner import run_script, write_labels, write_photos

from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import save_direction
from hyperinverter.editing import align_command
from hyperinverter.extractors.align import AlignedFace
from hyperinverter.utils.files import LEFTOVER

ROOMS = {
    "invert": (50, 700, 3000), "edit": (50, 700, 3000), "interpolate": (700, 5000),
    "learn_direction": (50, 700),  # its files are smaller
    "find_directions": (50, 1000), "export_model": (50, 5000), "evaluate": (50, 700), "align": (50, 500),
}  # fmt: skip


@pytest.mark.parametrize(("command", "room"), [(command, room) for command, rooms in ROOMS.items() for room in rooms])
def test_one_message(command, room, tiny_model, tmp_path, largest_file, capsys, monkeypatch):
    photos = write_photos(tmp_path / "photos", 12, 16)
    write_labels(tmp_path / "labels.csv", photos)
    face = AlignedFace(Image.open(photos[0]), np.zeros((4, 2)), np.zeros((68, 2)))
    monkeypatch.setattr(align_command, "align_faces", lambda *_: [face])
    words = {
        "edit": [photos[0], f"directions=[{direction_file(tmp_path)}]", "strength_unit=w"],
        "interpolate": photos[:2],
        "learn_direction": [tmp_path / "photos", f"labels={tmp_path / 'labels.csv'}", "attributes={smile: Smiling}"],
        "find_directions": ["samples=64", "components=3", "styles=[0-2]", "directions={far: 0:0-2}"],
        "export_model": ["test_images=2"],
        "evaluate": [photos[0], "metrics=[l2]", "time_repeats=1"],
    }.get(command, [photos[0]])
    if command != "align":
        words += [f"model={tiny_model}", "device=cpu"]
    largest_file(room)
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script(command, [*map(str, words), f"output={tmp_path / 'out'}"], tmp_path)
    told = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert told.startswith(f"error: {tmp_path / 'out'}") and "File too large; " in told and "make room" in told
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if LEFTOVER.fullmatch(path.name) or path.stat().st_size == room]


def direction_file(folder):
    save_direction(Direction("d", torch.ones(16)), folder / "d.safetensors")
    return folder / "d.safetensors"
