"""Numbers that a file stores once and names often: read, and bounded by the memory that they take."""

import pytest
import torch

from hyperinverter.published.reading import files, read_published
from hyperinverter.utils.errors import UserError


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("views", ["whole", "slices", "turned", "nested"])
def test_numbers_that_are_stored_once_count_once(zipped, views, tmp_path, monkeypatch):
    """HyperStyle names its shared hypernetwork ten times: 1 GB in the file, 6 GB name by name."""
    monkeypatch.setattr(files, "SPARE_BYTES", 0)
    table = torch.randn(200, 500, generator=torch.Generator().manual_seed(0))
    names = [f"block.{number}" for number in range(30)]
    state = {
        "whole": {name: table for name in names},
        "slices": {name: table[number:] for number, name in enumerate(names)},
        "turned": {name: table.t()[number % 3 :] for number, name in enumerate(names)},
        "nested": {name: {"weight": table} for name in names},
    }[views]
    torch.save({"state_dict": state, "once": torch.randn(10)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read_published(tmp_path / "x.pt").content["state_dict"]
    last, expected = found[names[-1]], state[names[-1]]
    assert torch.equal(*(value["weight"] if views == "nested" else value for value in (last, expected)))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_grows_when_it_is_read_is_refused(zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SPARE_BYTES", 0)
    table = torch.randn(200, 500)
    for content, told in (
        ({"w": torch.zeros(1).expand(10_000, 10_000)}, "take many times as much memory as the file"),
        ({f"w{i}": torch.zeros(1).expand(1000, 1000) for i in range(40)}, "take many times as much memory"),
        ({f"w{i}": table for i in range(2000)}, "written out, is many times as large as the file"),
        ([[[[table] * 10] * 10] * 10] * 10, "written out, is many times as large as the file"),
    ):
        torch.save(content, tmp_path / "bomb.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=told):
            read_published(tmp_path / "bomb.pt")
