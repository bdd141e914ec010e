"""Text from files of any origin, made fit for a terminal, or read as the number or path it may be."""

import os
import re
from pathlib import Path


def printable(text: str, keep: str = "", longest: int | None = None) -> str:
    """The same text with control, formatting and undecodable characters written as escapes (`\\x1b`).

    A name inside a file may hold what moves the cursor, sets a window's title or reverses the reading direction.

    Args:
        text: to be shown.
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
