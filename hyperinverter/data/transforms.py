"""What training does to an image after the resize policy of `utils.decode`: which ones are mirrored.

The published Phase II pipeline: Resize((R, R)) bilinear, horizontal flip with probability one half (training only),
normalise to [-1, 1].
"""

import numpy as np


def flips_at(seed: int, start: int, count: int) -> np.ndarray:
    """Which of the positions start .. start+count-1 are mirrored, bool [count], each with probability one half.

    A hash of (seed, position), so that the answer depends neither on the batch size nor on where a run was resumed. The
    hash is the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    origin = _mix(np.array([seed % 2**64], dtype=np.uint64))  # far apart for neighbouring seeds
    positions = np.arange(start, start + count, dtype=np.uint64)
    return (_mix(positions + origin) >> np.uint64(63)).astype(bool)


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values; every input bit reaches every output bit (arithmetic wraps modulo 2^64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
