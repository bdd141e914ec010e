"""The start of every command: one call that seeds every random generator the package may use and sets the threads."""

import random

import numpy as np
import torch


def seed_everything(seed: int, threads: int | None = None) -> None:
    """Seed Python, NumPy and torch (all devices), and set torch's CPU threads, on which the last digits depend.

    Args:
        seed: 0 <= seed < 2**32, NumPy's range. The published seed is 2107.
        threads: of the CPU; None leaves torch's choice.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
