"""Edits judged so that pasting cannot win: photos without an attribute, edited to it, against real photos that have it.

Beyond the paper. x + G(w + d) - G(w) reconstructs perfectly and keeps every effect, but where G(w) is not x it shows
two faces; a distance to real photos sees that (as SFE's edit-FID, arXiv:2406.10601, table 1). Every row edits the same
n photos as far, by a judge: Fréchet distances grow as n gets smaller, so nothing but rows of one n compares, and beside
them stands KID's distance, which does not. Kept under `edit_fid/`, a file per row and direction, so that the same
command goes on. Letters: N photos, F features, S strengths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter import metrics as metric_table
from hyperinverter.directions.direction import Direction, edit, in_w
from hyperinverter.editing.learn import attribute_values, rows_of
from hyperinverter.evaluation.classifiers import attribute_of
from hyperinverter.evaluation.editability import Identity, choose_photos, reduced, shown
from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.metrics import NotMeasured
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.edit_fid_page import KERNELS, figures_of
from hyperinverter.reports.paper.grids import EDITED_ROWS, chosen_rows, shown_photos
from hyperinverter.reports.paper.methods import OURS, PHASE_1, Method
from hyperinverter.reports.paper.table2 import BACKGROUND, hash_of, identities_of
from hyperinverter.reports.reproduce.edits import Judges, find_judges
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.safetensors_io import read_tensors, write_tensors
from hyperinverter.utils.waiting import log_message

PASTED, UNEDITED = "pasting", "unedited"
BATCH = 16  # photos


@dataclass(frozen=True)
class Row:
    """What is measured: a method, or pasting its edit onto the photo."""

    label: str
    title: str
    method: Method
    is_pasted: bool = False

    def start(self, inversion: Inversion) -> Inversion:
        return inversion.without_weights() if self.is_pasted else inversion

    def images(
        self, inverter: Inverter, start: Inversion, photos: Tensor, direction: Direction, gamma: float, px: int | None
    ) -> Tensor:
        """Photos [N, 3, R, R] edited, as files hold them, of at most `px`."""
        made = shown(inverter, edit(start, direction, gamma), px)
        return rounded(reduced(photos, px) + made - shown(inverter, start, px)) if self.is_pasted else made


@dataclass
class Task:
    """One direction: `sources`, numbers of the photos that are edited, and of the real ones that have the attribute.

    Attributes:
        judge, sign: the score that tells of the direction, and -1 where the direction lowers it.
        gap: how far the judge's scores of real photos with and without the attribute lie apart.
    """

    direction: Direction
    attribute: str
    judge: str
    sign: int
    sources: list[int]
    targets: list[int]
    gap: float = 0.0

    @property
    def name(self) -> str:
        return self.direction.name


def edit_fid(bench: Bench) -> dict[str, Any]:
    """Measure every method, every refinement of both phases and pasting, and draw edit_fid.png of photos `shown`.

    Returns:
        `directions`: direction -> `n`, `effect` that every row is edited to, and row -> its figures; see `figures_of`.
    Raises:
        NotMeasured: no network, no direction with a labelled attribute and a judge, or no method.
    """
    judges = find_judges(bench, bench.load(bench.leading))
    result, not_measured = metric_table.build(list(KERNELS), bench.model.domain, device=bench.device)
    networks: dict[str, Any] = {metric.name: metric for metric in result}
    if not networks:
        raise NotMeasured("no network of features is here: " + "; ".join(not_measured.values()))
    tasks = _tasks(bench, judges, not_measured)
    rows, missing = _rows(bench, max(len(task.sources) for task in tasks))
    identities = identities_of(bench)
    directions, strengths = {}, {}
    curves = {row.label: {task.name: _curve(bench, row, task, judges) for task in tasks} for row in rows}
    for task in tasks:
        real = {kind: _photos(bench, task, kind, networks, judges) for kind in ("sources", "targets")}
        task.gap = float(task.sign * (real["targets"]["score"].mean() - real["sources"]["score"].mean()))
        reach = {row.label: np.maximum.accumulate([0.0, *curves[row.label][task.name]]) for row in rows}
        effect = min(task.gap, *(float(curve[-1]) for curve in reach.values()))
        if effect <= 0:
            not_measured[task.name] = f"{task.judge} is moved by no strength, or not in every row"
            continue
        places = [0.0, *sorted(bench.config.strengths)]
        strengths[task.name] = {label: float(np.interp(effect, curve, places)) for label, curve in reach.items()}
        made = {}
        for row in rows:
            strength = strengths[task.name][row.label]
            made[row.label] = _edited(bench, row, task, strength, networks, judges, identities)
        made[UNEDITED] = _unedited(real["sources"], identities)
        people = [[bench.people[i] or f"photo {i}" for i in side] for side in (task.sources, task.targets)]
        directions[task.name] = {
            "attribute": task.attribute,
            "is_trained": task.name in bench.config.trained_directions,
            "judge": task.judge,
            "n": len(task.sources),
            "gap": task.gap,
            "effect": effect,
            "rows": figures_of(made, real["targets"], strengths[task.name], people, _reference(rows)),
        }
    if not directions:
        raise NotMeasured("; ".join(f"{name}: {reason}" for name, reason in not_measured.items()))
    _sheet(bench, rows, [task for task in tasks if task.name in strengths], strengths)
    return {
        "domain": bench.domain_name,
        "networks": list(networks),
        "kernels": {name: KERNELS[name][0] for name in networks},
        "strength_unit": bench.config.strength_unit,
        "titles": {row.label: row.title for row in rows} | {UNEDITED: "the photos, unedited"},
        "missing": missing,
        "not_measured": not_measured | judges.missing,
        "against": _reference(rows),
        "credit": bench.credit(),
        "directions": directions,
    }


def _tasks(bench: Bench, judges: Judges, not_measured: dict[str, str]) -> list[Task]:
    """Of each direction the same number of photos without and with the attribute, at equal distances in name order."""
    labelled = rows_of(list(bench.source.names), bench.labels)
    tasks = []
    for case in judges.cases:
        attribute = attribute_of(case.direction)
        column = attribute.removeprefix("-")
        rows = [row for row in labelled if row is not None]
        if not attribute or not rows or column not in rows[0]:
            not_measured[case.direction.name] = f"the labels have no column for its attribute {column or '(unknown)'}"
            continue
        known = [index for index, row in enumerate(labelled) if row is not None]
        has = dict(zip(known, attribute_values(rows, attribute), strict=True))
        sides = [[index for index in known if bool(has[index]) == wanted] for wanted in (False, True)]
        count = min(bench.config.edited_photos, *map(len, sides))
        if count < 2:
            not_measured[case.direction.name] = f"only {count} photos with or without {column}: give more photos"
            continue
        sources, targets = ([side[at] for at in choose_photos([None] * len(side), count)] for side in sides)
        judge = column if column in case.classifiers else next(iter(case.classifiers))
        tasks.append(Task(case.direction, attribute, judge, case.classifiers[judge], sources, targets))
    if not tasks:
        raise NotMeasured("; ".join(f"{name}: {reason}" for name, reason in not_measured.items()))
    return tasks


def _rows(bench: Bench, most: int) -> tuple[list[Row], dict[str, str]]:
    """What can be measured on so many photos, and why others cannot."""
    rows, missing = [], {}
    for method in bench.methods.values():
        if method.fault:
            missing[method.title] = method.fault
        elif method.optimises and bench.config.optimised_photos < most:
            missing[method.title] = (
                f"it optimises for every photo, and all rows need the same {most} of each direction: "
                f"optimised_photos={most} measures it"
            )
        else:
            rows.append(Row(method.label, method.title, method))
    if (first := bench.methods.get(PHASE_1)) and not first.fault:
        rows.append(Row(PASTED, "pasting: x + G(w + d) - G(w)", first, is_pasted=True))
    if (ours := bench.methods.get(OURS)) and not ours.fault:
        own = [one for one in bench.refined(ours) if one.refine and one.refine.steps]
        rows += [Row(one.label, one.title, one) for one in own]
    if not rows:
        raise NotMeasured("; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    return rows, missing


def _reference(rows: Sequence[Row]) -> str:
    return OURS if OURS in (labels := [row.label for row in rows]) else labels[0]


def _starts(bench: Bench, row: Row, task: Task, what: str) -> Iterator[tuple[Inverter, Inversion, Tensor]]:
    """Batch after batch the inverter, what it edits, and the photos."""
    inverter, images = bench.load(row.method), bench.batches(task.sources)
    recon = bench.reconstructor(row.method, images)
    for batch, names in images.in_order(BATCH, shown_as=f"{task.name}, {row.label}, {what}"):
        photos = rounded(batch).to(bench.device)
        yield inverter, inverter.prepare(row.start(recon.invert(photos, names))), photos


def _key(bench: Bench, row: Row, task: Task, judges: Judges, more: Any) -> str:
    fitted = judges.fitted.figures if judges.fitted else None
    parts = [hash_of(task.direction), task.judge, judges.classifiers.about(), fitted, judges.pixels]
    settings = [bench.config.strength_unit, row.is_pasted]
    return bench.key("edit_fid", bench.method_key(row.method), bench.digest(task.sources), parts, settings, more)


@torch.no_grad()
def _curve(bench: Bench, row: Row, task: Task, judges: Judges) -> list[float]:
    """Mean move of the judge's score at every strength, [S], smallest first."""
    strengths = sorted(bench.config.strengths)
    path, key = bench.output / "edit_fid" / f"{row.label}_{task.name}.json", _key(bench, row, task, judges, strengths)
    if known := bench.found(path, key):
        return known["effects"]
    log_message(f"edit_fid, {task.name}, {row.title}: {len(task.sources)} photos")
    gammas, moved = in_w(strengths, bench.config.strength_unit, task.direction), []
    for inverter, start, photos in _starts(bench, row, task, "effect"):
        made = [row.images(inverter, start, photos, task.direction, gamma, judges.pixels) for gamma in (0.0, *gammas)]
        scores = torch.stack([judges.classifiers(images, {task.judge})[task.judge] for images in made])
        moved.append(task.sign * (scores[1:] - scores[0]))
    return bench.keep(path, key, {"effects": torch.cat(moved, 1).double().mean(1).tolist()})["effects"]


