"""How the C library hands out memory to a process that computes on a CPU.

glibc takes every large block from the system and gives it back when it is freed, so that a network's activations are
mapped, and filled with zeros page by page, again at every step: 5 to 10 % of its time. Source: mallopt(3), glibc.
"""

import ctypes
import gc
import sys

# mallopt's parameters and what glibc's own adaptation of them ends at (malloc.h, malloc.c)
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER = -1
LARGEST_THRESHOLD = 32 * 2**20
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: LARGEST_THRESHOLD, TRIM_THRESHOLD: 2 * LARGEST_THRESHOLD}


def keep_freed_memory(keep: bool = True) -> bool:
    """Let freed blocks stay with the process for its next ones, or (False) go back to the system as usual.

    The process then stays as large as it once was; nothing computes other numbers. Without glibc nothing happens.

    Returns:
        Whether the C library took the setting.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    wanted = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER} if keep else USUAL
    return all([mallopt(parameter, value) == 1 for parameter, value in wanted.items()])


def give_back() -> None:
    """Free what Python and the C library hold on to: before another process needs the memory, or it is measured."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's: also what lies between blocks in use
        if trim is not None:
            trim(0)


def _mallopt() -> "ctypes._FuncPointer | None":
    """glibc's function; None on another system, or with a C library (musl) that has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (musl has a mallopt that does nothing, but no such name)
        return library.mallopt
    except (OSError, AttributeError):
        return None
