"""editability.json -> its section of the page: Table 2 by classifier, identity, and what the classifiers are."""

from collections.abc import Iterator
from typing import Any

from hyperinverter.evaluation.editability import PHASES
from hyperinverter.evaluation.tables import bracketed, columns, listed, mean
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.reports.html_page import Block, Picture, Table

STRENGTHS = {"std": "standard deviations of w along the direction", "w": "units of W (the paper's γ)"}
AGAINST = {
    "to_unedited": "between the edited and the unedited image of the same phase",
    "to_photo": "between the edited image and the photo (at 0: the reconstruction)",
}


def edits_blocks(result: dict[str, Any]) -> Iterator[Block]:
    strengths = [f"{strength:g}" for strength in result["strengths"]]
    rows = []
    for name, figures in result["directions"].items():
        for classifier, measured in figures["classifiers"].items():
            effects = {f"effect, {title}": mean(measured["effect"][phase]) for phase, title in PHASES.items()}
            by_strength = measured.get("kept_by_strength", {})
            shares = {f"kept at ±{s}": f"{by_strength[s]:.0%}" if s in by_strength else "" for s in strengths}
            about = {"direction": name, "classifier": f"{classifier}, {measured['unit']}"}
            rows.append(about | effects | {"kept": _kept(measured)} | shares)
    reduced = f", measured at {result['measured_px']} px" if "measured_px" in result else ""
    yield (
        f"{result['photos']} held-out photos ({result['photos_rule']}), edited by the same strengths before and after "
        f"Phase II{reduced}. Effect: how far the classifier's score moves from -s to +s, mean over photos and over s = "
        f"{', '.join(strengths)} {STRENGTHS[result['strength_unit']]}; kept: Phase II's part of Phase I's."
        f"{result.get('note', '')}"
    )
    yield Table(*columns(rows))
    yield from _by_strength(result)
    yield from _identity(result)
    yield from _classifiers(result)
    yield Picture("edits.png", "Reconstructions of held-out photos, edited", is_told=False)


def _by_strength(result: dict[str, Any]) -> Iterator[Block]:
    """Table 2's form: a row per phase and what of Phase I's change the second one keeps, a column per strength."""
    rows = []
    for name, figures in result["directions"].items():
        for classifier, measured in figures["classifiers"].items():
            if "change_interval_95" not in measured:
                continue
            for phase, title in PHASES.items():
                changes, bounds = measured["change"][phase], measured["change_interval_95"][phase]
                cells = {at(way): bracketed(changes[way], bounds[way], "+.3g") for way in changes}
                rows.append({"direction": name, "classifier": f"{classifier}, {measured['unit']}", "": title} | cells)
            known, bounds = measured.get("kept_at", {}), measured.get("kept_at_interval_95", {})
            shares = {at(way): bracketed(known[way], bounds[way], ".0%") for way in known}
            rows.append({"direction": name, "classifier": classifier, "": "kept"} | shares)
    if rows:
        yield (
            "The paper's Table 2: mean change of the score from the unedited reconstruction of the same phase. "
            "A change that may be none is given no share."
        )
        yield Table(*columns(rows))


def _identity(result: dict[str, Any]) -> Iterator[Block]:
    """Likeness of edited images to unedited ones, and to the photos."""
    for against, what in AGAINST.items():
        rows = [
            {"direction": name, "network": network, "phase": PHASES[phase]}
            | {at(way): mean(values[way], ".3f") for way in sorted(values, key=float)}
            for name, figures in result["directions"].items()
            for network, held in figures.get("identity", {}).items()
            for phase, values in held.get(against, {}).items()
        ]
        if rows:
            yield f"Identity kept by an edit: likeness {what}."
            yield Table(*columns(rows))


def _classifiers(result: dict[str, Any]) -> Iterator[Block]:
    used = {classifier for figures in result["directions"].values() for classifier in figures["classifiers"]}
    message = []
    for name, classifier in FACE_CLASSIFIERS.items():
        if name in used:
            place = f", in the place of the paper's {classifier.stands_in_for}" if classifier.stands_in_for else ""
            message.append(f"`{name}`, {classifier.what}{place}")
    if message:
        yield (
            f"Networks that come trained, others than the paper's (shares compare with its Table 2, years and "
            f"degrees do not): {'; '.join(message)}."
        )
    if result["classifiers"]:
        yield (
            "Classifiers fitted here, one per attribute: a logistic regression on SqueezeNet features, fitted to real "
            "training photos and measured on the held-out ones:"
        )
        keys = ("accuracy", "balanced_accuracy", "auc", "positive_fraction", "photos_fitted", "photos_tested")
        rows = [
            {"attribute": name} | {key.replace("_", " "): _figure(results[key]) for key in keys}
            for name, results in result["classifiers"].items()
        ]
        yield Table(*columns(rows))
    if result["not_measured"]:
        yield listed("Not measured", result["not_measured"])


def at(way: str) -> str:
    """A column's head: `at -1`, `at 0`, `at +1`."""
    return f"at {float(way):+g}" if float(way) else "at 0"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _kept(measured: dict[str, Any]) -> str:
    if measured["kept"] is None:
        return measured["why"]
    return bracketed(measured["kept"], measured["kept_interval_95"], ".0%")
