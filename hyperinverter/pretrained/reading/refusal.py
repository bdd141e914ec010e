"""Why a file is not read: one exception inside this folder, which `read_published` turns into one plain message."""

import re

FETCH_AGAIN = "fetch it again from where its authors published it"
SHOWN_CHARACTERS = 80  # of any text that comes out of the file


class Refused(Exception):
    """One reason; the reader adds the file's name.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, reason: str, remedy: str = FETCH_AGAIN) -> None:
        super().__init__(reason)
        self.remedy = remedy


def cut_short(detail: str) -> Refused:
    """The file ends before its content does."""
    return Refused(f"it is cut short, as after an interrupted download ({detail})")


def shown(text: object) -> str:
    """Text from the file for a message: one line, printable, not long; of anything but text and numbers the type."""
    if not isinstance(text, str | int | float | None):  # written out, a small structure can be endless
        text = f"<{type(text).__name__}>"
    plain = re.sub(r"[^\x20-\x7e]+", "?", str(text)[: 2 * SHOWN_CHARACTERS])
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[:SHOWN_CHARACTERS] + "..."
