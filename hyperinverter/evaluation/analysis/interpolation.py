"""Real images blended into each other (figure 9): codes and weights together, against codes only."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.inverters.inversion import interpolate
from hyperinverter.utils.images import contact_sheet, save_gif

FRAME_MS = 160
GIF_FRAMES = 15  # of an animation at least; the strip has `steps`


def draw_interpolations(
    inverter: Inverter, images: Tensor, names: list[str], steps: int, folder: Path
) -> dict[str, Any]:
    """Write interpolation.png (two rows per pair) and interpolation_<pair>.gif (both ways side by side).

    Args:
        images: [2 pairs, 3, R, R]; the first is blended into the second, the third into the fourth, ...
        steps: pictures of a blend on the strip.
    Returns:
        What interpolation.json holds: per pair and way the names of its ends, L2 of the ends to the inputs, and how
        even the steps are: the largest step between neighbouring pictures over the mean one (1: all alike).
    """
    result, rows, captions = [], [], []
    for first in range(0, len(images), 2):
        ends, labels = images[first : first + 2], names[first : first + 2]
        inversions = list(inverter.invert(ends.to(inverter.device), batch_size=2))
        pair: dict[str, Any] = {"first": labels[0], "last": labels[1]}
        animations = []
        ways = {"codes_and_weights": True, "codes_only": False}
        if not inversions[0].has_weights:
            del ways["codes_and_weights"]  # the method changes none
        for way, weights in ways.items():
            frames = _frames(inverter, inversions, steps, weights)
            animations.append(_frames(inverter, inversions, max(steps, GIF_FRAMES), weights))
            moved = (frames[1:] - frames[:-1]).square().mean((1, 2, 3)).sqrt()
            l2 = (frames[[0, -1]] - ends.cpu()).square().mean((1, 2, 3))
            pair[way] = {"l2_ends": l2.tolist(), "largest_step_over_mean": float(moved.max() / moved.mean())}
            rows.append([ends[0], *frames, ends[1]])
            captions.append(f"{way.replace('_', ' ')}\n{labels[0]} to\n{labels[1]}")
        save_gif(list(torch.cat(animations, dim=3)), folder / f"interpolation_{first // 2}.gif", FRAME_MS)
        result.append(pair)
    headings = ["input 1", *(f"t = {t:.2f}" for t in torch.linspace(0, 1, steps).tolist()), "input 2"]
    contact_sheet(rows, headings, folder / "interpolation.png", captions)
    return {"pairs": result, "steps": steps}


def _frames(inverter: Inverter, ends: list[Inversion], steps: int, weights: bool) -> Tensor:
    """[steps, 3, R, R] on the CPU, in [-1, 1]."""
    blended = Inversion.cat(interpolate(*ends, steps, weights))
    return inverter.render(blended).clamp(-1, 1).cpu()
