"""The project's goals, held against the published measurements: what is missed is listed here, nothing else may be."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hyperinverter.utils.checkout import REPOSITORY

DOCS = REPOSITORY / "docs"

# ---------------------------------------------------------------------------------------------------- quality
# Phase II against Phase I: the paper's own ratios (table 1; CelebA-HQ: L2 0.45, LPIPS 0.49; LSUN Church: 0.71, 0.56)
# and, for faces, the rise of identity. Metric -> largest ratio, or least difference.
QUALITY = {
    "faces64": {"l2": 0.45, "squeezenet_features": 0.5, "dlib_identity": 0.15},
    "churches64": {"l2": 0.7, "squeezenet_features": 0.56},
}
KEPT_SHARE = 0.75  # of Phase I's edits; the paper keeps 0.70 to 0.91 (table 2)
MISSED_QUALITY = {
    "faces64 photos l2",
    "faces64 photos squeezenet_features",
    "faces64 other_photos l2",
    "faces64 other_photos squeezenet_features",
}


def quality(domain: str) -> Iterator[tuple[str, bool]]:
    for part in ("photos", "other_photos"):
        path = DOCS / "results" / domain / f"{part}.json"
        measured = json.loads(path.read_text())["comparison"]["w_encoder"] if path.is_file() else {}
        for metric, goal in QUALITY[domain].items() if measured else ():
            value = measured[metric]
            met = value["ratio"] <= goal if "ratio" in value else value["difference"] >= goal
            yield f"{domain} {part} {metric}", met
    path = DOCS / "results" / domain / "editability.json"
    directions = json.loads(path.read_text())["directions"] if path.is_file() else {}
    for name, figures in directions.items():
        first = next(iter(figures["classifiers"].values()))  # a network that comes trained, where there is one
        yield f"{domain} edit {name}", first["kept"] >= KEPT_SHARE


@pytest.mark.parametrize("domain", QUALITY)
def test_the_shipped_weights_reach_their_goals(domain: str):
    outcomes = dict(quality(domain))
    assert len(outcomes) >= 2
    missed = {goal for goal, is_met in outcomes.items() if not is_met}
    assert missed == {goal for goal in MISSED_QUALITY if goal.startswith(domain)}


# ------------------------------------------------------------------------------------------------------ speed
HALF = ("bf16", "fp16")
MISSED_SPEED = {"64 px, batch 1, bf16", "256 px, phase2 step"}


def speed(run: dict[str, Any], on_gpu: bool) -> Iterator[tuple[str, bool]]:
    """On a CPU against the reference; on a GPU against the fastest reference, TF32 included, as PyTorch has it on."""
    px = run["resolution"]
    cases = [case for case in run["inference"] if case["hidden_size"] == run["inference"][0]["hidden_size"]]
    for case in cases:
        sides, batch = case["sides"], case["batch_size"]
        references = [total(side) for name, side in sides.items() if name.startswith("reference")]
        for name, side in sides.items():
            if name.startswith("reference") or not side.get("compared_with", "").startswith("reference"):
                continue
            what = f"{px} px, batch {batch}, {name}"
            if name == "fp32":
                yield f"{what}: images", side["difference"]["largest_of_range"] <= 1e-4
            if on_gpu and batch == 8 and name.startswith("bf16") and px in (256, 1024):
                yield what, min(references) / total(side) >= {256: 4.0, 1024: 3.0}[px]
                yield f"{what}: matrix ceiling", px != 256 or side["stages"]["total"]["share_of_matmul"] >= 0.15
            elif not on_gpu and name in ("fp32", *HALF):
                least = {(256, 4): 1.15, (1024, 4): 1.4}.get((px, batch), 1.0 if batch == 1 else None)
                if least is not None:
                    least = 2.0 if name in HALF and batch > 1 else least
                    yield what, side["speed_up"]["median"] >= least
    if run["slider"]:
        yield f"{px} px, slider", run["slider"]["share"]["median"] <= 0.3
    name, least = ("bf16", 2.0) if on_gpu else ("fp32", 1.3)
    for case in run["training"]:
        side = case["sides"].get(name, {})
        if case["phase"].startswith("phase2") and side.get("compared_with", "").startswith("reference"):
            yield f"{px} px, {case['phase']} step", side["speed_up"]["median"] >= least


def memory(run: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """One generator serves any batch; a Phase II step of two at 1024 px, D = 128, fits a card of 12 GiB."""
    yield f"{run['resolution']} px, generator memory", len(set(run["generators"]["ours"].values())) == 1
    for entry in run["budget"]:
        if (run["resolution"], entry["hidden_size"], entry["batch_size"]) == (1024, 128, 2):
            yield f"1024 px, step of {entry['side']}, {entry['adversarial']}", entry["fits_12_gib"]


def total(side: dict[str, Any]) -> float:
    return side["stages"]["total"]["median_ms"]


def test_photos_of_1024_px_take_seconds_and_little_memory():
    """ffhq_mobile on two cores: an inversion, a slider's step, and the largest memory of the former."""
    files = (json.loads(path.read_text()) for path in (DOCS / "performance").glob("*.json"))
    runs = [run for result in files for run in result["runs"] if run["domain"] == "ffhq_mobile"]
    assert runs
    for run in runs:
        assert total(run["inference"][0]["sides"]["fp32"]) <= 1500
        assert run["slider"]["times"]["slider"]["median_ms"] <= 500
        assert run["memory"][0]["peak_mib"] <= 1.5 * 1024


@pytest.mark.parametrize("path", sorted((DOCS / "performance").glob("*.json")), ids=lambda path: path.stem)
def test_speed_and_memory_reach_their_goals(path):
    result = json.loads(path.read_text())
    runs = [run for run in result["runs"] if run["resolution"] >= 64]  # smaller ones are there to try the commands
    runs = [run for run in runs if run["domain"] != "ffhq_mobile"]  # the released code has no such generator
    if not runs:
        pytest.skip("the app and ffhq_mobile alone were measured on this machine")
    goals = (goal for run in runs for goal in (*speed(run, result["threads"] is None), *memory(run)))
    outcomes = dict(goals)
    assert len(outcomes) > 20
    assert {goal for goal, is_met in outcomes.items() if not is_met} == MISSED_SPEED


# ------------------------------------------------------------------------------------------------------ the app
SLIDER_MS = {("faces64", 64): 60, ("ffhq_mobile", 256): 150, ("ffhq_mobile", 1024): 600}  # p95 on two cores
MISSED_SLIDERS: set[str] = set()


def test_sliders_reach_their_goals():
    results = [json.loads(path.read_text()) for path in sorted((DOCS / "performance").glob("*.json"))]
    cases = [
        (app["domain"], app[what]) for each in results for app in each.get("apps", ()) for what in ("moving", "stopped")
    ]
    assert {(domain, case["px"]) for domain, case in cases} == set(SLIDER_MS)
    p95 = {(domain, case["px"]): case["times"]["app"]["p95_ms"] for domain, case in cases}
    missed = {f"{domain}, {px} px" for (domain, px), ms in p95.items() if ms > SLIDER_MS[domain, px]}
    assert missed == MISSED_SLIDERS
