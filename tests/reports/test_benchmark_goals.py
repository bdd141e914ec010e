"""Goals of the benchmark: what is missed says by how much and what bounds it, and is held against the right side."""

import pytest

from hyperinverter.reports.benchmark.goals import outcomes


@pytest.fixture
def run() -> dict:
    """One domain's part of benchmark.json, empty but for what every goal reads."""
    return {
        "resolution": 256,
        "inference": [],
        "slider": None,
        "training": [],
        "budget": [],
        "generators": {"ours": {}},
        "ceiling": {"matmul": {"fp32": 1e12, "bf16": 1e12}},
    }


def test_a_missed_goal_of_a_training_step_says_what_bounds_it(run: dict):
    """The cell was empty. Work: E1 and the Phase I image once, everything else three times."""
    work = {"w_encoder": 1, "first_synthesis": 2, "layerwise_encoder": 3, "hypernetworks": 4, "second_synthesis": 5}
    counts = {stage: {"macs": 10**9 * n} for stage, n in {**work, "total": sum(work.values())}.items()}
    stages = {"forward": 400.0, "backward_and_optimiser": 600.0, "total": 1000.0}
    side = {"stages": {name: {"median_ms": ms} for name, ms in stages.items()}, "compared_with": "reference"}
    side["speed_up"] = {"median": 1.29}
    run["training"] = [{"phase": "phase2", "hidden_size": 8, "batch_size": 4, "sides": {"fp32": side}}]
    (found,) = outcomes({"threads": 2, "runs": [run]})
    assert (found.is_met, found.measured) == (False, "1.29 times")
    assert found.bound == "backward_and_optimiser takes 60 %"
    run["inference"] = [{"hidden_size": 8, "batch_size": 2, "sides": {}, "counts": {"ours": counts}}]
    (found,) = outcomes({"threads": 2, "runs": [run]})
    # 4 images, where the counts are of 2: 2 (1 + 2 + 3 (3 + 4 + 5)) GMAC, at two operations each in a second
    assert found.bound.endswith("60 %; 78 GMAC (without losses) run at 16 % of the matrix rate")


def test_on_a_gpu_the_fastest_reference_is_the_measure(run: dict):
    """TF32 is on where nobody touches PyTorch's switch; against float32 alone bf16 looked better than it is."""
    times = {"reference": 90.0, "reference_tf32": 30.0, "bf16": 10.0}
    sides = {name: {"stages": {"total": {"median_ms": t, "share_of_matmul": 0.2}}} for name, t in times.items()}
    sides["bf16"] |= {"compared_with": "reference", "speed_up": {"median": 9.0}}
    run["inference"] = [{"hidden_size": 128, "batch_size": 8, "sides": sides, "counts": {}}]
    speed, share = outcomes({"threads": None, "runs": [run]})
    assert speed.goal.endswith("at least 4 times as fast as reference_tf32")
    assert (speed.measured, speed.is_met, share.is_met) == ("3.00 times", False, True)
    del sides["reference_tf32"]
    assert next(outcomes({"threads": None, "runs": [run]})).measured == "9.00 times"
