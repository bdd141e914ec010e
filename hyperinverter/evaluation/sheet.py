"""The contact sheet of an evaluation: input, every method's output, and where the last one differs from the input."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hyperinverter.utils.images import contact_sheet, difference_map

TITLES = {"w_encoder": "Phase I (w_encoder)", "hyperinverter": "Phase II (hyperinverter)",
          "phase3": "Phase III (phase3)"}  # fmt: skip
DIFFERENCE_MAXIMUM = 0.5  # drawn in red; mean over channels, [-1,1] units
SHEET_RULE = "a third each of the best, median and worst images by L2 of {method}, best first"


@dataclass(frozen=True)
class Row:
    """One row of the sheet: which image, and its place among all."""

    index: int
    place: str


def choose_rows(values: list[float], count: int) -> list[Row]:
    """A third each of the lowest, the middle and the highest values; all of them, in order, when there are few."""
    order = sorted(range(len(values)), key=values.__getitem__)
    total = len(order)
    count = min(count, total)
    places = list(range(total))
    if count < total:
        best, worst = (count + 2) // 3, (count + 1) // 3
        middle = count - best - worst
        start = min(max((total - middle) // 2, best), total - worst - middle)
        places = [*range(best), *range(start, start + middle), *range(total - worst, total)]
    return [Row(order[place], f"{place + 1} of {total}") for place in places]


def draw_sheet(
    path: Path,
    rows: list[Row],
    names: list[str],
    values: list[float],
    originals: dict[str, Tensor],
    methods: dict[str, Callable[[Tensor, list[str]], Tensor]],
) -> None:
    """Write the sheet.

    Args:
        values: L2 of the last method, by index.
        originals: name -> image [3,R,R] in [-1,1], for at least the chosen ones.
        methods: heading -> what makes reconstructions of images [1,3,R,R] with their names.
    """
    cells, captions = [], []
    for row in rows:
        name = names[row.index]
        original = originals[name]
        outputs = [reconstruct(original[None], [name])[0].cpu() for reconstruct in methods.values()]
        cells.append([original, *outputs, difference_map(original, outputs[-1], DIFFERENCE_MAXIMUM)])
        captions.append(f"{row.place}\n{name}\nL2 {values[row.index]:.4f}")
    headings = ["input", *methods, f"difference (red: {DIFFERENCE_MAXIMUM})"]
    contact_sheet(cells, headings, path, captions)
