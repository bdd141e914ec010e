"""The JSON files of reproduce -> the published page."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hyperinverter.evaluation.tables import ARROWS, TIMES, mean, metrics_table, table
from hyperinverter.reports.html_page import picture_in, to_markdown
from hyperinverter.reports.paper.claims import claims_section
from hyperinverter.reports.paper.parts import PARTS, Part
from hyperinverter.reports.reproduce.edits_page import edits_section

ABOUT = "about.md"  # in the published folder, written by hand
CURVE_SHARES = (0.25, 0.5, 0.75, 1.0)  # of a run, in the learning curve's table


def page(domains: dict[str, dict[str, dict[str, Any]]], folder: Path) -> str:
    """The page.

    Args:
        domains: domain -> part -> what its JSON holds.
        folder: that holds `<domain>/<part>.json`; pictures beside them are shown, and `about.md` is the page's head,
            behind whose title stands what holds of the paper's claims.
    """
    about = folder / ABOUT
    title, _, rest = (about.read_text() if about.is_file() else "# Results").partition("\n")
    sections = [title, claims_section(domains), rest]
    for domain, results in domains.items():
        sections.append(f"## {domain}")
        sections += [section(part, results[part], folder / domain) for part in TITLES if part in results]
    return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"


def section(part: str, result: dict[str, Any], folder: Path) -> str:
    """One part's section; pictures that lie in `folder` are shown."""
    blocks = [f"### {TITLES[part]}", _about(result, part), *SECTIONS[part](result, folder)]
    return "\n\n".join(block.strip("\n") for block in blocks if block)


def _about(result: dict[str, Any], part: str) -> str:
    if part == "learning_curve":  # of runs, not of the weights that are shipped
        return f"`{result['about']['command']}`"
    model = ", ".join(f"{part} {digest}" for part, digest in result["about"]["model"].items())
    return f"`{result['about']['command']}`\n\nWeights: {model}. PyTorch {result['about']['versions']['torch']}."


def _reconstruction(result: dict[str, Any], folder: Path) -> Iterator[str]:
    """Without times, which docs/performance.md measures properly, and without what was not measured."""
    protocol, absent = result["protocol"], list(result["not_measured"])
    metrics = {name: about for name, about in result["metrics"].items() if name not in (*absent, *TIMES)}
    yield f"{result['num_images']} images ({protocol['images']}), {protocol['resolution']} px, {protocol['rounding']}."
    yield metrics_table({**result, "metrics": metrics})
    if absent:
        yield f"Not measured (the JSON gives the reasons): {', '.join(absent)}."


def _editability(result: dict[str, Any], folder: Path) -> Iterator[str]:
    yield from edits_section(result)
    if sheet := picture_in(folder, "edits.png"):
        yield f"![Reconstructions of held-out photos, edited]({_link(folder)}/{sheet})"


def _generator(result: dict[str, Any], folder: Path) -> Iterator[str]:
    yield (
        f"Frechet distance, `{result['name']}`, of {result['images']} held-out photos, each also mirrored. It grows as "
        f"images get fewer: compare equal counts. Halves: {result['halves']}."
    )
    rows = [[what, f"{d['distance']:.4g}", d["samples"] or "", d["photos"]] for what, d in result["distances"].items()]
    yield table(["", "distance", "samples", "photos on a side, mirrored ones counted"], rows)
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
        yield table(["change", *shares, "nearest at"], rows)


def _analysis(result: dict[str, Any], folder: Path) -> Iterator[str]:
    weights, maps = result["weight_changes"], result["difference_maps"]
    yield (
        f"What Phase II changes on {weights['images']} held-out photos (`scripts/analyze.py`). Evenness over the main "
        f"convolutions, 1 where all change alike: {weights['evenness']['value']:.3f}. Changes are absolute, as in the "
        f"paper{_relative(weights['layers'])}. Intervals are over images, of one training: "
        "another may decide otherwise."
    )
    rows = []
    for one in (*weights["statements"], *maps.get("statements", ())):
        low, high = one.get("interval_95", (None, None))
        ratio = (
            f"{one['ratio']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "") if "ratio" in one else ""
        )
        if "of_faces" in one:
            ratio = f"evenness {one['evenness']:.3f} against {one['of_faces']:.3f}"
        rows.append([one["statement"], ratio, one["verdict"]])
    yield table(["the paper's statement", "ratio", "here"], rows)
    for name, what in (
        ("weight_changes.svg", "Mean change of every layer"),
        ("difference_map.png", "Where it changes"),
    ):
        if found := picture_in(folder, name):
            yield f"![{what}]({_link(folder)}/{found})"


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


