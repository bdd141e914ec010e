"""Freed memory that stays with a process: every command draws one picture after the other."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # glibc's malloc.h
KEPT_BYTES = 1 << 30  # freed memory beyond this goes back to the system; also: the largest piece that is kept
KEPT_BEFORE_2_35 = 1 << 25  # the largest piece that an older glibc can be told to keep


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, up to KEPT_BYTES, for what is allocated next; False where there is no glibc.

    It gives pieces of some megabytes back at once, and the system fills each with zeros again, page by page: a picture
    of ffhq_mobile at 256 px took 30,000 page faults and a fifth of its time, a step of refinement a third. Threads that
    begin later take their memory from the same pool: one of their own holds no large pieces, and the app draws in a
    thread. Numbers do not change.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl; TypeError: Windows
        return False
    # Any call that takes hold ends what glibc does by itself, keeping ever larger pieces: this one comes first.
    if not any(mallopt(MMAP_THRESHOLD, size) for size in (KEPT_BYTES, KEPT_BEFORE_2_35)):
        return False
    return all([mallopt(TRIM_THRESHOLD, KEPT_BYTES), mallopt(ARENA_MAX, 1)])
