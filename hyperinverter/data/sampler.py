"""Which image stands at which position of an endless shuffled stream: a pure function, so resuming needs no state."""

from functools import lru_cache

import numpy as np


def sample_indices(n: int, seed: int, start: int, count: int) -> list[int]:
    """Image indices at positions start .. start+count-1 of the stream.

    Epoch e (positions e*n .. (e+1)*n-1) holds every index exactly once, in an order drawn from (seed, e).

    Args:
        n: number of images.
        seed: any integer; other seeds give other orders.
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
