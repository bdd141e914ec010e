"""What the page says of a model's own measurements: JSON of a part -> blocks; the paper's parts bring theirs along."""

from collections.abc import Iterator
from typing import Any

from hyperinverter.evaluation.tables import ARROWS, TIMES, against, bracketed, mean, metrics_table
from hyperinverter.reports.html_page import Block, Picture, Table
from hyperinverter.reports.paper.claims import own_seconds
from hyperinverter.reports.paper.grids import seen_blocks
from hyperinverter.reports.paper.methods import TITLES

CURVE_SHARES = (0.25, 0.5, 0.75, 1.0)  # of a run, in the learning curve's table
OVERVIEW = (  # metrics, of which the first that was measured is shown, and which is better
    (("l2",), "lower"),
    (("lpips", "squeezenet_features"), "lower"),
    (("identity", "fr_feature", "mobilefacenet"), "higher"),
    (("seconds",), "lower"),
)
FIGURES = ("interpolation.png", "difference_maps.png", "quality_time.svg")


def overview_blocks(results: dict[str, dict[str, Any]]) -> Iterator[Block]:
    """Of one domain: how well each method reconstructs, in few numbers, and pictures."""
    rows: dict[str, dict[str, Any]] = {}  # method -> metric -> value, and the number of photos
    if "table1" in results:
        for row in results["table1"]["rows"].values():
            rows[row["title"]] = {name: cell["value"] for name, cell in row["cells"].items()} | {"n": row.get("n", 0)}
            rows[row["title"]]["seconds"] = own_seconds(row)
    elif "photos" in results:
        for name, values in results["photos"]["methods"].items():
            seconds = values["time_ms_median"] / 1000
            rows[TITLES.get(name, name)] = {**values, "seconds": seconds, "n": results["photos"]["num_images"]}
    rows = {title: values for title, values in rows.items() if values["n"]}
    columns: dict[str, str] = {}  # metric -> head
    for names, better in OVERVIEW:
        measured = [name for name in names if any(values.get(name) is not None for values in rows.values())]
        columns |= {name: f"{name} {ARROWS[better]}" for name in measured[:1]}
    lines = [
        [title, values["n"], *("—" if values.get(name) is None else f"{values[name]:.3g}" for name in columns)]
        for title, values in rows.items()
    ]
    if lines:
        yield Table(["held-out photos", "n", *columns.values()], lines)
    yield Picture("fig4.png", "Reconstructions by each method", is_told=False)
    yield Picture("fig5.png", "Edits by each method", is_told=False)
    yield from seen_blocks(results.get("fig4", {}))


def reconstruction_blocks(result: dict[str, Any]) -> Iterator[Block]:
    """Without times, which docs/performance.md measures properly, and without what was not measured."""
    protocol, absent = result["protocol"], list(result["not_measured"])
    metrics = {name: about for name, about in result["metrics"].items() if name not in (*absent, *TIMES)}
    yield f"{result['num_images']} images ({protocol['images']}), {protocol['resolution']} px, {protocol['rounding']}."
    yield metrics_table({**result, "metrics": metrics})
    if absent:
        yield f"Not measured (the JSON gives the reasons): {', '.join(absent)}."


def generator_blocks(result: dict[str, Any]) -> Iterator[Block]:
    yield (
        f"Frechet distance, `{result['name']}`, of {result['images']} held-out photos, each also mirrored. It grows as "
        f"images get fewer: compare equal counts. Halves: {result['halves']}."
    )
    rows = [[what, f"{d['distance']:.4g}", d["samples"] or "", d["photos"]] for what, d in result["distances"].items()]
    yield Table(["", "distance", "samples", "photos on a side, mirrored ones counted"], rows)
    if leaks := result.get("leaks"):
        yield (
            "Do the augmentations that D was trained with appear in the samples? The samples' distance from the photos "
            "when a part of these is changed so. Samples that show a change lie nearest to photos of which about as "
            "many are changed; fewer than half of the first share would go unseen."
        )
        shares = [f"{float(share):.0%} changed" for share in next(iter(leaks.values()))["distances"]]
        rows = [
            [kind, *(f"{d:.4g}" for d in results["distances"].values()), f"{results['nearest']:.0%}"]
            for kind, results in leaks.items()
        ]
        yield Table(["change", *shares, "nearest at"], rows)


def analysis_blocks(result: dict[str, Any]) -> Iterator[Block]:
    weights, maps = result["weight_changes"], result["difference_maps"]
    yield (
        f"What Phase II changes on {weights['images']} held-out photos (`scripts/analyze.py`). Evenness over the main "
        f"convolutions, 1 where all change alike: {weights['evenness']['value']:.3f}. Changes are absolute, as in the "
        f"paper{_relative(weights['layers'])}. Intervals are over images, of one training: "
        "another may decide otherwise."
    )
    rows = []
    for one in (*weights["statements"], *maps.get("statements", ())):
        ratio = bracketed(one["ratio"], one.get("interval_95"), ".2f") if "ratio" in one else ""
        if "of_faces" in one:
            ratio = f"evenness {one['evenness']:.3f} against {one['of_faces']:.3f}"
        rows.append([one["statement"], ratio, one["verdict"]])
    yield Table(["the paper's statement", "ratio", "here"], rows)
    yield Picture("weight_changes.svg", "Mean change of every layer", is_told=False)
    yield Picture("difference_map.png", "Where it changes", is_told=False)


