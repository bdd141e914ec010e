"""Names of results, made from names that come from outside: members of archives, keys of databases, files, directions.

Every name of a result that is not a constant of the program is made here. Such a name never leads out of the output
folder, never hides a file or stands for one of the program's own, and is short enough for every file system.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from hyperinverter.utils.errors import UserError

LONGEST_PART = 160  # bytes of a file's or folder's name: 255 is the usual limit, suffixes and temporary names need room
LONGEST_PATH = 1000  # bytes of a name with its folders
WRITTEN = (".png", ".gif", ".json", ".safetensors", ".md", ".csv", ".svg")  # suffixes of the commands' own files
FORBIDDEN = re.compile(r'[:*?"<>|]')  # what Windows takes in no name; "C:" is a drive
NAMELESS = "image"  # what "/" or ".." is called


def file_name(name: str) -> str:
    """A name from outside as one name of a file or folder; its folders go in front of it."""
    return _fit("_".join(_parts(name)))


def inside(output: Path, name: str) -> Path:
    """Where a result of that name lies: never behind a link that leads out of `output`, which may itself be one.

    Raises UserError: it, or a folder in it, is such a link.
    """
    try:
        if (output / name).resolve().is_relative_to(output.resolve()):
            return output / name
    except (OSError, RuntimeError):  # links in a circle
        pass
    raise UserError(f"{output / name}: a link that leads out of {output}; remove it, or give another output=FOLDER")


class OutputNames:
    """Names for the results of many inputs, each different, also where a file system does not distinguish A from a.

    `reserved`: names, without suffix, that the command's own files have.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = {_key(name) for name in reserved}
        self._numbers: dict[str, int] = {}  # name -> the last number given to it: no input costs more than the first

    def label(self, source: str) -> str:
        """A name without folders and suffix; with its folders, then a number, where that is taken.

        Fit for a file (a suffix is put behind it) and for a folder beside the command's own files.
        """
        parts = _parts(source)
        parts[-1] = os.path.splitext(parts[-1])[0]
        return self._free([_no_suffix_of_ours(_fit(text)) for text in (parts[-1], "_".join(parts))])

    def file(self, name: str) -> str:
        """As `file_name`, with a number where that is taken."""
        return self._free([file_name(name)])

    def path(self, source: str, suffix: str, keep_suffix: bool = False) -> str:
        """A relative path with the source's folders that ends in `suffix`; with a number where that is taken."""
        parts = _parts(source)
        if not keep_suffix:
            parts[-1] = os.path.splitext(parts[-1])[0]
        if sum(len(part) for part in parts) > LONGEST_PATH // 4:
            parts = ["_".join(parts)]
        folders = [_no_suffix_of_ours(_fit(part)) for part in parts[:-1]]  # no folder a.png where a file a.png may be
        return self._free(["/".join([*folders, _fit(parts[-1])])]) + suffix

    def _free(self, candidates: list[str]) -> str:
        name = next((name for name in candidates if _key(name) not in self._taken), None)
        if name is None:
            base = candidates[-1]
            number = self._numbers.get(_key(base), 1)
            while name is None or _key(name) in self._taken:
                number += 1
                name = f"{base}_{number}"
            self._numbers[_key(base)] = number
        self._taken.add(_key(name))
        return name


def _parts(name: str) -> list[str]:
    """Folders and file; "/", "..", "." mean nothing here, and "\\" separates as "/" does. Never empty."""
    return [part for part in re.split(r"[/\\]", name) if part.strip(" .")] or [NAMELESS]


def _fit(part: str) -> str:
    """One name of a file or folder; names that had to be cut are distinguished by a hash."""
    text = "".join(letter if letter.isprintable() else "_" for letter in FORBIDDEN.sub("_", part)).strip(" ")
    text = re.sub(r"^\.+", "_", text)  # a dot in front hides a file, as the program's own lock is hidden
    if len(text.encode()) > LONGEST_PART:
        digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        text = f"{text.encode()[: LONGEST_PART - 13].decode(errors='ignore')}_{digest}"
    return text.rstrip(" .") or "_"  # Windows drops them from the end


def _no_suffix_of_ours(name: str) -> str:
    """A photo edit.json.png must not become a folder where edit.json is written."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_{suffix}" if dot and f".{suffix.lower()}" in WRITTEN else name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
