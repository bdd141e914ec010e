"""The one exception class for refusals that a user can mend; the commands print it as a plain message, no traceback."""

import lzma
import pickle
import re
import struct
import zipfile
import zlib

from hyperinverter.utils.text import printable


class UserError(Exception):
    """Something about the input, not about the code: says what was got, what was expected, and what to do.

    A subclass may also inherit from ValueError, FileNotFoundError or RuntimeError, so that callers of the Python API
    can catch the usual type.
    """

    exit_code = 2  # that its command ends with, as argparse's own


class Unfinished(UserError):
    """Parts of the work failed and the rest is done: names what failed and why."""

    exit_code = 1


# What Python, NumPy, torch, Pillow, zipfile and pickle raise on content that is damaged or hostile; there is no common
# class for it, and memory that a file asks for in vain belongs to it. Whoever reads content from outside catches these
# and tells the file's name; OSError is apart, because most readers have more to say of the disk than of the content.
DAMAGED = (ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError,
           RuntimeError, SyntaxError, SystemError, TypeError, ValueError, struct.error, zlib.error, lzma.LZMAError,
           zipfile.BadZipFile, zipfile.LargeZipFile, pickle.UnpicklingError)  # fmt: skip


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, not long and printable; its class where it says nothing.

    Of the operating system's errors, and PyAV's, without the number and the file, which the caller names; and without
    addresses of objects in memory.
    """
    said = re.sub(r" ?<[\w.]+ object at 0x[0-9a-fA-F]+>", "", str(getattr(error, "strerror", None) or error))
    lines = said.splitlines()
    return printable(lines[0].strip() if lines else "", longest=200) or type(error).__name__
