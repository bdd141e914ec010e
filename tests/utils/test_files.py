"""Output folders that cannot be written are refused before any work is done, and nothing is made by asking."""

import os
import re
from pathlib import Path

import pytest

from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import check_writable


def test_folders_that_can_be_made(tmp_path: Path):
    for name in ("new", "new/and/deeper", "."):
        check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken_link").symlink_to(tmp_path / "gone")
    for name in ("notes.txt", "notes.txt/run", "broken_link"):
        there = tmp_path / name.removesuffix("/run")
        with pytest.raises(UserError, match=re.escape(f"output is {tmp_path / name}, but {there} is not a folder")):
            check_writable(tmp_path / name)


def test_what_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(UserError, match="you may not write into"):
        check_writable(tmp_path / "a/b")
