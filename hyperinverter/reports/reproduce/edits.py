"""The measurement of edits: which photos, directions and classifiers there are, then Table 2 of them all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import load_direction
from hyperinverter.evaluation.classifiers import (
    AttributeClassifiers,
    Classifiers,
    classifiers_of,
    fit_classifiers,
)
from hyperinverter.evaluation.editability import (
    Case,
    Identity,
    both_ways,
    choose_photos,
    edit_rows,
    figures_of,
    measure_edits_of,
    records_of,
)
from hyperinverter.extractors.dlib_face import DlibFace
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.extractors.onnx_faces import FrFeature
from hyperinverter.inverters import Inverter
from hyperinverter.metrics import NotMeasured
from hyperinverter.published.vectors import Space
from hyperinverter.releases.direction_files import available_directions
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.files import write_text
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.waiting import log_message

SHEET_FACES = 2  # of a sheet of edits, per direction
ATTRIBUTES = "attributes"  # the classifiers that are fitted to labels


@dataclass
class Judges:
    """Directions of a model, and what tells how far an edit goes.

    Attributes:
        cases: directions with the classifiers that tell of them.
        missing: classifier -> why it cannot be asked.
        fitted: the classifiers called attributes, None where there are none.
        pixels: side of the images that networks see.
    """

    cases: list[Case]
    classifiers: Classifiers
    missing: dict[str, str]
    fitted: AttributeClassifiers | None
    pixels: int


def find_judges(bench: Bench, inverter: Inverter) -> Judges:
    """The directions of the inverter's folder and the config's `classifiers`, as far as they are here.

    Raises:
        NotMeasured: there are no directions, or no classifier of them.
    """
    config, directions = bench.config, directions_of(inverter)
    if not directions:
        raise NotMeasured(f"{inverter.folder} has no directions; {command_of('learn_direction')} makes them")
    pixels = min(inverter.resolution, inverter.domain.loss_resolution)
    missing = missing_classifiers(config, inverter.domain.kind)
    networks = [name for name in config.classifiers if name in FACE_CLASSIFIERS and name not in missing]
    fitted = None
    if ATTRIBUTES in config.classifiers and config.training_photos and config.labels:
        fitted = _fitted(bench, directions, pixels)
    classifiers = Classifiers(networks, fitted, bench.device)
    cases = [
        Case(direction, result) for direction in directions if (result := classifiers_of(direction, classifiers.known))
    ]
    if not cases:
        reasons = "; ".join(missing.values()) or f"none of {', '.join(config.classifiers)} tells of its directions"
        raise NotMeasured(f"no classifier of {', '.join(direction.name for direction in directions)}: {reasons}")
    left_out = [d.name for d in directions if d.name not in {case.direction.name for case in cases}]
    if left_out:
        log_message(f"edits: no classifier of {', '.join(left_out)}: left out")
    return Judges(cases, classifiers, missing, fitted, pixels)


def measure_edits(bench: Bench, inverter: Inverter) -> dict[str, Any]:
    """Beside the figures, in `output`: `editability.jsonl`, a line per photo, and `edits.png`, some photos edited.

    Raises:
        NotMeasured: as `find_judges`.
    """
    config, judges = bench.config, find_judges(bench, inverter)
    cases, fitted = judges.cases, judges.fitted
    batches = bench.batches(choose_photos(bench.people, config.edited_photos))
    identities = find_identities(bench.device) if inverter.domain.kind == "faces" else []
    measure_edits_of(
        inverter,
        cases,
        (images for images, _ in batches.in_order(config.batch_size)),
        config.strengths,
        judges.classifiers,
        identities,
        unit=config.strength_unit,
        measured_px=judges.pixels,
    )
    records = records_of(cases, both_ways(config.strengths), batches.names)
    write_text(bench.output / "editability.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    some = next(batches.in_order(SHEET_FACES))[0]
    shown = [case.direction for case in cases]
    cells, heads, captions = edit_rows(inverter, shown, some, max(config.strengths), config.strength_unit)
    contact_sheet(cells, heads, bench.output / "edits.png", captions)
    return {
        "domain": inverter.domain.name,
        "photos": len(batches),
        "photos_rule": "of each person the first photo in name order, of these as many as asked for at equal distances"
        if config.labels
        else "as many as asked for at equal distances in name order",
        "strengths": sorted(config.strengths),
        "strength_unit": config.strength_unit,
        "measured_px": judges.pixels,
        "classifiers": fitted.figures if fitted else {},
        "classifier_networks": judges.classifiers.about(),
        "not_measured": judges.missing,
        "directions": {case.direction.name: figures_of(case, both_ways(config.strengths)) for case in cases},
    }


def directions_of(inverter: Inverter) -> list[Direction]:
    """Every direction of the model folder."""
    space = Space.of(inverter.generator)
    return [
        load_direction(name, inverter.folder, space=space, generator_hash=inverter.generator_hash)
        for name in available_directions(inverter.folder)
    ]


def missing_classifiers(config: ReproduceConfig, kind: str | None = None) -> dict[str, str]:
    """Classifier -> why it cannot be asked; `kind` of the images, None: the domain's."""
    reasons: dict[str, str | None] = {}
    for name in config.classifiers:
        if name not in FACE_CLASSIFIERS:
            is_given = config.training_photos and config.labels
            reasons[name] = None if is_given else "they are fitted to training_photos and labels, which are not given"
            continue
        is_face = (kind or config.domain.kind) == "faces"
        reasons[name] = FACE_CLASSIFIERS[name].extractor.why_missing() if is_face else f"{name} tells of faces alone"
    return {name: reason for name, reason in reasons.items() if reason}


def _fitted(bench: Bench, directions: Sequence[Direction], pixels: int) -> AttributeClassifiers | None:
    """Classifiers of the attributes that the directions were learned from."""
    attributes = {str(direction.info.get("attribute", "")).removeprefix("-") for direction in directions} - {""}
    if not attributes:
        return None
    training, held_out = (
        Batches(open_source(root, resolution=pixels), pixels, on_bad_file="refuse")
        for root in (bench.config.training_photos, bench.config.photos)
    )
    cache = bench.output / "classifiers.safetensors"
    return fit_classifiers(sorted(attributes), training, held_out, bench.labels, cache, bench.device)


def find_identities(device: torch.device) -> list[Identity]:
    """fr_feature's and dlib's networks, which no loss uses; MobileFaceNet's where both are absent."""
    result = []
    if FrFeature.why_missing() is None:
        network, files = FrFeature.find(), FrFeature.file_hashes()
        result.append(Identity("fr_feature", network.features, lambda a, b: 1 - network.distance(a, b), networks=files))
    if DlibFace.why_missing() is None:
        dlib, files = DlibFace.find(), DlibFace.file_hashes()
        result.append(Identity("dlib_identity", dlib.features, dlib.similarity, is_slow=True, networks=files))
    if not result and MobileFaceNet.why_missing() is None:
        small, files = MobileFaceNet.find().to(device), MobileFaceNet.file_hashes()
        result.append(Identity("mobilefacenet", small.features, lambda a, b: 1 - small.distance(a, b), networks=files))
    return result
