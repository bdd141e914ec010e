"""What the shipped weights should reach, held against what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Phase II against Phase I: the paper's own ratios (table 1; CelebA-HQ: L2 0.45, LPIPS 0.49; LSUN Church: 0.71, 0.56)
# and, for faces, the rise of identity. Metric -> what its comparison is called, bound, and -1 where less is better.
GOALS = {
    "faces": {
        "l2": ("ratio", 0.45, -1),
        "squeezenet_features": ("ratio", 0.5, -1),
        "dlib_identity": ("difference", 0.15, 1),
    },
    "scenes": {"l2": ("ratio", 0.7, -1), "squeezenet_features": ("ratio", 0.56, -1)},
}
KEPT_SHARE = 0.75  # of Phase I's edits; the paper keeps 0.70 to 0.91 (table 2)


@dataclass(frozen=True)
class Outcome:
    """One goal and what came of it; `is_met` None: not measured."""

    goal: str
    where: str
    measured: str
    is_met: bool | None


def outcomes(results: dict[str, dict[str, Any]]) -> Iterator[Outcome]:
    for part, where in (("photos", "held-out photos"), ("other_photos", "photos of another collection")):
        if part in results:
            yield from _reconstruction(results[part], f"{where}, {results[part]['num_images']}")
    for name, figures in results.get("editability", {}).get("directions", {}).items():
        yield _kept(name, figures)


def _reconstruction(result: dict[str, Any], where: str) -> Iterator[Outcome]:
    for metric, (key, bound, sign) in GOALS[result["about"].get("kind", "faces")].items():
        goal = f"{metric}: Phase II {f'at most {bound} of' if sign < 0 else f'at least {bound:+} on'} Phase I"
        found = result["comparison"].get("w_encoder", {}).get(metric)
        if found is None or key not in found:
            yield Outcome(goal, where, "not measured", None)
            continue
        value, (low, high) = found[key], found["interval_95"]
        shown = f"× {value:.4g} [{low:.3g}, {high:.3g}]" if sign < 0 else f"{value:+.4g} [{low:+.3g}, {high:+.3g}]"
        yield Outcome(goal, where, shown, sign * value >= sign * bound)


def main_judge(figures: dict[str, Any]) -> str | None:
    """The judge whose share counts: a network that comes trained where one tells of it, else the fitted classifier."""
    return next(iter(figures["judges"]), None)


def _kept(name: str, figures: dict[str, Any]) -> Outcome:
    judge = main_judge(figures)
    goal, where = f"{name}: at least {KEPT_SHARE:.0%} of Phase I's edit kept", f"judged by {judge}"
    judged = figures["judges"].get(judge, {})
    if judged.get("kept") is None:
        return Outcome(goal, where, judged.get("why", "not measured"), None)
    low, high = judged["kept_interval_95"]
    return Outcome(goal, where, f"{judged['kept']:.0%} [{low:.0%}, {high:.0%}]", judged["kept"] >= KEPT_SHARE)
