"""Paths and patterns of images as they are typed, looked up without opening anything."""

import glob
import os
from pathlib import Path
from typing import Any

from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import expanded


class MissingDataError(UserError, FileNotFoundError):
    """A path or pattern of images matches nothing."""


def check_given(data: Any) -> None:
    """Refuse a command's `data` section that names no images.

    Raises UserError: data.root is not set, and data.kind, if there is such a key, is not generated.
    """
    if data.root or getattr(data, "kind", None) == "generated":
        return
    or_drawn = (
        "; or write data.kind=generated to take samples of the generator" if hasattr(data, "num_generated") else ""
    )
    raise UserError(
        "no images were given: name files, folders, zips, LSUN LMDB folders or quoted globs of these (data.root)"
        f"{or_drawn}"
    )


def expand(root: str) -> list[Path]:
    """The path itself, or what a pattern matches, sorted. Raises MissingDataError: nothing is there."""
    if not root.strip():  # of an unset variable of the shell; pathlib takes it for the current folder
        raise MissingDataError("the name of the images is empty; write a file or folder, or . for the current folder")
    path = expanded(root)
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(root) else []
    if not matches:
        what = "no file matches the pattern" if glob.has_magic(root) else "there is no file or folder"
        raise MissingDataError(
            f"{what} {root} (looked from {os.getcwd()}): check the name; images are given as a file, a folder, a .zip, "
            "an LSUN LMDB folder, a quoted glob such as 'train_*.zip', or (data.root) a list [a,b] of these"
        )
    return [Path(match) for match in matches]
