"""Where Phase II changes the picture (figures 12 to 14): |x̂ - x̂_w|, averaged over images and for single ones.

Letters: N images, R pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.evaluation.comparison import statement
from hyperinverter.evaluation.drawing import new_figure, save_figure
from hyperinverter.evaluation.sheet import DIFFERENCE_MAXIMUM, Row, choose_rows
from hyperinverter.inverters import Inverter
from hyperinverter.metrics.base import bootstrap_ratio
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import contact_sheet, difference_map

GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, what Pillow's mode L computes
SHEET_RULE = "a third each of the images that Phase II changes least, at the median, and most"


@dataclass
class MeanMap:
    """Sum of the difference maps seen so far, and each image's means: no map of a single image is kept."""

    total: Tensor | None = None  # [3, R, R], float64
    means: list[float] = field(default_factory=list)
    greys: list[tuple[float, float]] = field(default_factory=list)  # of the grey map: all of it, and its top left ninth
    names: list[str] = field(default_factory=list)

    def add(self, phase1: Tensor, phase2: Tensor, names: list[str]) -> None:
        """Two batches [n, 3, R, R] in [-1, 1]."""
        maps = (phase2 - phase1).abs().double().cpu()
        self.total = maps.sum(0) if self.total is None else self.total + maps.sum(0)
        self.means += maps.mean((1, 2, 3)).tolist()
        grey = torch.einsum("c,nchw->nhw", torch.tensor(GREY, dtype=torch.float64), maps)
        top_left = grey.tensor_split(3, 1)[0].tensor_split(3, 2)[0]
        self.greys += zip(grey.mean((1, 2)).tolist(), top_left.mean((1, 2)).tolist(), strict=True)
        self.names += names

    def grey(self) -> Tensor:
        """Mean over the images, as one grey map [R, R] in units of [-1, 1]."""
        if self.total is None:
            raise UserError("there are no images to analyse; give data.root a folder, zip or LMDB that holds some")
        return torch.einsum("c,chw->hw", torch.tensor(GREY, dtype=torch.float64), self.total / len(self.means))


def both_phases(inverter: Inverter, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images [n, 3, R, R] -> what Phase I (the code alone) and both phases make of them, clamped to [-1, 1]."""
    inversion = inverter.invert(images, batch_size=len(images))
    phase1, phase2 = (
        inverter.render(one, batch_size=len(images)).clamp(-1, 1) for one in (inversion.without_weights(), inversion)
    )
    return phase1, phase2


def measure_difference_maps(inverter: Inverter, batches: Iterable[tuple[Tensor, list[str]]]) -> MeanMap:
    """One pass over the images, on the method's device, with their names."""
    result = MeanMap()
    for images, names in batches:
        result.add(*both_phases(inverter, images), names)
    return result


def as_json(results: MeanMap, kind: str) -> dict[str, Any]:
    """What difference_maps.json holds; ninths are counted from the top left, row by row."""
    grey = results.grey()
    ninths = [[float(part.mean()) for part in row.tensor_split(3, 1)] for row in grey.tensor_split(3, 0)]
    result: dict[str, Any] = {
        "images": len(results.means),
        "unit": "mean absolute difference of Phase I and final image, grey, images in [-1, 1]",
        "mean": float(grey.mean()),
        "largest": float(grey.max()),
        "ninths": ninths,
        "sheet_rule": SHEET_RULE,
    }
    if kind != "faces":
        whole, top_left = np.array(results.greys).T
        text, ratio = "the whole changes more than the top left, which often is sky", result["mean"] / ninths[0][0]
        result["statements"] = [statement(text, ratio, bootstrap_ratio(top_left, whole))]
    return result


def draw_mean_map(result: MeanMap, title: str, folder: Path) -> list[str]:
    """Write difference_map.svg and .png, with the scale beside; their names."""
    figure, axes = new_figure(5.6, 4.6)
    shown = axes.imshow(result.grey().numpy(), cmap="turbo", vmin=0)
    axes.set(xticks=[], yticks=[], title=f"{title}, {len(result.means):,} images")
    figure.colorbar(shown, ax=axes, label="mean |final - Phase I|, of [-1, 1]")
    return [path.name for path in save_figure(figure, folder / "difference_map")]


def draw_single_maps(
    inverter: Inverter, result: MeanMap, originals: Iterator[tuple[Tensor, str]], count: int, path: Path
) -> None:
    """A sheet of `count` images: input, Phase I, final image, difference, all maps on one scale.

    `originals`: every image again, [3, R, R], with its name, in any order.
    """
    rows = choose_rows(result.means, count)
    wanted = {result.names[row.index]: row for row in rows}
    cells: dict[Row, list[Tensor]] = {}
    for image, name in originals:
        if name in wanted:
            phase1, phase2 = (one[0].cpu() for one in both_phases(inverter, image[None].to(inverter.device)))
            cells[wanted[name]] = [image.cpu(), phase1, phase2, difference_map(phase1, phase2, DIFFERENCE_MAXIMUM)]
            if len(cells) == len(rows):
                break
    headings = ["input", "Phase I", "final", f"changed by Phase II (red: {DIFFERENCE_MAXIMUM} or more)"]
    captions = [f"{row.place}\n{result.names[row.index]}\nmean {result.means[row.index]:.4f}" for row in rows]
    contact_sheet([cells[row] for row in rows], headings, path, captions)
