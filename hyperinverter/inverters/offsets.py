"""What edits of single channels add to layers' styles: parameter name of a style's bias -> [N, C]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperinverter.models.residuals import Residuals

Offsets = dict[str, Tensor] | None


def alike(parts: Sequence[Offsets], counts: Sequence[int], like: Tensor) -> list[Offsets]:
    """Offsets of several Inversions under the same names, with zeros where one has none.

    Args:
        parts: of each.
        counts: N of each.
        like: gives type and device of the zeros.
    """
    channels = {name: value.shape[1] for part in parts for name, value in (part or {}).items()}
    if not channels:
        return [None for _ in parts]
    return [
        {name: (part or {}).get(name, like.new_zeros(count, size)) for name, size in channels.items()}
        for part, count in zip(parts, counts, strict=True)
    ]


def joined(parts: Sequence[Offsets], counts: Sequence[int], like: Tensor) -> Offsets:
    """Offsets of several Inversions, one after the other; arguments as of `alike`."""
    whole = [part for part in alike(parts, counts, like) if part is not None]
    return {name: torch.cat([part[name] for part in whole]) for name in whole[0]} if whole else None


def with_offsets(residuals: Residuals | None, offsets: Offsets) -> Residuals | None:
    """Residuals with the offsets added to what there is for the same biases."""
    if not offsets:
        return residuals
    there = dict(residuals or {})
    for name, offset in offsets.items():
        there[name] = offset + old if isinstance(old := there.get(name), Tensor) else offset
    return there
