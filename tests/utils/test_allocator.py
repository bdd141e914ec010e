"""Freed memory stays with the process, or goes back as usual. Needs glibc."""

import os
import sys
from pathlib import Path

import pytest
import torch

from hyperinverter.utils.allocator import give_back, keep_freed_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
BLOCK_MIB = 256


@pytest.fixture(autouse=True)
def usual():
    if not keep_freed_memory(False):
        pytest.skip("this C library has no mallopt")
    yield
    keep_freed_memory(False)


def pages_taken() -> int:
    """Pages that a block takes from the system which is made, filled and freed after one as large.

    The least of a few times: a system that is short of memory also takes pages away in between.
    """
    import resource

    found = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(BLOCK_MIB * 2**18)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found[1:])


def test_freed_blocks_are_used_again():
    returned = pages_taken()
    assert keep_freed_memory()
    kept = pages_taken()
    assert kept < returned / 4


def test_kept_memory_can_be_given_back():
    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    keep_freed_memory()
    between = [torch.ones(BLOCK_MIB * 2**18), torch.ones(1)]  # something small after it stays in use
    del between[0]
    held = resident_mib()
    give_back()
    assert resident_mib() < held - BLOCK_MIB / 2
