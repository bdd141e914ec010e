"""Which weights Phase II changes (figures 8 and 11): mean |Δθ| per layer over images, in the published layer order.

Dense Δθ of one batch at a time are looked at and dropped; what stays is one number per image and layer.
Letters: N images, J layers.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.evaluation.comparison import statement
from hyperinverter.evaluation.drawing import new_figure, save_figure, save_table
from hyperinverter.inverters import Inverter
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics.base import bootstrap_interval, bootstrap_means, middle_95
from hyperinverter.models.target_layers import target_layers
from hyperinverter.utils.checkout import REPOSITORY, command_of
from hyperinverter.utils.errors import UserError

COLUMNS = ("layer", "resolution", "kind", "numbers", "mean_abs_change", "low_95", "high_95", "mean_abs_weight")
SEPARABLE = ("depthwise", "pointwise")
MAIN = ("conv", *SEPARABLE)


@dataclass(frozen=True)
class Layer:
    """One changed weight of the generator; kind: a target layer's, or other (biases)."""

    name: str
    resolution: int
    kind: str
    numbers: int
    mean_abs_weight: float


def measure_weight_changes(inverter: Inverter, batches: Iterable[Tensor]) -> tuple[list[Layer], np.ndarray]:
    """Mean |Δθ| of every image and layer.

    Args:
        inverter: a method that changes the generator's weights.
        batches: images [n, 3, R, R] on the method's device.
    Returns:
        The layers in the published order, and values [N, J] in units of the stored weight, or, where kernels are
        separable and so of different sizes, as shares of a layer's mean |θ|.
    Raises:
        NotMeasured: the method uses the generator as it is.
    """
    weights = dict(inverter.generator.synthesis.named_parameters())
    names: list[str] = []
    rows: list[Tensor] = []
    for images in batches:
        residuals = inverter.weight_residuals(inverter.invert(images, batch_size=len(images)))
        if not residuals:
            raise NotMeasured(f"method {inverter.name} leaves the generator's weights as they are")
        names = list(residuals)
        rows.append(torch.stack([residuals[name].abs().flatten(1).mean(1) for name in names], dim=1).cpu())
    if not rows:
        raise UserError("there are no images to analyse; give data.root a folder, zip or LMDB that holds some")
    places = {one.name: one for one in target_layers(inverter.generator, "all_without_bias")}
    layers, values = [], torch.cat(rows).double().numpy()
    for name in names:
        weight, place = weights[name], places.get(name)
        size_and_kind = (place.px, place.kind) if place else (0, "other")
        layers.append(Layer(name, *size_and_kind, weight.numel(), weight.abs().mean().item()))
    return layers, values / [each.mean_abs_weight for each in layers] if _are_shares(layers) else values


def _are_shares(layers: list[Layer]) -> bool:
    return any(layer.kind in SEPARABLE for layer in layers)


def as_json(layers: list[Layer], values: np.ndarray, kind: str, other: dict[str, Any] | None = None) -> dict[str, Any]:
    """What weight_changes.json holds: a row per layer, and what the paper says of them, checked.

    Args:
        values: [N, J].
        kind: of the domain, faces or scenes: decides which of the paper's statements belong to it.
        other: weight_changes.json of another domain, for the statement on churches.
    """
    rows, unit = [], "as a share of its mean |θ|" if _are_shares(layers) else "in units of the stored weight"
    for layer, column in zip(layers, values.T, strict=True):
        low, high = bootstrap_interval(column)
        rows.append(dict(zip(COLUMNS, (layer.name, layer.resolution, layer.kind, layer.numbers, float(column.mean()),
                                       low, high, layer.mean_abs_weight), strict=True)))  # fmt: skip
    evenness = evenness_of(values[:, [layer.kind in MAIN for layer in layers]])
    return {
        "images": len(values),
        "unit": f"mean |Δθ| of a layer, {unit}, mean over images; 95 % interval over images",
        "layers": rows,
        "evenness": evenness,
        "statements": list(_statements(layers, values, kind, evenness, other)),
    }


def evenness_of(values: np.ndarray) -> dict[str, Any]:
    """How evenly the change is spread over layers: exp(entropy of the layers' shares) over their number, 1 is even.

    `values`: [N, J] of the layers that are compared.
    """

    def spread(means: np.ndarray) -> float:
        shares = means / means.sum()
        return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum()) / len(shares))

    low, high = middle_95([spread(means) for means in bootstrap_means(values)])
    return {"value": spread(values.mean(0)), "interval_95": [low, high]}


