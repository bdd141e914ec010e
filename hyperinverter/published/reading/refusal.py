"""Why a file is not read, and how much it may ask for: one exception inside this folder, which `read_published` turns
into one plain message."""

import re
from dataclasses import dataclass

FETCH_AGAIN = "fetch it again from where its authors published it"
SHOWN_CHARACTERS = 80  # of any text that comes out of the file
STEPS = 2_000_000  # the largest published checkpoint with optimizer states needs about 100 000
SPARE_BYTES = 2**24


class UnreadableFile(Exception):
    """One reason; the reader adds the file's name. `remedy`: what to do about it."""

    def __init__(self, reason: str, remedy: str = FETCH_AGAIN) -> None:
        super().__init__(reason)
        self.remedy = remedy


class Foreign(UnreadableFile):
    """It is whole, but a picture, a text or a program: another file is wanted, not another download of this one."""


def cut_short(detail: str) -> UnreadableFile:
    """The file ends before its content does."""
    return UnreadableFile(f"it is cut short, as after an interrupted download ({detail})")


def shown(text: object) -> str:
    """Text from the file for a message: one line, printable, not long; of anything but text and numbers the type."""
    if not isinstance(text, str | int | float | None):  # written out, a small structure can be endless
        text = f"<{type(text).__name__}>"
    plain = re.sub(r"[^\x20-\x7e]+", "?", str(text)[: 2 * SHOWN_CHARACTERS])
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[:SHOWN_CHARACTERS] + "..."


@dataclass
class Budget:
    """How much work one file may still ask for, shared by everything nested in it."""

    steps: int = STEPS
    copied_bytes: int = SPARE_BYTES

    @classmethod
    def of(cls, file_bytes: int) -> "Budget":
        """For a file of that size: its bytes may be copied twice (unaligned numbers, the other byte order)."""
        return cls(copied_bytes=2 * file_bytes + SPARE_BYTES)

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise UnreadableFile(f"it asks for more than {STEPS} steps to be read, far more than any checkpoint needs")

    def copy(self, count: int) -> None:
        """About to copy that many bytes out of the file."""
        self.copied_bytes -= count
        if self.copied_bytes < 0:
            raise UnreadableFile("it asks for many times its own size in memory")
