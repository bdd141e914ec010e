"""Figures 4, 5, 7 and 26: the same photos reconstructed, edited and blended by every method, one sheet each.

The photos are `shown`, which may be shown, or images of the generator; the rows are the best, median and worst of them
by L2 of the leading method, the same in every figure. A figure is drawn anew when its weights, photos or settings
change. Letters: N photos, S pictures of a row.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.directions.direction import edit
from hyperinverter.evaluation.editability import UNITS, shown
from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.evaluation.sheet import DIFFERENCE_MAXIMUM, SHEET_RULE, Row, choose_rows
from hyperinverter.evaluation.tables import listed
from hyperinverter.inverters import Inversion
from hyperinverter.inverters.inversion import interpolate
from hyperinverter.metrics import NotMeasured
from hyperinverter.releases.direction_files import available_directions
from hyperinverter.reports.html_page import Block, Picture
from hyperinverter.reports.paper.bench import Bench, photos_at
from hyperinverter.reports.paper.methods import OURS, PHASE_1, Method, images_seen
from hyperinverter.reports.reproduce.edits import directions_of
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.images import contact_sheet, difference_map

BLEND_STEPS = 5  # pictures of a blend in figure 26, both ends included
EDITED_ROWS = 2  # photos of figure 5 for each direction
Cells = list[list[Tensor | None]]


def chosen_rows(bench: Bench) -> list[Row]:
    """Which of the shown photos every figure has: `index` among them, and `place` with its L2."""
    if bench.chosen_rows is None:
        values = []
        images, method = bench.shown, bench.leading
        if method.optimises:
            raise NotMeasured("its photos are chosen by an encoder: give one of w_encoder, hyperinverter, psp, ...")
        recon = bench.reconstructor(method, images)
        for batch, names in images.in_order(bench.config.batch_size, shown_as="choosing photos"):
            real = rounded(batch).to(bench.device)
            fake, _ = recon(real, names)
            values += (fake - real).square().mean((1, 2, 3)).tolist()
        rows = choose_rows(values, bench.config.shown_photos)
        bench.chosen_rows = [Row(row.index, f"{row.place}\nL2 {values[row.index]:.4f}") for row in rows]
    return bench.chosen_rows


def _drawn(
    bench: Bench, figure: str, methods: Sequence[Method], more: Any, draw: Callable[[list[Row]], dict[str, Any]]
) -> dict[str, Any]:
    """A figure's JSON, and its sheet `<figure>.png`, from before where both are still valid."""
    if not methods:
        raise NotMeasured("none of its methods has its files")
    path = bench.output / f"{figure}.png"
    made_by = [bench.method_key(method) for method in (bench.leading, *methods)]
    key = bench.key(figure, made_by, bench.shown_digest, bench.config.shown_photos, bench.credit(), more)
    place = bench.output / "figures" / f"{figure}.json"
    seen = {"images_seen": images_seen(methods)}
    if known := bench.found(place, key, [path]):
        return known | seen
    rows = chosen_rows(bench)
    result = {
        "photos": _told(bench, rows),
        "of": len(bench.shown),
        "rule": SHEET_RULE.format(method=bench.leading.title),
        "credit": bench.credit(),
        "methods": {method.name: method.title for method in methods},
        "missing": bench.faults(),
        "picture": path.name,
    }
    return bench.keep(place, key, result | draw(rows)) | seen


def _told(bench: Bench, rows: Sequence[Row]) -> list[str]:
    """Which images a figure shows."""
    return [f"{bench.shown.names[row.index]} ({row.place.partition(chr(10))[0]})" for row in rows]


def shown_photos(bench: Bench, rows: Sequence[Row]) -> tuple[Tensor, list[str]]:
    """The rows' photos [N,3,R,R] and names."""
    photos, names = photos_at(bench.shown, [row.index for row in rows])
    return photos.to(bench.device), names


def figure4(bench: Bench) -> dict[str, Any]:
    """Reconstructions by every method."""

    def draw(rows: list[Row]) -> dict[str, Any]:
        photos, _ = shown_photos(bench, rows)
        columns = {"input": photos.cpu()}
        l2 = {}
        for method, made in bench.reconstructions(bench.shown, [row.index for row in rows]):
            columns[method.title] = made
            l2[method.name] = (made - columns["input"]).square().mean((1, 2, 3)).tolist()
        sheet_of(bench, "fig4", columns, [row.place for row in rows])
        return {"l2": l2}

    return _drawn(bench, "fig4", bench.present, None, draw)


def lacks_both(bench: Bench) -> list[str]:
    methods = [bench.methods[name] for name in (PHASE_1, OURS) if name in bench.methods]
    faults = [f"{method.name}: {method.fault}" for method in methods if method.fault]
    is_whole = not faults and len(methods) == 2
    return [] if is_whole else [f"it needs {PHASE_1} and {OURS} among the methods; {'; '.join(faults)}"]


