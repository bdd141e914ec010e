"""How much of Phase I's edits survives Phase II, and who a face still is after an edit: the paper's Table 2.

Every photo is inverted and moved by the same strengths along a direction, once rendered by the generator as it is,
G(w + γd), once with the photo's own weights, G(w + γd, θ + Δθ): equal strengths, as in the paper. A classifier (see
`classifiers`) says how far its score moves. Letters: N photos, S strengths.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.directions.direction import Direction, edit, in_w
from hyperinverter.evaluation.classifiers import attribute_of, unit_of
from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.extractors.base import Features
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.metrics.base import bootstrap_interval, bootstrap_means, bootstrap_ratio
from hyperinverter.utils.images import resized_as_files

Classifier = Callable[
    [Tensor, Collection[str]], dict[str, Tensor]
]  # images [N,3,R,R], names -> name -> scores [N], CPU
PHASES = {"w_encoder": "Phase I", "hyperinverter": "Phase II"}  # by the method whose images they are
UNITS = {"std": " sd", "w": " γ"}  # of strengths, as headings write them


@dataclass(frozen=True)
class Identity:
    """A network that says whether two faces are one person's.

    Attributes:
        features: of images [N,3,R,R].
        similarity: of two such features, [N].
        is_slow: only the largest strength is measured, in both ways.
        networks: file of each network -> SHA-256.
    """

    name: str
    features: Callable[[Tensor], Features]
    similarity: Callable[[Features, Features], Tensor]
    is_slow: bool = False
    networks: dict[str, str] = field(default_factory=dict)


@dataclass
class Case:
    """One direction, and which scores tell of it: name -> +1, or -1 where the direction lowers that score.

    Attributes:
        changes: classifier -> phase -> change of the score from strength 0, [N,S] per batch.
        identities: network -> what it is held against (`to_unedited`, `to_photo`) -> phase -> strength -> likeness,
            [N] per batch.
    """

    direction: Direction
    classifiers: dict[str, int]
    changes: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    identities: dict[str, dict[str, dict[str, dict[str, list[Tensor]]]]] = field(default_factory=dict)

    def changes_by(self, classifier: str) -> dict[str, np.ndarray]:
        """Phase -> changes of all photos, [N,S]."""
        return {phase: torch.cat(parts).double().numpy() for phase, parts in self.changes[classifier].items()}

    def add_identity(self, network: str, against: str, phase: str, way: float, likeness: Tensor) -> None:
        by_way = self.identities.setdefault(network, {}).setdefault(against, {}).setdefault(phase, {})
        by_way.setdefault(f"{way:g}", []).append(likeness.cpu())


def choose_photos(people: Sequence[str | None], count: int) -> list[int]:
    """Which of the photos are taken: of each person the first, and of these `count` at equal distances.

    Photos without a person (None or empty) count as one each, so that every photo tells something of its own.
    """
    first: dict[str | int, int] = {}
    for index, person in enumerate(people):
        first.setdefault(person or index, index)
    indices = list(first.values())
    if len(indices) <= count:
        return indices
    return [indices[round(place)] for place in np.linspace(0, len(indices) - 1, count)]


def both_phases(inverter: Inverter, photos: Tensor) -> dict[str, Inversion]:
    """What is edited of a batch of photos: Phase I's Inversion and HyperInverter's, by their methods."""
    inversion = inverter.invert(photos, batch_size=len(photos))
    return {"w_encoder": inversion.without_weights(), "hyperinverter": inverter.prepare(inversion)}


@torch.no_grad()
def measure_edits_of(
    inverter: Inverter,
    cases: Sequence[Case],
    batches: Iterable[Tensor],
    strengths: Sequence[float],
    classifier: Classifier,
    identities: Sequence[Identity] = (),
    *,
    inversions: Callable[[Inverter, Tensor], dict[str, Inversion]] = both_phases,
    unit: str = "std",
    measured_px: int | None = None,
) -> None:
    """Edit photos at all strengths, and fill `cases` with how scores and likenesses change.

    Args:
        inverter: HyperInverter where both phases are edited; Phase I is the same Inversion without its weights.
        cases: directions with their classifiers.
        batches: photos [n,3,R,R] in [-1,1].
        strengths: above 0; each is applied in both ways.
        inversions: of a batch of photos, rounded to 8 bits: name -> what is edited.
        unit: of the strengths: `std`, standard deviations of w·d over photos, or `w`, distances in W (the paper's γ).
        measured_px: what networks see: larger photos are reduced to it, and images drawn at it; None: as they are.
    """
    ways = both_ways(strengths)
    for photos in batches:
        photos = rounded(photos)
        seen = reduced(photos, measured_px)
        people = {one.name: one.features(seen) for one in identities}
        for phase, start in inversions(inverter, photos).items():
            plain = shown(inverter, start, measured_px)
            before = classifier(plain, {name for case in cases for name in case.classifiers})
            faces = {one.name: one.features(plain) for one in identities}
            for case in cases:
                for one in identities:
                    likeness = one.similarity(faces[one.name], people[one.name])
                    case.add_identity(one.name, "to_photo", phase, 0, likeness)
                scores = []
                for way, gamma in zip(ways, in_w(ways, unit, case.direction), strict=True):
                    images = shown(inverter, edit(start, case.direction, gamma), measured_px)
                    after = classifier(images, case.classifiers)
                    scores.append(
                        {name: sign * (after[name] - before[name]) for name, sign in case.classifiers.items()}
                    )
                    for one in identities:
                        if one.is_slow and abs(way) != ways[-1]:
                            continue
                        face = one.features(images)
                        for against, other in (("to_unedited", faces), ("to_photo", people)):
                            case.add_identity(one.name, against, phase, way, one.similarity(face, other[one.name]))
                for name in case.classifiers:
                    taken = case.changes.setdefault(name, {}).setdefault(phase, [])
                    taken.append(torch.stack([score[name] for score in scores], dim=1))


def both_ways(strengths: Sequence[float]) -> list[float]:
    """-3, -2, -1, 1, 2, 3 of 1, 2, 3."""
    return [*(-s for s in sorted(strengths, reverse=True)), *sorted(strengths)]


def shown(inverter: Inverter, inversion: Inversion, pixels: int | None = None) -> Tensor:
    """Images as they are after being saved, of `pixels` where the generator's are larger."""
    part = pixels if pixels and pixels < inverter.resolution and inverter.resolution % pixels == 0 else None
    return reduced(rounded(inverter.render(inversion, batch_size=len(inversion), resolution=part)), pixels)


def reduced(images: Tensor, pixels: int | None) -> Tensor:
    """Images at most `pixels` wide, reduced as files are."""
    return images if pixels is None or images.shape[-1] <= pixels else resized_as_files(images, pixels)


def figures_of(case: Case, ways: Sequence[float]) -> dict[str, Any]:
    """What one direction did.

    Returns:
        `classifiers`: name -> `unit`; `change` (phase -> strength -> mean change from strength 0), its interval over
        photos; `effect` (phase -> mean change from -s to +s, mean over the strengths s, with its interval); `kept`
        (Phase II's effect / Phase I's), its interval, or why there is none; `kept_by_strength` of the changes from -s
        to +s, `kept_at` of those from 0, and `kept_by_photo`, the quartiles of single photos' shares.
        `identity`: network -> against what -> phase -> strength -> likeness with its interval.
    """
    result: dict[str, Any] = {"attribute": attribute_of(case.direction) or None, "classifiers": {}}
    for name in case.changes:
        result["classifiers"][name] = {"unit": unit_of(name), **_measured(case.changes_by(name), ways)}
    if case.identities:
        result["identity"] = {
            network: {
                against: {
                    phase: {way: mean_of(torch.cat(parts).double().numpy()) for way, parts in by_way.items()}
                    for phase, by_way in by_phase.items()
                }
                for against, by_phase in held.items()
            }
            for network, held in case.identities.items()
        }
    return result


def _measured(changes: dict[str, np.ndarray], ways: Sequence[float]) -> dict[str, Any]:
    """Figures of one classifier from its changes: phase -> [N,S]."""
    strengths = [way for way in ways if way > 0]
    one, two = (changes[phase] for phase in PHASES)
    means = {phase: bootstrap_means(values) for phase, values in changes.items()}  # the same photos drawn of each
    bounds = {phase: np.percentile(drawn, [2.5, 97.5], axis=0).T for phase, drawn in means.items()}  # [S,2]
    spans = {phase: spans_of(values) for phase, values in changes.items()}
    whole = {phase: values.mean(axis=1) for phase, values in spans.items()}
    effects = {phase: mean_of(values) for phase, values in whole.items()}
    measured: dict[str, Any] = {
        "change": {phase: _by_strength(ways, values.mean(axis=0)) for phase, values in changes.items()},
        "change_interval_95": {phase: _by_strength(ways, values) for phase, values in bounds.items()},
        "effect": effects,
        "kept": None,
    }
    low, _ = effects["w_encoder"].get("interval_95", (0, 0))
    if low <= 0:
        return measured | {"why": "Phase I's own effect is not above zero beyond chance"}
    measured["kept"] = float(whole["hyperinverter"].mean() / whole["w_encoder"].mean())
    measured["kept_interval_95"] = list(bootstrap_ratio(whole["w_encoder"], whole["hyperinverter"]))
    shares = spans["hyperinverter"].mean(axis=0) / spans["w_encoder"].mean(axis=0)
    measured["kept_by_strength"] = _by_strength(strengths, shares)
    is_sure = bounds["w_encoder"][:, 0] * bounds["w_encoder"][:, 1] > 0  # no share of a change that may be none
    drawn_one, drawn_two = (means[phase][:, is_sure] for phase in PHASES)
    ratios = np.percentile(drawn_two / drawn_one, [2.5, 97.5], axis=0).T
    sure = [way for way, sure in zip(ways, is_sure, strict=True) if sure]
    measured["kept_at"] = _by_strength(sure, (two.mean(axis=0) / one.mean(axis=0))[is_sure])
    measured["kept_at_interval_95"] = _by_strength(sure, ratios)
    quartiles = np.percentile(_shares(*(whole[phase] for phase in PHASES)), [25, 50, 75])
    measured["kept_by_photo"] = dict(
        zip(("lower_quartile", "median", "upper_quartile"), quartiles.tolist(), strict=True)
    )
    return measured


def spans_of(changes: np.ndarray) -> np.ndarray:
    """Changes from 0 [N,S] -> changes from -s to +s, [N,S/2]; smallest s first."""
    half = changes.shape[1] // 2
    return changes[:, half:] - changes[:, half - 1 :: -1]


def _shares(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Phase II's part of Phase I's effect on each photo on which that is above 0."""
    return two[one > 0] / one[one > 0]


def records_of(cases: Sequence[Case], ways: Sequence[float], photos: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One photo after the other, what every direction did to it.

    Yields:
        `photo`, and direction -> `classifiers` -> name -> phase -> strength -> change, beside it `kept`, null where
        Phase I moved this photo's score the other way; `identity` -> network -> against what -> phase -> strength ->
        likeness.
    """
    changes = {case.direction.name: {name: case.changes_by(name) for name in case.changes} for case in cases}
    for i, photo in enumerate(photos):
        record: dict[str, Any] = {"photo": photo}
        for case in cases:
            classifiers: dict[str, Any] = {}
            for name, by_phase in changes[case.direction.name].items():
                one, two = (spans_of(by_phase[phase][i : i + 1]).mean(axis=1) for phase in PHASES)
                kept = _shares(one, two).tolist()
                classifiers[name] = {phase: _by_strength(ways, by_phase[phase][i]) for phase in PHASES}
                classifiers[name]["kept"] = kept[0] if kept else None
            record[case.direction.name] = {"classifiers": classifiers, "identity": _nth(case.identities, i)}
        yield record


def _nth(values: Any, i: int) -> Any:
    """The i-th number of every list of batches in a nest of dicts."""
    if isinstance(values, dict):
        return {key: _nth(value, i) for key, value in values.items()}
    return torch.cat(values)[i].item()


def mean_of(values: np.ndarray) -> dict[str, Any]:
    """Mean of values [N], and its interval where there are two or more."""
    result: dict[str, Any] = {"mean": float(values.mean())}
    return result | ({"interval_95": list(bootstrap_interval(values))} if len(values) > 1 else {})


def _by_strength(ways: Sequence[float], values: Iterable[Any]) -> dict[str, Any]:
    return {f"{way:g}": np.asarray(value).tolist() for way, value in zip(ways, values, strict=True)}


def edit_rows(
    inverter: Inverter, directions: Sequence[Direction], photos: Tensor, strength: float, unit: str = "std"
) -> tuple[list[list[Tensor]], list[str], list[str]]:
    """Cells, headings and captions of a sheet of edits that shows reconstructions only.

    Args:
        photos: [n,3,R,R]; each direction gets a row per photo.
        strength: in both ways.
        unit: of the strength, see `measure_edits_of`.
    """
    ways = (-strength, 0.0, strength)
    inversion = inverter.invert(rounded(photos), batch_size=len(photos))
    columns = {"w_encoder": inversion.without_weights(), "hyperinverter": inverter.prepare(inversion)}
    rows, captions = [], []
    for direction in directions:
        gammas = in_w(ways, unit, direction)
        images = [
            shown(inverter, edit(start, direction, gamma)).cpu() for start in columns.values() for gamma in gammas
        ]
        rows += [[column[i] for column in images] for i in range(len(photos))]
        captions += [direction.name.replace("_", " ")] * len(photos)
    headings = [f"{PHASES[phase]}{f' {way:+g}{UNITS[unit]}' if way else ''}" for phase in columns for way in ways]
    return rows, headings, captions
