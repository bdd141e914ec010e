"""Table 2: how far edits of equal strength go by every method, who the face still is, and what else changed.

`table2/METHOD_KEY.jsonl` has a line per photo as soon as its batch is measured; the same command goes on behind the
last one. Letters: N photos, S strengths, both ways.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.directions.direction import Direction
from hyperinverter.evaluation.classifiers import unit_of
from hyperinverter.evaluation.editability import Identity, both_ways, choose_photos, mean_of, measure_edits_of, spans_of
from hyperinverter.evaluation.tables import columns, listed, mean
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics.base import bootstrap_interval
from hyperinverter.reports.html_page import Block, Table
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.grids import lacks_directions, seen_blocks
from hyperinverter.reports.paper.methods import Method, images_seen, portable
from hyperinverter.reports.paper.values import JUDGES, STRENGTHS, TABLE_2
from hyperinverter.reports.reproduce.edits import Judges, find_identities, find_judges, missing_classifiers
from hyperinverter.reports.reproduce.edits_page import STRENGTHS as UNITS_IN_WORDS
from hyperinverter.reports.reproduce.edits_page import at
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_text
from hyperinverter.utils.waiting import log_message

# The face in the FFHQ crop, as parts of the image's side: around eyes at 0.466, mouth at 0.728, chin and forehead
FACE_CENTRE, FACE_AXES = (0.5, 0.57), (0.29, 0.38)  # x, y
BACKGROUND = "background"  # how much an edit changes outside of it: mean absolute difference, images in [-1, 1]
BATCH = 4  # photos between two writes


def table2(bench: Bench) -> dict[str, Any]:
    """Measure every method's edits.

    Returns:
        `directions`: direction -> classifier -> `unit`, and method -> `n`, `change` by strength with its interval and
        the paper's value, `effect` (from -s to +s, mean over s); `kept`: direction -> method -> network -> strength ->
        mean, `background` among the networks; `equal`: direction -> classifier -> the effect that all reach, and
        method -> its strength there and what is kept.
    Raises:
        NotMeasured: no directions, or no classifier of them.
    """
    config = bench.config
    judges = find_judges(bench, bench.load(bench.leading))
    identities = identities_of(bench)
    ways = both_ways(config.strengths)
    records: dict[str, list[dict[str, Any]]] = {}
    missing = {method.name: method.fault for method in bench.methods.values() if method.fault}
    for method in bench.present:
        log_message(f"table 2, {method.title}: {len(_chosen(bench, method))} photos")
        try:
            records[method.name] = edits_of(bench, method, _chosen(bench, method), judges, identities)
        except (UserError, FileNotFoundError) as error:
            log_message(f"table 2, {method.title}: not measured: {error}")
            missing[method.name] = portable(str(error))
    if not records:
        raise NotMeasured("none of the methods could be: " + "; ".join(missing.values()))
    directions: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, Any]] = {}
    equal: dict[str, dict[str, Any]] = {}
    for case in judges.cases:
        name = case.direction.name
        kept[name] = {method: _kept(lines, name) for method, lines in records.items()}
        directions[name], equal[name] = {}, {}
        for judge in case.classifiers:
            changes = {method: changes_of(lines, name, judge) for method, lines in records.items()}
            directions[name][judge] = {
                "unit": unit_of(judge),
                "methods": {method: _figures(bench, method, judge, values, ways) for method, values in changes.items()},
            }
            equal[name][judge] = _equal(changes, kept[name], config.strengths)
    return {
        "domain": bench.domain_name,
        "strengths": sorted(config.strengths),
        "strength_unit": config.strength_unit,
        "titles": {method.name: method.title for method in bench.methods.values()},
        "images_seen": images_seen(bench.present),
        "missing": missing,
        "directions": directions,
        "kept": kept,
        "equal": equal,
        "classifier_networks": judges.classifiers.about(),
        "classifiers": judges.fitted.figures if judges.fitted else {},
        "not_measured": judges.missing,
    }


def lacks_judges(bench: Bench) -> list[str]:
    """No directions, or classifiers that cannot be asked."""
    missing = missing_classifiers(bench.config)
    return [*lacks_directions(bench), *(f"without the classifier {name}: {why}" for name, why in missing.items())]


def _chosen(bench: Bench, method: Method) -> list[int]:
    """Optimised photos are those of table 1, which are kept; else one of each person where labels tell people."""
    return bench.narrow if method.optimises else choose_photos(bench.people, bench.config.edited_photos)


def identities_of(bench: Bench) -> list[Identity]:
    """What says who a face still is, the fast networks where there are any, and the background."""
    if bench.model.domain.kind != "faces":
        return []
    result = find_identities(bench.device)
    outside = _outside_the_face(bench.resolution)

    def changed(a: Any, b: Any) -> Tensor:
        return (a - b).abs().sum((1, 2, 3)) / (3 * outside_of(a).sum())

    def outside_of(images: Any) -> Tensor:
        return outside if images.shape[-1] == len(outside) else _outside_the_face(images.shape[-1])

    background = Identity(BACKGROUND, lambda images: images.cpu() * outside_of(images), changed)
    return [*([one for one in result if not one.is_slow] or result), background]


def _outside_the_face(size: int) -> Tensor:
    """1 outside of the face's ellipse, 0 in it, [size,size]."""
    place = (torch.arange(size) + 0.5) / size
    x, y = (place - FACE_CENTRE[0]) / FACE_AXES[0], (place - FACE_CENTRE[1]) / FACE_AXES[1]
    return (x[None].square() + y[:, None].square() > 1).float()


