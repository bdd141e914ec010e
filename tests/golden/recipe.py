"""The written recipe behind the recorded outputs: every weight and input follows from its name and a seed.

A draw is `numpy.random.RandomState(crc32(name) ^ seed)`, standard normal, float32. A fill table lists every published
key with shape, rule and sum; a rule scales and shifts the draw so that the network's numbers stay of order one.
"""

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

KEPT = "keep"  # filters and constants that the network makes itself; not part of a filled state
SCALE_AND_SHIFT = {
    "one": (1.0, 0.0),
    "tenth": (0.1, 0.0),
    "w_avg": (0.1, 0.0),
    "one_plus_tenth": (0.1, 1.0),
    "bn_weight": (0.1, 1.0),
    "bn_bias": (0.1, 0.0),
    "bn_mean": (0.1, 0.0),
    "bn_var": (0.1, 1.0),
    "prelu": (0.05, 0.25),
    "lr_weight": (100.0, 0.0),  # StyleGAN2's mapping stores weights divided by its rate 0.01
    "lr_bias": (10.0, 0.0),
    "abs_one": (1.0, 0.0),
}
POSITIVE = ("bn_var", "abs_one")


def draw(name: str, shape: list[int], seed: int) -> np.ndarray:
    """Standard normal float32 numbers of a name."""
    source = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    return np.asarray(source.standard_normal(tuple(shape)), dtype=np.float32)


def filled(name: str, shape: list[int], rule: str, seed: int) -> np.ndarray:
    """One tensor of a fill table; rules named fan_in divide by the root of the inputs of one output."""
    if rule == "zero":
        return np.zeros(shape, np.float32)
    if rule == "fan_in":
        scale, shift = 1 / math.sqrt(math.prod(shape[1:])), 0.0  # an empty product is 1
    elif rule == "fan_in_rows":
        scale, shift = 1 / math.sqrt(shape[0]), 0.0
    else:
        scale, shift = SCALE_AND_SHIFT[rule]
    numbers = draw(name, shape, seed)
    if rule in POSITIVE:
        numbers = np.abs(numbers)
    return np.float32(shift) + np.float32(scale) * numbers


def fill_table(path: Path, seed: int, zero: str = "") -> dict[str, np.ndarray]:
    """Published key -> tensor; each sum must be the recorded one, else the recipe was not followed.

    Keys that match `zero` get zeros instead.
    """
    state = {}
    for key, (shape, rule, total) in json.loads(path.read_text()).items():
        if rule == KEPT:
            continue
        if zero and re.match(zero, key):
            state[key] = np.zeros(shape, np.float32)
            continue
        state[key] = filled(key, shape, rule, seed)
        assert math.isclose(state[key].sum(dtype=np.float64), total, rel_tol=1e-4, abs_tol=1e-3), key
    return state


def make_input(entry: dict[str, Any], seed: int) -> np.ndarray:
    """One input: normal numbers, or an image in [-1, 1] (a coarse 4x4 grid of blocks plus noise)."""
    shape = entry["shape"]
    fine = draw(entry["hash_key"], shape, seed)
    if entry.get("kind") != "image":
        return np.float32(entry["offset"]) + np.float32(entry["scale"]) * fine
    n, channels, height, width = shape
    grid = draw(entry["hash_key_coarse"], [n, channels, 4, 4], seed)
    rows, columns = (np.arange(side) // math.ceil(side / 4) for side in (height, width))
    return np.clip(np.float32(0.25) * fine + np.float32(0.5) * grid[:, :, rows][..., columns], -1, 1)
