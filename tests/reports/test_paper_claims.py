"""Every claim is told either way, by intervals, and what was not measured is said to be so."""

import pytest

from hyperinverter.reports.paper.claims import (
    FAILS,
    HOLDS,
    NOT_YET,
    OPEN,
    STATEMENTS,
    Finding,
    claims_of,
    claims_section,
)


def table1(ratio: float, spread: float = 0.05) -> dict:
    """Both phases against pSp and PTI on L2 and LPIPS; e4e has no weights."""
    one = {"ratio": ratio, "interval_95": [ratio - spread, ratio + spread]}
    paired = {"n": 8, "of": "hyperinverter", "metrics": {"l2": one, "lpips": one}}
    seconds = {"pti": 20.0, "hyperinverter": 0.1}
    rows = {name: {"title": name, "cells": {"seconds": {"value": seconds.get(name)}}} for name in
            ("psp", "e4e", "sg2_plus", "pti", "hyperinverter")}  # fmt: skip
    return {"rows": rows, "paired": {"psp": paired, "pti": paired, "sg2_plus": paired}}


def verdicts(results: dict, number: int) -> list[str]:
    return [one.verdict for one in claims_of(results)[list(STATEMENTS)[number]]]


@pytest.mark.parametrize(("ratio", "encoders", "pti"), [(0.5, HOLDS, FAILS), (1.5, FAILS, HOLDS), (1.01, OPEN, OPEN)])
def test_reconstruction_is_decided_by_the_interval(ratio: float, encoders: str, pti: str):
    results = {"table1": table1(ratio)}
    assert verdicts(results, 0) == [encoders, encoders, NOT_YET]
    assert verdicts(results, 1) == [encoders, encoders]
    assert verdicts(results, 2) == [pti, pti, HOLDS]
    assert "200 times the time (20 s an image)" in claims_section({"faces64": results})


def test_times_of_a_core_that_was_shared_count_as_on_one_of_its_own():
    results = {"table1": table1(0.5)}
    row = results["table1"]["rows"]["pti"]
    row |= {"device": "cpu, 1 threads"}
    row["cells"]["seconds"]["computing"] = 0.25
    assert "50 times the time (5 s an image)" in claims_section({"faces64": results})
    row["device"] = "cpu, 2 threads"  # which compute for more than all of the time
    assert "200 times the time (20 s an image)" in claims_section({"faces64": results})


def test_edits_are_held_against_phase_one_and_against_w_plus():
    kept = {name: {"kept": low + 0.05, "kept_interval_95": [low, low + 0.1]} for name, low in
            (("a", 0.8), ("b", 0.3), ("c", 0.62))}  # fmt: skip
    effect = lambda mean: {"n": 8, "effect": {"mean": mean, "interval_95": [mean - 1, mean + 1]}}  # noqa: E731
    methods = {"hyperinverter": effect(5), "e4e": effect(1), "psp": effect(9), "restyle": effect(5.5), "pti": effect(1)}
    results = {
        "editability": {"directions": {"age": {"classifiers": {**kept, "none": {"kept": None}}}}},
        "table2": {"directions": {"age": {"judge": {"methods": methods}}}},
    }
    assert verdicts(results, 3) == [HOLDS, FAILS, OPEN]
    assert verdicts(results, 4) == [FAILS, HOLDS, OPEN], "pti edits in W and is no W+ method"


def test_an_encoder_that_saw_few_images_is_not_held_against_ours():
    results = {"table1": table1(0.5)}
    rows = results["table1"]["rows"]
    rows["w_encoder"] = {"title": "Phase I", "trained": {"w_encoder": {"images": 48_000}}}
    rows["psp"]["trained"] = {"psp": {"images": 12_000}}
    assert verdicts(results, 0)[1:] == [HOLDS, HOLDS, NOT_YET]
    rows["psp"]["trained"] = {"psp": {"images": 11_999}}
    assert verdicts(results, 0)[1:] == [NOT_YET, NOT_YET]
    assert "psp saw 11,999 images in its last training run, Phase I 48,000" in claims_section({"faces64": results})


def test_ablations_keep_their_verdicts():
    told = ("holds", "does not hold", "open: the interval holds 1")
    statements = [{"statement": word, "ratio": 1.1, "interval_95": [1, 1.2], "verdict": word} for word in told]
    assert verdicts({"ablations": {"statements": statements}}, 5) == [HOLDS, FAILS, OPEN]
    text = claims_section({"faces64": {"ablations": {"statements": statements}}})
    assert "A comparison is **open** where" in text and "it is a ratio of L2" in text, "what a reader had to guess"
    assert '(**does not hold**: "does not hold". **open**: "open: the interval holds 1")' in text


def test_what_was_not_measured_is_said():
    assert all(found == [Finding(NOT_YET)] for found in claims_of({}).values())
    text = claims_section({"faces64": {"table1": table1(0.5)}, "empty": {"photos": {}}})
    assert "| faces64 | e4e, no weights yet | not measured |" in text
    assert claims_section({"empty": {"photos": {}}}) == ""


def test_each_claim_is_a_line_before_the_numbers():
    results = {"table1": table1(0.5), "editability": {}}
    results["table1"]["paired"]["w_encoder"] = {**results["table1"]["paired"]["psp"], "metrics": {}}
    results["table1"]["rows"]["w_encoder"] = {"title": "Phase I"}
    text = claims_section({"faces64": results, "churches64": {"editability": {}}})
    lines = text[: text.index("<details>")].splitlines()
    assert lines[2] == "| the paper's claim | faces64 |", "no column for a domain of which nothing is compared"
    assert lines[4] == (
        "| Both phases beat every other encoder on L2 and LPIPS | **holds** against psp (**not measured**: l2 "
        "against Phase I; lpips against Phase I; e4e) |"
    )
    assert "| Edits go farther than those of W+ methods | not measured |" in lines  # by no domain
    results["table1"]["paired"]["psp"]["metrics"]["lpips"] = {"ratio": 1.2, "interval_95": [1.1, 1.3]}
    text = claims_section({"faces64": results})
    assert "| **holds** in 1 of 2 comparisons (**does not hold**: lpips against psp. **not measured**: " in text
    results["table1"]["paired"]["psp"]["metrics"]["l2"] = {"ratio": 1.2, "interval_95": [1.1, 1.3]}
    text = claims_section({"faces64": results})
    assert "| **does not hold**: l2 against psp; lpips against psp. **not measured**: " in text


def test_a_method_in_fewer_steps_than_published_decides_nothing():
    results = {"table1": table1(0.5)}
    pti, sg2_plus = (results["table1"]["rows"][name] for name in ("pti", "sg2_plus"))
    pti["settings"], sg2_plus["settings"] = {"steps": 450, "tuning_steps": 20}, {"steps": 2000}
    assert verdicts(results, 1) == [HOLDS, HOLDS] and verdicts(results, 2) == [NOT_YET]
    assert "pti was measured with 450 of 450 and 20 of 350 steps" in claims_section({"faces64": results})
    sg2_plus["settings"]["steps"] = 60
    effect = {"n": 8, "effect": {"mean": 1.0, "interval_95": [0.5, 1.5]}}
    results["table2"] = {"directions": {"age": {"judge": {"methods": {"hyperinverter": effect, "sg2_plus": effect}}}}}
    assert verdicts(results, 1) == [NOT_YET] and verdicts(results, 4) == [NOT_YET]