def edits_of(
    bench: Bench, method: Method, indices: list[int], judges: Judges, identities: list[Identity]
) -> list[dict[str, Any]]:
    """A record per photo: direction -> `changes` (classifier -> [S]), `kept` (network -> strength -> number)."""
    config = bench.config
    parts = [[case.direction.name, hash_of(case.direction), case.classifiers] for case in judges.cases]
    settings = [config.strengths, config.strength_unit, judges.pixels, [[one.name, one.networks] for one in identities]]
    fitted = judges.fitted.figures if judges.fitted else None
    what = [bench.method_key(method), bench.digest(indices), parts, settings, judges.classifiers.about(), fitted]
    path = bench.output / "table2" / f"{method.label}_{bench.key('edits', *what)}.jsonl"
    done = _lines(path)
    if len(done) >= len(indices):
        log_message(f"{method.title}: measured before, still valid")
        return done[: len(indices)]
    inverter = bench.load(method)
    images = bench.batches(indices)
    recon = bench.reconstructor(method, images)
    labels: list[str] = []

    def inversions(inverter: Inverter, photos: Tensor) -> dict[str, Inversion]:
        return {method.name: inverter.prepare(recon.invert(photos, labels))}

    with tqdm(total=len(indices), initial=len(done), desc=f"edits, {method.label}", unit="photo") as bar:
        for batch, names in images.in_order(BATCH):
            known = {line["photo"] for line in done}
            new = [place for place, name in enumerate(names) if name not in known]
            if not new:
                continue
            photos, labels = batch[new].to(bench.device), [names[place] for place in new]
            cases = [replace(case, changes={}, identities={}) for case in judges.cases]
            measure_edits_of(
                inverter,
                cases,
                [photos],
                config.strengths,
                judges.classifiers,
                identities,
                inversions=inversions,
                unit=config.strength_unit,
                measured_px=judges.pixels,
            )
            for i, label in enumerate(labels):
                done.append({"photo": label} | {case.direction.name: _record(case, method.name, i) for case in cases})
            write_text(path, "".join(json.dumps(line) + "\n" for line in done))
            bar.update(len(labels))
    return done


def hash_of(direction: Direction) -> str:
    """Over the vector, or what else moves photos, and the unit that strengths may be in."""
    spread = str(direction.info.get("projection_std")).encode()
    parts = [direction.vector] if direction.is_one_vector else direction.content()[0].values()
    return hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in parts) + spread).hexdigest()[:16]


def _record(case: Any, method: str, i: int) -> dict[str, Any]:
    """What one direction did to photo number i of its batch."""
    changes = {judge: torch.cat(parts[method])[i].tolist() for judge, parts in case.changes.items()}
    kept = {
        network: {way: torch.cat(parts)[i].item() for way, parts in against["to_unedited"][method].items()}
        for network, against in case.identities.items()
    }
    return {"changes": changes, "kept": kept}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file; what an earlier version, when it was killed, left of the last one is no line."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def changes_of(lines: list[dict[str, Any]], direction: str, judge: str) -> np.ndarray:
    """[N,S]"""
    return np.array([line[direction]["changes"][judge] for line in lines], dtype=np.float64)


def _figures(bench: Bench, method: str, judge: str, changes: np.ndarray, ways: Sequence[float]) -> dict[str, Any]:
    paper = TABLE_2.get(JUDGES.get(judge, ""), {}).get(method) if bench.config.strength_unit == "w" else None
    cells = {}
    for way, values in zip(ways, changes.T, strict=True):
        cells[f"{way:g}"] = mean_of(values)
        if paper and way in STRENGTHS:
            cells[f"{way:g}"]["paper"] = paper[STRENGTHS.index(way)]
    return {"n": len(changes), "change": cells, "effect": mean_of(spans_of(changes).mean(axis=1))}