def figure7(bench: Bench) -> dict[str, Any]:
    """Input, Phase I, both phases, and where the second changes the first."""
    if lacking := lacks_both(bench):
        raise NotMeasured(lacking[0])
    methods = [bench.methods[name] for name in (PHASE_1, OURS)]

    def draw(rows: list[Row]) -> dict[str, Any]:
        photos, _ = shown_photos(bench, rows)
        places = [row.index for row in rows]
        first, second = (made for _, made in bench.reconstructions(bench.shown, places, methods))
        changed = [difference_map(a, b, DIFFERENCE_MAXIMUM) for a, b in zip(first, second, strict=True)]
        heading = f"change (red: {DIFFERENCE_MAXIMUM:g})"
        columns = {"input": photos.cpu(), methods[0].title: first, methods[1].title: second, heading: changed}
        sheet_of(bench, "fig7", columns, [row.place for row in rows])
        return {}

    return _drawn(bench, "fig7", methods, None, draw)


def lacks_directions(bench: Bench) -> list[str]:
    folder = Path(bench.leading.folder or bench.base)
    how = f"{command_of('learn_direction')} makes them"
    return [] if available_directions(folder) else [f"{folder.name} has no directions; {how}"]


def figure5(bench: Bench) -> dict[str, Any]:
    """Edits by every method: of each direction a row per photo and way."""
    if lacking := lacks_directions(bench):
        raise NotMeasured(lacking[0])
    leading = bench.load(bench.leading)
    directions = directions_of(leading)
    strength, unit = max(bench.config.strengths), bench.config.strength_unit
    ways = {direction.name: leading.in_w([-strength, strength], unit, direction) for direction in directions}

    def draw(rows: list[Row]) -> dict[str, Any]:
        rows = [rows[0], rows[-1]][: min(EDITED_ROWS, len(rows))]
        photos, names = shown_photos(bench, rows)
        cells: Cells = [[photo] for _ in directions for _ in range(2) for photo in photos.cpu()]
        for method in bench.present:
            inverter = bench.load(method)
            inversion = inverter.prepare(bench.reconstructor(method, bench.shown).invert(photos, names))
            edits = [edit(inversion, d, way) for d in directions for way in ways[d.name]]
            made = [image for edited in edits for image in shown(inverter, edited).cpu()]
            for row, image in zip(cells, made, strict=True):
                row.append(image)
        captions = [f"{d.name.replace('_', ' ')}\n{sign * strength:+g}{UNITS[unit]}\n{row.place}"
                    for d in directions for sign in (-1, 1) for row in rows]  # fmt: skip
        headings = ["input", *(method.title for method in bench.present)]
        contact_sheet(cells, headings, bench.output / "fig5.png", captions)
        return {"photos": _told(bench, rows), "directions": list(ways), "strength": strength, "unit": unit}

    parts = [sorted((d.name, d.vector.tolist()) for d in directions), ways]
    return _drawn(bench, "fig5", bench.present, parts, draw)


def figure26(bench: Bench) -> dict[str, Any]:
    """Blends of the best shown photo into the worst by the methods of `blends`, with weights where they have them."""
    methods = [m for name in bench.config.blends if (m := bench.methods.get(name)) and not m.fault]

    def draw(rows: list[Row]) -> dict[str, Any]:
        if len(rows) < 2:
            raise NotMeasured("a blend needs two photos: shown_photos is 1")
        ends = [rows[0], rows[-1]]
        photos, names = shown_photos(bench, ends)
        cells: Cells = []
        captions = []
        for method in methods:
            inverter = bench.load(method)
            first, last = bench.reconstructor(method, bench.shown).invert(photos, names)
            for weights in [True, False] if first.has_weights else [False]:
                frames = shown(inverter, Inversion.cat(interpolate(first, last, BLEND_STEPS, weights))).cpu()
                cells.append([photos[0].cpu(), *frames, photos[1].cpu()])
                captions.append(method.title + ("\ncodes and weights" if weights else "\ncodes"))
        headings = ["input 1", *(f"t = {t:.2f}" for t in torch.linspace(0, 1, BLEND_STEPS).tolist()), "input 2"]
        contact_sheet(cells, headings, bench.output / "fig26.png", captions)
        return {"photos": _told(bench, ends), "steps": BLEND_STEPS}

    return _drawn(bench, "fig26", methods, None, draw)


def sheet_of(bench: Bench, figure: str, columns: dict[str, Any], captions: Sequence[str]) -> None:
    """`<figure>.png` of columns of pictures by their headings."""
    cells = [[column[i] for column in columns.values()] for i in range(len(captions))]
    contact_sheet(cells, list(columns), bench.output / f"{figure}.png", captions)


def grid_blocks(what: str, result: dict[str, Any]) -> Iterator[Block]:
    yield Picture(result["picture"], what)
    yield f"{', '.join(result['photos'])}. Rule: {result['rule']}. Images: {result['credit']}."
    yield from seen_blocks(result)
    if result["missing"]:
        yield listed("Not drawn", result["missing"])


def seen_blocks(result: dict[str, Any]) -> Iterator[Block]:
    """How many images each method was trained on: few explain a poor picture."""
    if seen := result.get("images_seen"):
        text = ", ".join(f"{title} {number:,}" for title, number in seen.items())
        yield f"Images seen in the last training run of each, as its file tells (cards tell earlier runs): {text}."
