"""Which images are for training, which one stands at which position of their endless shuffled stream, and mirrored.

Pure functions of names, seeds and positions, so that resuming needs no state.
"""

import hashlib
import logging
from functools import lru_cache

import numpy as np

from hyperinverter.data.image_source import ImageSource, Subset
from hyperinverter.data.names import SURROGATES

logger = logging.getLogger(__name__)


def sample_indices(n: int, seed: int, start: int, count: int) -> list[int]:
    """Image indices at positions start .. start+count-1 of the stream.

    Epoch e (positions e*n .. (e+1)*n-1) holds every index exactly once, in an order drawn from (seed, e).

    Args:
        start: position of the first index, counted in images since the start of training.
        count: how many; may reach over the end of an epoch or exceed n.
    Raises:
        ValueError: n < 1, or a negative start or count.
    """
    if n < 1 or start < 0 or count < 0:
        raise ValueError(f"expected n >= 1, start >= 0, count >= 0; got n={n}, start={start}, count={count}")
    indices: list[int] = []
    position, end = start, start + count
    while position < end:
        epoch, offset = divmod(position, n)
        taken = epoch_permutation(n, seed, epoch)[offset : offset + end - position]
        indices += taken.tolist()
        position += len(taken)
    return indices


@lru_cache(maxsize=3)  # 8 bytes an image each: this epoch's, the next one's, and one that another reader is in
def epoch_permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of epoch `epoch`, int64 [n]."""
    order = np.random.default_rng([seed % 2**64, epoch]).permutation(n)
    order.flags.writeable = False  # shared by every caller through the cache
    return order


def split_by_name(source: ImageSource, fraction: float) -> tuple[ImageSource, ImageSource]:
    """Split into (training, validation) by a hash of each image's name: adding images moves none.

    The one exception keeps a small set usable: when no name falls into validation, the one nearest to it is taken.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, got {fraction}")
    if len(source) == 1 and fraction > 0:
        logger.warning("the only image, %s, serves for training and for validation", source.names[0])
        return source, source
    digests = (hashlib.sha1(key.encode("utf-8", SURROGATES)).digest() for key in source.split_keys)
    hashes = np.fromiter((int.from_bytes(digest[:4], "big") / 2**32 for digest in digests), float, len(source))
    held_out = hashes < fraction
    if fraction > 0 and len(source) > 0 and not held_out.any():
        held_out[hashes.argmin()] = True
    return Subset(source, np.flatnonzero(~held_out)), Subset(source, np.flatnonzero(held_out))


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
