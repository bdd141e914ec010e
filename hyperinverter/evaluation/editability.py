"""How much of Phase I's edits survives Phase II, and who a face still is after an edit.

Every photo is inverted and moved by the same strengths along a direction, once rendered by the generator as it is,
G(w + γd), once with the photo's own weights, G(w + γd, θ + Δθ): equal strengths, as in the paper's Table 2. A judge
(see `judges`) says how far its score moves. Letters: N photos, S strengths.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.editing.directions import Direction, edit, in_w
from hyperinverter.evaluation.judges import AGE
from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.extractors.base import Extractor
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.metrics.base import bootstrap_interval, bootstrap_ratio

Judge = Callable[[Tensor], dict[str, Tensor]]  # images [N,3,R,R] -> name -> scores [N] on the CPU
PHASES = {"w_encoder": "Phase I", "hyperinverter": "Phase II"}  # by the method whose images they are
LOGIT, YEARS = "logit", "years"


@dataclass
class Case:
    """One direction, and which scores tell of it: name -> +1, or -1 where the direction lowers that score."""

    direction: Direction
    judges: dict[str, int]
    changes: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)  # judge -> phase -> [N,S] per batch
    identities: dict[str, list[Tensor]] = field(default_factory=dict)  # phase -> [N,2] per batch


def judges_of(direction: Direction, known: Iterable[str]) -> dict[str, int]:
    """The judges of a direction by the attribute it was learned from; {} when none of the known ones can tell.

    `-Young` is an attribute that the direction lowers. Age itself, in years, judges both.
    """
    attribute = str(direction.info.get("attribute", ""))
    name, sign = attribute.removeprefix("-"), -1 if attribute.startswith("-") else 1
    found = {AGE: -sign} if name == "Young" else {}
    return {judge: way for judge, way in {**found, name: sign}.items() if judge in set(known)}


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


@torch.no_grad()
def measure_editability(
    inverter: Inverter,
    cases: Sequence[Case],
    batches: Iterable[Tensor],
    strengths: Sequence[float],
    judge: Judge,
    identity: tuple[str, Extractor, Callable[[Tensor, Tensor], Tensor]] | None,
) -> dict[str, Any]:
    """Edit photos at all strengths, and hold Phase II's edits against Phase I's.

    Args:
        inverter: HyperInverter; Phase I is the same Inversion without its weights.
        cases: directions with their judges; they are filled.
        batches: photos [n,3,R,R] in [-1,1].
        strengths: above 0, in standard deviations; each is applied in both ways.
        judge: scores of images.
        identity: name of the identity network, itself, and the likeness of two of its features; None: not measured.
    Returns:
        direction -> its figures: the judges' effects and kept shares, identity, see `figures_of`.
    """
    ways = [*(-s for s in reversed(strengths)), *strengths]
    for photos in batches:
        inversion = inverter.invert(rounded(photos), batch_size=len(photos))
        phases = {"w_encoder": inversion.without_weights(), "hyperinverter": inverter.prepare(inversion)}
        for phase, start in phases.items():
            plain = shown(inverter, start)
            before, face = judge(plain), identity and identity[1].features(plain)
            for case in cases:
                gammas = in_w(ways, "std", case.direction)
                scores, likeness = [], []
                for gamma in gammas:
                    images = shown(inverter, edit(start, case.direction, gamma))
                    after = judge(images)
                    scores.append({name: way * (after[name] - before[name]) for name, way in case.judges.items()})
                    if identity and abs(gamma) == max(map(abs, gammas)):  # the largest alone: the network is slow
                        likeness.append(identity[2](identity[1].features(images), face).cpu())
                for name in case.judges:
                    taken = case.changes.setdefault(name, {}).setdefault(phase, [])
                    taken.append(torch.stack([score[name] for score in scores], dim=1))
                if identity:
                    case.identities.setdefault(phase, []).append(torch.stack(likeness, dim=1))
    return {case.direction.name: figures_of(case, ways, identity and identity[0]) for case in cases}


def shown(inverter: Inverter, inversion: Inversion) -> Tensor:
    """Images as they are after being saved."""
    return rounded(inverter.render(inversion, batch_size=len(inversion)))


def figures_of(case: Case, ways: Sequence[float], identity: str | None) -> dict[str, Any]:
    """What one direction did.

    Returns:
        `judges`: name -> `unit`, `change` (phase -> strength -> mean change from strength 0), `effect` (phase -> mean
        change from -s to +s, mean over the strengths s, with its interval), `kept` (Phase II's effect / Phase I's),
        its interval over photos, or why there is none, and `kept_by_strength`. `identity`: phase -> largest
        strength, both ways -> likeness of the edited to the unedited image, and the network's name.
    """
    found: dict[str, Any] = {"attribute": case.direction.info.get("attribute"), "judges": {}}
    strengths = [way for way in ways if way > 0]
    for name, by_phase in case.changes.items():
        changes = {phase: torch.cat(parts).double().numpy() for phase, parts in by_phase.items()}  # [N,S]
        spans = {phase: values[:, len(strengths) :] - values[:, len(strengths) - 1 :: -1]
                 for phase, values in changes.items()}  # fmt: skip # from -s to +s, [N, S/2]
        one, two = (spans[phase].mean(axis=1) for phase in PHASES)
        effects = {
            phase: {"mean": float(values.mean()), "interval_95": list(bootstrap_interval(values))}
            for phase, values in zip(PHASES, (one, two), strict=True)
        }
        judged: dict[str, Any] = {
            "unit": YEARS if name == AGE else LOGIT,
            "change": {phase: by_strength(ways, values.mean(axis=0)) for phase, values in changes.items()},
            "effect": effects,
        }
        if effects["w_encoder"]["interval_95"][0] > 0:
            judged["kept"] = float(two.mean() / one.mean())
            judged["kept_interval_95"] = list(bootstrap_ratio(one, two))
            shares = [spans["hyperinverter"][:, i].mean() / spans["w_encoder"][:, i].mean()
                      for i in range(len(strengths))]  # fmt: skip
            judged["kept_by_strength"] = by_strength(strengths, shares)
        else:
            judged["kept"] = None
            judged["why"] = "Phase I's own effect is not above zero beyond chance"
        found["judges"][name] = judged
    if identity:
        means = {phase: torch.cat(parts).double().mean(dim=0).numpy() for phase, parts in case.identities.items()}
        found["identity"] = {phase: by_strength([ways[0], ways[-1]], values) for phase, values in means.items()}
        found["identity_by"] = identity
    return found


def by_strength(ways: Sequence[float], values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {f"{way:g}": float(value) for way, value in zip(ways, values, strict=True)}


def edit_rows(
    inverter: Inverter, directions: Sequence[Direction], photos: Tensor, strength: float
) -> tuple[list[list[Tensor]], list[str], list[str]]:
    """Cells, headings and captions of a sheet of edits that shows reconstructions only.

    Args:
        photos: [n,3,R,R]; each direction gets a row per photo.
        strength: in standard deviations, in both ways.
    """
    ways = (-strength, 0.0, strength)
    inversion = inverter.invert(rounded(photos), batch_size=len(photos))
    columns = {"w_encoder": inversion.without_weights(), "hyperinverter": inverter.prepare(inversion)}
    rows, captions = [], []
    for direction in directions:
        gammas = in_w(ways, "std", direction)
        images = [
            shown(inverter, edit(start, direction, gamma)).cpu() for start in columns.values() for gamma in gammas
        ]
        rows += [[column[i] for column in images] for i in range(len(photos))]
        captions += [direction.name.replace("_", " ")] * len(photos)
    headings = [f"{PHASES[phase]}{f' {way:+g} sd' if way else ''}" for phase in columns for way in ways]
    return rows, headings, captions