def _statements(
    layers: list[Layer], values: np.ndarray, kind: str, evenness: dict[str, Any], other: dict[str, Any] | None
) -> Any:
    """The paper's statements (section 4.5 for faces, C.1 for churches), each with its number and whether it holds."""
    is_conv = np.array([layer.kind in MAIN for layer in layers])
    is_torgb = np.array([layer.kind == "torgb" for layer in layers])
    resolutions = np.array([layer.resolution for layer in layers])
    if is_conv.any() and is_torgb.any():
        yield _ratio(
            "main convolutions change more than toRGB",
            values,
            lambda means: means[is_conv].mean() / means[is_torgb].mean(),
        )
    blocks = sorted({layer.resolution for layer in layers if layer.kind in MAIN})
    if kind == "faces" and len(blocks) > 1:

        def last_against_next(means: np.ndarray) -> float:
            by_block = [means[is_conv & (resolutions == block)].mean() for block in blocks]
            return by_block[-1] / max(by_block[:-1])

        yield _ratio(f"the last resolution ({blocks[-1]} px) changes most", values, last_against_next)
    if kind != "faces":
        yield _more_even(evenness, other)


def _ratio(text: str, values: np.ndarray, of: Any) -> dict[str, Any]:
    """A statement on a ratio of means over images."""
    return statement(text, of(values.mean(0)), middle_95([of(means) for means in bootstrap_means(values)]))


def _more_even(evenness: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    text = "the change is spread over the layers more evenly than for faces"
    if other is None:
        return {"statement": text, "verdict": "not checked: compare_with names no weight_changes.json of faces"}
    theirs = other["evenness"]
    (low, high), (their_low, their_high) = evenness["interval_95"], theirs["interval_95"]
    holds = "holds" if low > their_high else "does not hold" if high < their_low else "open: the intervals overlap"
    return {"statement": text, "evenness": evenness["value"], "of_faces": theirs["value"], "verdict": holds}


def read_other(path: str) -> dict[str, Any]:
    """weight_changes.json of another analysis, also out of the analysis.json of scripts/reproduce.py.

    A relative path is looked for in the working directory, then in the repository.

    Raises UserError: it is not there, or is something else.
    """
    try:
        place = Path(path) if Path(path).is_file() else REPOSITORY / path  # that is itself where it is absolute
        result = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"compare_with: cannot read {path}: {error}") from error
    result = result.get("weight_changes", result) if isinstance(result, dict) else {}
    if "interval_95" not in result.get("evenness", {}):
        raise UserError(
            f"compare_with: {path} is no weight_changes.json of {command_of('analyze')} (nor analysis.json)"
        )
    return result


def draw_weight_changes(result: dict[str, Any], title: str, folder: Path) -> list[str]:
    """Write weight_changes.csv, .svg and .png into the folder; their names."""
    rows = result["layers"]
    save_table(folder / "weight_changes.csv", COLUMNS, rows)
    figure, axes = new_figure(max(6.0, 0.42 * len(rows) + 1.5), 4.8)
    labels = {"conv": "main convolution", "torgb": "toRGB", "affine": "style affine"}
    colours = {"conv": "tab:blue", "depthwise": "tab:cyan", "pointwise": "tab:purple"}
    colours |= {"torgb": "tab:orange", "affine": "tab:green", "other": "tab:gray"}
    for kind, colour in colours.items():
        places = [place for place, row in enumerate(rows) if row["kind"] == kind]
        if places:
            heights = [rows[place]["mean_abs_change"] for place in places]
            ends = [
                [abs(rows[place][end] - rows[place]["mean_abs_change"]) for place in places] for end in COLUMNS[5:7]
            ]
            axes.bar(places, heights, yerr=ends, color=colour, ecolor="0.3", capsize=2, label=labels.get(kind, kind))
    axes.set_xticks(range(len(rows)), [row["layer"].removesuffix(".weight") for row in rows], rotation=60, ha="right")
    label = "mean |Δθ| / mean |θ|" if any(row["kind"] in SEPARABLE for row in rows) else "mean |Δθ|"
    axes.set(ylabel=label, title=f"{title}, {result['images']:,} images")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return ["weight_changes.csv", *(path.name for path in save_figure(figure, folder / "weight_changes"))]
