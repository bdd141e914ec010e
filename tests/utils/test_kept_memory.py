"""Memory that a process frees stays its own, so that it is not filled with zeros again."""

import multiprocessing
import platform
import resource
from threading import Thread

import numpy as np
import pytest

from hyperinverter.utils import kept_memory
from hyperinverter.utils.kept_memory import keep_freed_memory

PIECE, TIMES = 40_000_000, 20  # bytes, above what glibc keeps by itself


def faults_of(keep: bool, answer) -> None:
    """In a thread, as the app draws: glibc gives it a pool of its own, which holds no large pieces."""
    assert not keep or keep_freed_memory()
    thread = Thread(target=count_faults, args=(answer,))
    thread.start()
    thread.join()


def count_faults(answer) -> None:
    take_and_free()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TIMES):
        take_and_free()
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def take_and_free() -> None:
    pieces = [np.ones(PIECE, np.uint8) for _ in range(2)]
    del pieces


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_what_is_freed_is_taken_again_without_page_faults():
    context = multiprocessing.get_context("spawn")  # another test may have told this process to keep its memory
    faults = []
    for keep in (False, True):
        answer = context.SimpleQueue()
        child = context.Process(target=faults_of, args=(keep, answer))
        child.start()
        child.join(60)
        faults.append(answer.get())
    assert faults[1] * 20 < faults[0], faults


@pytest.mark.parametrize("most", [1 << 25, 0])
def test_an_older_glibc_is_told_what_it_can_keep_or_nothing(monkeypatch: pytest.MonkeyPatch, most: int):
    """Before 2.35 it refused more than 32 MiB; the other calls alone would have it keep less than it does untold."""
    told: dict[int, int] = {}

    class Older:
        def __init__(self, name: None) -> None:
            pass

        def mallopt(self, option: int, value: int) -> bool:
            if option == kept_memory.MMAP_THRESHOLD and value > most:
                return False
            told[option] = value
            return True

    monkeypatch.setattr(kept_memory.ctypes, "CDLL", Older)
    assert keep_freed_memory() == bool(most)
    assert told.get(kept_memory.MMAP_THRESHOLD, 0) == most and (len(told) == 3) == bool(most)