@torch.no_grad()
def _edited(
    bench: Bench,
    row: Row,
    task: Task,
    strength: float,
    networks: dict[str, Any],
    judges: Judges,
    identities: Sequence[Identity],
) -> dict[str, Tensor]:
    """At one strength: `effect` [N], features [N, F] by network, likeness to the photo [N] by identity."""
    known = [[one.name, one.networks] for one in identities]
    key = _key(bench, row, task, judges, [strength, {name: one.networks() for name, one in networks.items()}, known])
    path = bench.output / "edit_fid" / f"{row.label}_{task.name}.safetensors"
    try:
        about, kept = read_tensors(path)
        if about.get("key") == key:
            return kept
    except (OSError, ValueError):
        pass  # not there, or not whole: made now
    (gamma,) = in_w([strength], bench.config.strength_unit, task.direction)
    parts = []
    for inverter, start, photos in _starts(bench, row, task, "edits"):
        plain, images = (
            row.images(inverter, start, photos, task.direction, way, judges.pixels) for way in (0.0, gamma)
        )
        before, after = (judges.classifiers(one, {task.judge})[task.judge] for one in (plain, images))
        seen = reduced(photos, judges.pixels)
        likeness = {one.name: one.similarity(one.features(images), one.features(seen)) for one in identities}
        features = {name: network.features(images) for name, network in networks.items()}
        parts.append({"effect": task.sign * (after - before)} | features | likeness)
    result = _joined(parts)
    write_tensors(path, result, {"key": key})
    return result


