"""Text from files of any origin, made fit for a terminal, or read as the number or path it may be."""

import gzip
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

LONGEST_LINE = 1 << 20  # characters
MOST_COLUMNS = 10_000
SPARE_CHARACTERS = 200_000_000  # of all lines beside three times the file
LINE_COSTS = 40  # of these, whatever is in it: lines take time too
SPARE_BYTES = 150_000_000  # of all rows beside twice the file
SHORT = 3  # characters of a text that is kept once for all rows that have it: 0, 1, -1, yes


def printable(text: str, keep: str = "", longest: int | None = None) -> str:
    """The same text with control, formatting and undecodable characters written as escapes (`\\x1b`).

    A name inside a file may hold what moves the cursor, sets a window's title or reverses the reading direction.

    Args:
        keep: characters that stay as they are, such as line ends.
        longest: characters after which it is cut; None: never.
    """
    if longest is not None and len(text) > longest:
        text = text[:longest] + "..."
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def counted(count: int, what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {what}{'s' * (count != 1)}"


def whole_number(text: str) -> int | None:
    """The number that up to 15 plain digits are, else None: `int` fails on `²`, a digit, and on 5,000 of them."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def expanded(path: str | Path) -> Path:
    """A path with `~` or `~user` at its front replaced by that user's folder, as a shell does; else as it is."""
    return Path(os.path.expanduser(path))  # pathlib's own raises for a user that is not there


def bounded_lines(path: Path) -> Iterator[str]:
    """The lines of a text in UTF-8, unpacked where the name ends in .gz; each with its end, within bounds.

    A few bytes of a .gz file unpack to gigabytes, also as a single line.

    Raises:
        OSError, EOFError: it cannot be read.
        ValueError: it is no text, or more of it than a file of its size should hold.
    """
    left = 3 * path.stat().st_size + SPARE_CHARACTERS
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
        while line := file.readline(LONGEST_LINE):
            left -= len(line) + LINE_COSTS
            if len(line) >= LONGEST_LINE:
                raise ValueError(f"a line has {LONGEST_LINE} characters or more")
            if left < 0:
                raise ValueError(f"it unpacks to more than {SPARE_CHARACTERS} characters")
            yield line


class Row(Mapping[str, str | None]):
    """One row by its columns; None where it is too short. Rows of one table share `places`."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: tuple[str, ...]) -> None:
        self._places, self._values = places, values

    def __getitem__(self, column: str) -> str | None:
        place = self._places[column]
        return self._values[place] if place < len(self._values) else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def rows_within(columns: Sequence[str], fields: Iterable[Sequence[str]], file_bytes: int) -> list[Row]:
    """Rows of a table; what is longer than the head is left out.

    A dictionary for each row would take thirty times its text: a row is a tuple that shares its columns with others.

    Raises ValueError: there are more columns or more text than a table of so many bytes should take.
    """
    if len(columns) > MOST_COLUMNS:
        raise ValueError(f"it has {len(columns)} columns")
    places = {column: place for place, column in enumerate(columns)}
    once: dict[str, str] = {}
    left, rows = 2 * file_bytes + SPARE_BYTES, []
    for values in fields:
        kept = tuple(once.setdefault(text, text) if len(text) <= SHORT else text for text in values[: len(columns)])
        left -= 250 + sum(8 if len(text) <= SHORT else 64 + len(text) for text in kept)  # as Python holds them
        if left < 0 or len(once) > MOST_COLUMNS:
            raise ValueError(f"its rows take more memory than a table of {file_bytes} bytes should")
        rows.append(Row(places, kept))
    return rows