def _relative(layers: list[dict[str, Any]]) -> str:
    """Mean change over mean weight, of main convolutions against toRGB, where both change and are plain ones."""
    shares: dict[str, list[float]] = {}
    for one in layers:
        shares.setdefault(one["kind"], []).append(one["mean_abs_change"] / one["mean_abs_weight"])
    if not {"conv", "torgb"} <= shares.keys() or "depthwise" in shares:
        return ""
    conv, torgb = (sum(shares[kind]) / len(shares[kind]) for kind in ("conv", "torgb"))
    return (
        f"; as shares of each layer's own weights, main convolutions change {conv / torgb:.2f} times as much as toRGB"
    )


def figures_blocks(result: dict[str, Any]) -> Iterator[Block]:
    maps, blends = result["difference_maps"], result["interpolation"]
    yield "The paper's figures of single images, drawn by `scripts/analyze.py` of generated ones."
    yield Picture(
        FIGURES[0],
        f"Figure 9: {len(blends['pairs'])} pairs blended in {blends['steps']} steps, in codes and weights together "
        "(whose ends are the reconstructions) and in codes alone",
    )
    yield Picture(
        FIGURES[1],
        f"Figures 13 and 14: of {maps['images']} images those that Phase II changes least, middling and most",
    )
    if time := result.get("quality_time"):
        point, notes = time["points"][0], "".join(f"; {note}" for note in time["notes"])
        yield Picture(
            FIGURES[2],
            f"Figure 1: {time['quality']} against seconds per image on a logarithmic axis, "
            f"{point['num_images']} images ({point['images']}), {point['device']}{notes}",
        )


def curve_blocks(result: dict[str, Any]) -> Iterator[Block]:
    yield (
        "Validation numbers of the training runs against images seen, at parts of each run. `loss` is the sum of the "
        "terms that were on at the time, so it rises where one joins:"
    )
    rows = []
    for name, curve in result["runs"].items():
        images = curve["images_seen"]
        places = [min(range(len(images)), key=lambda i: abs(images[i] - share * images[-1])) for share in CURVE_SHARES]
        for key in (key for key in curve if key != "images_seen"):
            values = [curve[key][place] for place in places]
            shown = ["" if value is None else f"{value:.4g}" for value in values]
            rows.append([name, key, f"{images[-1]:,}", *shown])
    yield Table(["run", "number", "images seen", *(f"at {share:.0%}" for share in CURVE_SHARES)], rows)
    yield Picture("learning_curve.svg", "Validation L2 against images seen", is_told=False)


def bounds_blocks(result: dict[str, Any]) -> Iterator[Block]:
    losses = " + ".join(f"{weight:g} × {name}" for name, weight in result["losses"].items())
    yield (
        f"Of {result['images']} held-out photos ({result['photos_rule']}), w or the tokens optimised for "
        f"{result['steps']} updates of Adam on {losses}, from where the encoders put them. Generator and mapper can do "
        "at least what the optimised ones reach; the encoders, which see an image once and were trained on further "
        "losses too, stay behind that. Images rounded to 8 bits; l2 squared, in [-1, 1]."
    )
    metrics = result["metrics"]
    rows = [
        [
            what,
            *(" ".join(_mean_and_ratio(one[what])) for one in metrics.values()),
        ]
        for what in next(iter(metrics.values()))
    ]
    yield Table(["", *(f"{name} ↓ (× Phase I)" for name in metrics)], rows)


def ablations_blocks(result: dict[str, Any]) -> Iterator[Block]:
    """Of table3 also the paper's numbers, and each value's own interval."""
    budget, metrics = result["budget"], result["metrics"]
    adversarial = f" (adversarial in the last {n:,})" if (n := budget["adversarial_steps"]) else ""
    yield (
        f"Table 3 of the paper at one budget: every row trained from random weights for {budget['steps']:,} "
        f"steps{adversarial}, {budget['images']:,} images, seed {budget['seed']}, and measured at its "
        f"last step on {result['num_images']} held-out photos. Brackets: 95 % intervals; {result['note']}."
    )
    if any("paper" in row for row in result["rows"]):
        yield "In italics the paper's numbers, of human faces, whose full method has D = 256."
    rows = []
    for row in result["rows"]:
        cells = [row["title"], f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else ""]
        for name in metrics:
            interval = row["intervals_95"].get(name) if "paper" in row else None
            paired, paper = row.get("against_base", {}).get(name), (row.get("paper") or {}).get(name)
            text = [bracketed(row["values"][name], interval, ".4g")]
            text += [f"({against(paired, '.3f')})"] if paired else []
            cells.append(" ".join(text + ([f"*{paper:g}*"] if paper is not None else [])))
        rows.append(cells)
    yield Table(["", "trained", *(f"{name} {ARROWS[about['better']]}" for name, about in metrics.items())], rows)
    yield "The paper's order, by L2 (a ratio above 1 means worse):"
    order = result["statements"]
    rows = [[one["statement"], bracketed(one["ratio"], one["interval_95"], ".3f"), one["verdict"]] for one in order]
    yield Table(["statement", "ratio of L2", "here"], rows)


def _mean_and_ratio(one: dict[str, Any]) -> Iterator[str]:
    yield mean(one)
    if "ratio" in one:
        yield f"× {bracketed(one['ratio'], one['ratio_interval_95'], '.3f')}"