@torch.no_grad()
def _photos(bench: Bench, task: Task, kind: str, networks: dict[str, Any], judges: Judges) -> dict[str, Tensor]:
    """Of real photos the judge's `score` [N], and features by network."""
    parts = []
    for batch, _ in bench.batches(getattr(task, kind)).in_order(BATCH):
        images = reduced(rounded(batch).to(bench.device), judges.pixels)
        features = {name: network.features(images) for name, network in networks.items()}
        parts.append({"score": judges.classifiers(images, {task.judge})[task.judge]} | features)
    return _joined(parts)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Values of all photos, of those of batches."""
    return {name: torch.cat([part[name].cpu().float() for part in parts]) for name in parts[0]}


def _unedited(photos: dict[str, Tensor], identities: Sequence[Identity]) -> dict[str, Tensor]:
    count = len(photos["score"])
    same = {one.name: torch.full((count,), 0.0 if one.name == BACKGROUND else 1.0) for one in identities}
    return photos | same | {"effect": torch.zeros(count)}


def _sheet(bench: Bench, rows: Sequence[Row], tasks: Sequence[Task], strengths: dict[str, dict[str, float]]) -> None:
    """edit_fid.png: of every direction the best and the worst shown photo, edited by every row to the same effect."""
    chosen = chosen_rows(bench)
    chosen = [chosen[0], chosen[-1]][: min(EDITED_ROWS, len(chosen))]
    photos, names = shown_photos(bench, chosen)
    cells: list[list[Tensor | None]] = [[photo] for _ in tasks for photo in photos.cpu()]
    for row in rows:
        inverter = bench.load(row.method)
        start = inverter.prepare(row.start(bench.reconstructor(row.method, bench.shown).invert(photos, names)))
        made: list[Tensor] = []
        for task in tasks:
            (gamma,) = in_w([strengths[task.name][row.label]], bench.config.strength_unit, task.direction)
            made += row.images(inverter, start, photos, task.direction, gamma, None).cpu()
        for line, image in zip(cells, made, strict=True):
            line.append(image)
    captions = [f"{task.name.replace('_', ' ')}\n{row.place}" for task in tasks for row in chosen]
    contact_sheet(
        cells, ["input", *(row.title.partition(":")[0] for row in rows)], bench.output / "edit_fid.png", captions
    )