def _kept(lines: list[dict[str, Any]], direction: str) -> dict[str, dict[str, float]]:
    """Network -> strength -> mean over photos."""
    first = lines[0][direction]["kept"]
    return {
        network: {way: float(np.mean([line[direction]["kept"][network][way] for line in lines])) for way in ways}
        for network, ways in first.items()
    }


def _equal(changes: dict[str, np.ndarray], kept: dict[str, Any], strengths: Sequence[float]) -> dict[str, Any]:
    """All methods at the largest effect that each of them reaches: what is kept there, between the measured strengths.

    A method whose effect is not above zero beyond chance is left out.
    """
    places = [0.0, *sorted(strengths)]
    sure = {method: values for method, values in changes.items()
            if bootstrap_interval(spans_of(values).mean(axis=1))[0] > 0}  # fmt: skip
    spans = {
        method: list(np.maximum.accumulate([0.0, *spans_of(values).mean(axis=0)])) for method, values in sure.items()
    }
    if not spans:
        return {"effect": None, "methods": {}}
    effect = min(span[-1] for span in spans.values())
    result = {}
    for method, span in spans.items():
        strength = float(np.interp(effect, span, places))
        at = {"strength": strength}
        for network, by_way in kept[method].items():
            start = 0.0 if network == BACKGROUND else 1.0
            known = [(s, (by_way[f"{s:g}"] + by_way[f"{-s:g}"]) / 2) for s in places[1:] if f"{s:g}" in by_way]
            at[network] = float(np.interp(strength, [0.0, *(s for s, _ in known)], [start, *(v for _, v in known)]))
        result[method] = at
    return {"effect": effect, "methods": result}


def table2_blocks(result: dict[str, Any]) -> Iterator[Block]:
    titles = result["titles"]
    yield (
        "Table 2 of the paper: the mean change of a judge's score when every method's inversions are moved equally far "
        f"along a direction. Strengths s are in {UNITS_IN_WORDS[result['strength_unit']]}. Effect: from -s to +s, mean "
        "over the strengths. Brackets: 95 % bootstrap intervals over n photos."
    )
    yield from seen_blocks(result)
    for direction, judges in result["directions"].items():
        for judge, one in judges.items():
            rows = [
                {"method": titles[method], "n": figures["n"]}
                | {at(way): _cell(cell) for way, cell in figures["change"].items()}
                | {"effect": mean(figures["effect"])}
                for method, figures in one["methods"].items()
            ]
            yield f"{direction}, by {judge}, {one['unit']}:"
            yield Table(*columns(rows))
    yield from _kept_blocks(result)
    yield from _equal_blocks(result)
    if absent := {**result["not_measured"], **{titles[name]: why for name, why in result["missing"].items()}}:
        yield listed("Not measured", absent)


def _kept_blocks(result: dict[str, Any]) -> Iterator[Block]:
    rows = [
        {"direction": direction, "method": result["titles"][method], "": network}
        | {at(way): f"{value:.3f}" for way, value in by_way.items()}
        for direction, methods in result["kept"].items()
        for method, networks in methods.items()
        for network, by_way in networks.items()
    ]
    if rows:
        yield (
            "What an edit keeps: how alike the edited and the unedited reconstruction of the same method are. "
            f"`{BACKGROUND}` is the mean absolute change of pixels (in [-1, 1]) outside of the face, an ellipse around "
            f"{FACE_CENTRE} with half axes {FACE_AXES} of the side:"
        )
        yield Table(*columns(rows))


def _equal_blocks(result: dict[str, Any]) -> Iterator[Block]:
    rows = [
        {"direction": direction, "judge": judge, "effect": f"{one['effect']:.3g}", "method": result["titles"][method]}
        | {name: f"{value:.2f}" if name == "strength" else f"{value:.3f}" for name, value in reached.items()}
        for direction, judges in result["equal"].items()
        for judge, one in judges.items()
        for method, reached in one["methods"].items()
    ]
    if rows:
        yield (
            "The same at equal measured effect: from -s to +s the judge's score moves as far by every method as by the "
            "one that moves it least. The strength s of each lies between the measured ones (interpolated):"
        )
        yield Table(*columns(rows))
    else:
        yield "At equal measured effect nothing compares: no method's effect is above zero beyond chance."


def _cell(cell: dict[str, Any]) -> str:
    return mean(cell, "+.3g") + (f" *{cell['paper']:+g}*" if "paper" in cell else "")
