"""What `edit_fid` measured of every row, as distances with their intervals, and how it reads.

Letters: N edited photos and as many real ones, F features, B resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.evaluation.editability import mean_of
from hyperinverter.evaluation.tables import bracketed, listed, mean
from hyperinverter.metrics.base import middle_95
from hyperinverter.metrics.weighted_sets import Kernels, frechet, redrawn
from hyperinverter.reports.html_page import Block, Picture, Table
from hyperinverter.reports.paper.table2 import BACKGROUND

# Fréchet distance -> the kernel distance of the same features, and whether these are scaled to a mean square of 1 over
# the real photos: SqueezeNet's, normalised to a length of 1, else show a cubic kernel little but their means
KERNELS = {"fid": ("kid_x1e3", False), "frechet_squeezenet": ("kid_squeezenet_x1e3", True)}
KERNEL_DRAWS, FRECHET_DRAWS = 1000, 200  # resamples of people; a Fréchet distance takes some milliseconds


def figures_of(
    made: Mapping[str, Mapping[str, Tensor]],
    real: Mapping[str, Tensor],
    strengths: Mapping[str, float],
    people: Sequence[list[str]],
    reference: str,
) -> dict[str, dict[str, Any]]:
    """Row -> its figures.

    Args:
        made: row -> `effect` [N], likenesses to the photo [N], and features [N, F] by network.
        real: features of photos that have the attribute.
        strengths: row -> that of its edits.
        people: who is on the edited photos, and on the real ones.
        reference: the row that the others are held against.
    Returns:
        `strength`; `effect` and `kept`: mean and interval over photos; `distances`: name -> `value`, `interval_95`,
        and but for the reference's `difference` to it and `difference_95`. Intervals of distances are over people, who
        are drawn anew with all their photos, and of every row the same ones.
    """
    drawn = redrawn([*people[0], *people[1]], KERNEL_DRAWS)
    ours, theirs = (torch.stack([drawn[one] for one in side], dim=1) for side in people)  # [B, N]
    distances = {row: _distances(one, real, ours, theirs) for row, one in made.items()}
    result: dict[str, dict[str, Any]] = {}
    for row, one in made.items():
        cells = {}
        for name, (value, spread) in distances[row].items():
            cells[name] = {"value": value, "interval_95": list(middle_95(spread))}
            if row != reference:
                base, base_spread = distances[reference][name]
                cells[name]["difference"] = value - base
                cells[name]["difference_95"] = list(middle_95(spread - base_spread))
        means = {name: mean_of(one[name].double().numpy()) for name in one if name not in (*KERNELS, "score")}
        result[row] = {
            "strength": strengths.get(row, 0.0),
            "effect": means.pop("effect"),
            "kept": means,
            "distances": cells,
        }
    return result


def _distances(
    made: Mapping[str, Tensor], real: Mapping[str, Tensor], ours: Tensor, theirs: Tensor
) -> dict[str, tuple[float, np.ndarray]]:
    """Name -> the distance, and what it is in the resamples of which each set has two or more photos."""
    is_enough = torch.minimum(ours.sum(1), theirs.sum(1)) > 1
    is_enough &= torch.minimum((ours > 0).sum(1), (theirs > 0).sum(1)) > 1
    ours, theirs = ours[is_enough], theirs[is_enough]
    result = {}
    for name, (kernel, is_scaled) in KERNELS.items():
        if name not in made:
            continue
        a, b = made[name], real[name]
        value = frechet(a, b)
        draws = zip(ours[:FRECHET_DRAWS], theirs[:FRECHET_DRAWS], strict=True)
        again = np.array([frechet(a, b, u, v) for u, v in draws])
        # sets drawn with repeats lie farther apart, as smaller ones do: how far they scatter counts, not where
        result[name] = value, again - again.mean() + value
        scale = b.square().mean().sqrt() if is_scaled else 1.0
        kernels = Kernels.of(a / scale, b / scale)
        whole = kernels.distance(torch.ones(1, len(a)), torch.ones(1, len(b)))
        result[kernel] = 1000 * float(whole), 1000 * kernels.distance(ours, theirs).numpy()
    return result


def edit_fid_blocks(result: dict[str, Any]) -> Iterator[Block]:
    networks, titles = result["networks"], result["titles"]
    kernels = [result["kernels"][name] for name in networks]
    yield (
        "Beyond the paper: photos without an attribute are edited to it, and held against as many real photos that "
        f"have it, in the features of {' and '.join(f'`{name}`' for name in networks)}. Both sets are held out. This "
        "is the edit-FID of StyleFeatureEditor, with other features and another size: its numbers do not compare."
    )
    yield (
        "All rows of a direction edit the same n photos, and move the judge's score equally far in the mean "
        "(`effect`): as far as every row can, and at most as far as real photos with and without the attribute are "
        "apart."
    )
    yield (
        "A Fréchet distance grows as n gets smaller: compare only within a table. "
        f"{' and '.join(f'`{name}`' for name in kernels)} does not grow: KID's unbiased kernel distance x 1000 in the "
        "same features (SqueezeNet's scaled to a mean square of 1 over the real photos); 0 is no distance. Beside "
        f"`{kernels[-1]}` stands its difference to that of {titles[result['against']]}, of the same resamples."
    )
    yield (
        "Likeness is of the edited to the input photo; background is the mean absolute difference to it outside of the "
        "face. Brackets: 95 % bootstrap intervals, of distances over people."
    )
    for name, one in result["directions"].items():
        seen = "trained for" if one["is_trained"] else "not trained for"
        yield (
            f"{name} ({seen}; {one['attribute']}), n = {one['n']}, judge {one['judge']}, effect "
            f"{one['effect']:.3g} (real photos: {one['gap']:.3g}):"
        )
        rows, kept = [], list(next(iter(one["rows"].values()))["kept"])
        for label, row in one["rows"].items():
            distances = [row["distances"][column] for column in (*networks, *kernels)]
            cells = [bracketed(one["value"], one["interval_95"]) for one in distances]
            last = distances[-1]
            apart = bracketed(last["difference"], last["difference_95"], "+.3g") if "difference" in last else ""
            likeness = [mean(row["kept"][column]) for column in kept]
            about = [f"{row['strength']:.2f}", mean(row["effect"])]
            rows.append([titles[label], *about, *cells, apart, *likeness])
        heads = [*(f"{column} ↓" for column in (*networks, *kernels)), "difference"]
        likenesses = [f"{column} {'↓' if column == BACKGROUND else '↑'}" for column in kept]
        yield Table(["method", "strength", "effect", *heads, *likenesses], rows)
    yield Picture("edit_fid.png", "The same edits by every row, the best and the worst photo")
    yield f"Images: {result['credit']}. Pasting shows two faces where Phase I's differs from the photo."
    if absent := {**result["not_measured"], **result["missing"]}:
        yield listed("Not measured", absent)