def _figures(result: dict[str, Any], folder: Path) -> Iterator[str]:
    maps, blends = result["difference_maps"], result["interpolation"]
    yield "The paper's figures of single images, drawn by `scripts/analyze.py` of generated ones."
    message = {
        "interpolation.png": f"Figure 9: {len(blends['pairs'])} pairs blended in {blends['steps']} steps, in codes and "
        "weights together (whose ends are the reconstructions) and in codes alone",
        "difference_maps.png": f"Figures 13 and 14: of {maps['images']} images those that Phase II changes least, "
        "middling and most",
    }
    if time := result.get("quality_time"):
        point, notes = time["points"][0], "".join(f"; {note}" for note in time["notes"])
        message["quality_time.svg"] = (
            f"Figure 1: {time['quality']} against seconds per image on a logarithmic axis, "
            f"{point['num_images']} images ({point['images']}), {point['device']}{notes}"
        )
    for name, what in message.items():
        yield f"{what}:\n\n![{what.partition(':')[0]}]({_link(folder)}/{picture_in(folder, name) or name})"


def _curve(result: dict[str, Any], folder: Path) -> Iterator[str]:
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
    yield table(["run", "number", "images seen", *(f"at {share:.0%}" for share in CURVE_SHARES)], rows)
    if (folder / "learning_curve.svg").is_file():
        yield f"![Validation L2 against images seen]({_link(folder)}/learning_curve.svg)"


def _bounds(result: dict[str, Any], folder: Path) -> Iterator[str]:
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
            *(mean(one[what]) + (f" {_ratio(one[what])}" if "ratio" in one[what] else "") for one in metrics.values()),
        ]
        for what in next(iter(metrics.values()))
    ]
    yield table(["", *(f"{name} ↓ (× Phase I)" for name in metrics)], rows)


def _ablations(result: dict[str, Any], folder: Path) -> Iterator[str]:
    budget, metrics = result["budget"], result["metrics"]
    adversarial = f" (adversarial in the last {n:,})" if (n := budget["adversarial_steps"]) else ""
    yield (
        f"Table 3 of the paper at one budget: every row trained from random weights for {budget['steps']:,} "
        f"steps{adversarial}, {budget['images']:,} images, seed {budget['seed']}, and measured at its "
        f"last step on {result['num_images']} held-out photos. Brackets: 95 % intervals; {result['note']}."
    )
    rows = []
    for row in result["rows"]:
        cells = [row["title"], f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else ""]
        for name in metrics:
            against = row.get("against_base", {}).get(name)
            cells.append(f"{row['values'][name]:.4g}{_paired(against) if against else ''}")
        rows.append(cells)
    yield table(["", "trained", *(f"{name} {ARROWS[about['better']]}" for name, about in metrics.items())], rows)
    yield "The paper's order, by L2 (a ratio above 1 means worse):"
    rows = []
    for one in result["statements"]:
        low, high = one["interval_95"]
        rows.append([one["statement"], f"{one['ratio']:.3f} [{low:.3f}, {high:.3f}]", one["verdict"]])
    yield table(["statement", "ratio of L2", "here"], rows)


def _ratio(result: dict[str, Any]) -> str:
    low, high = result["ratio_interval_95"]
    return f"× {result['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def _paired(against: dict[str, Any]) -> str:
    low, high = against["interval_95"]
    if "ratio" in against:
        return f" (× {against['ratio']:.3f} [{low:.3f}, {high:.3f}])"
    return f" ({against['difference']:+.3g} [{low:+.3g}, {high:+.3g}])"


def _of_paper(part: Part) -> Callable[[dict[str, Any], Path], Iterable[str]]:
    return lambda result, folder: to_markdown(part.blocks(result), folder, _link(folder))


TITLES = {
    **{name: part.title for name, part in PARTS.items()},
    "photos": "Held-out photos",
    "other_photos": "Photos of another collection",
    "generated": "Images of the generator",
    "editability": "Edits",
    "generator": "Generator",
    "analysis": "What Phase II changes",
    "figures": "Figures",
    "bounds": "What bounds it",
    "learning_curve": "Learning curve",
    "ablations": "Ablations",
}
SECTIONS = {
    **{name: _of_paper(part) for name, part in PARTS.items()},
    "photos": _reconstruction,
    "other_photos": _reconstruction,
    "generated": _reconstruction,
    "editability": _editability,
    "generator": _generator,
    "analysis": _analysis,
    "figures": _figures,
    "bounds": _bounds,
    "learning_curve": _curve,
    "ablations": _ablations,
}


def _link(folder: Path) -> str:
    """Of a domain's folder, from the page."""
    return f"{folder.parent.name}/{folder.name}"
