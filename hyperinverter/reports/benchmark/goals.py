"""The goals that the measurements are held against, and what bounds the method where one is missed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# The released code itself, as it was measured on another machine (2 cores of an AMD EPYC of the Zen 4 class, D = 128,
# float32, medians of 6 to 15 calls in three processes): resolution, batch -> seconds by stage.
RELEASED_SECONDS: dict[tuple[int, int], dict[str, float]] = {
    (256, 1): {"w_encoder": 0.20, "first_synthesis": 0.70, "layerwise_encoder": 1.02, "hypernetworks": 0.12,
               "second_synthesis": 0.73, "total": 2.77},
    (256, 4): {"w_encoder": 0.77, "first_synthesis": 2.60, "layerwise_encoder": 3.99, "hypernetworks": 0.41,
               "second_synthesis": 2.44, "total": 10.1},
    (1024, 1): {"w_encoder": 0.41, "first_synthesis": 1.51, "layerwise_encoder": 1.74, "hypernetworks": 0.15,
                "second_synthesis": 1.60, "total": 5.2},
    (1024, 4): {"w_encoder": 1.81, "first_synthesis": 10.6, "layerwise_encoder": 7.32, "hypernetworks": 0.59,
                "second_synthesis": 9.97, "total": 30.9},
}  # fmt: skip
HALF = ("bf16", "fp16")
SMALLEST_PX = 64  # smaller networks are there to try the commands: their times are no one's goal


@dataclass(frozen=True)
class Outcome:
    """A goal, what was measured for it, and whether that is enough; `bound` says what stands in the way otherwise."""

    goal: str
    measured: str
    is_met: bool
    bound: str = ""


def outcomes(result: dict[str, Any]) -> Iterator[Outcome]:
    """Every goal that this result has a measurement for."""
    on_gpu = result["threads"] is None
    for run in result["runs"]:
        if run["resolution"] >= SMALLEST_PX:
            yield from (_on_gpu if on_gpu else _on_cpu)(run)
            yield from _slider(run)
            yield from _training(run, on_gpu)
        yield from _agreement(run)
        yield from _memory(run)


def _on_cpu(run: dict[str, Any]) -> Iterator[Outcome]:
    for case in _cases(run):
        size = (run["resolution"], case["batch_size"])
        least = {(256, 4): 1.15, (1024, 4): 1.4}.get(size, 1.0 if case["batch_size"] == 1 else None)
        for name, side in _ours(case):
            if least is not None and (name == "fp32" or name in HALF):
                yield _faster(run, case, name, side, 2.0 if name in HALF and case["batch_size"] > 1 else least)


def _on_gpu(run: dict[str, Any]) -> Iterator[Outcome]:
    least = {256: 4.0, 1024: 3.0}.get(run["resolution"])
    for case in _cases(run):
        if case["batch_size"] != 8 or least is None:
            continue
        for name, side in _ours(case):
            if name.startswith("bf16"):
                yield _faster(run, case, name, _against_fastest(case, side), least)
                share = side["stages"]["total"]["share_of_matmul"]
                if run["resolution"] == 256:
                    goal = f"{_what(run, case, name)}: at least 15 % of the measured matrix ceiling"
                    yield Outcome(goal, f"{100 * share:.1f} %", share >= 0.15, _bound(run, case, name))


def _against_fastest(case: dict[str, Any], side: dict[str, Any]) -> dict[str, Any]:
    """A side held against the fastest reference: the released code lets a GPU use TF32, as PyTorch does unasked."""
    total: Callable[[dict[str, Any]], float] = lambda other: other["stages"]["total"]["median_ms"]  # noqa: E731
    fastest = min(filter(_is_reference, case["sides"]), key=lambda name: total(case["sides"][name]))
    if fastest == side["compared_with"]:
        return side
    ratio = total(case["sides"][fastest]) / total(side)
    return {**side, "compared_with": fastest, "speed_up": {"median": ratio}}


def _faster(run: dict[str, Any], case: dict[str, Any], name: str, side: dict[str, Any], least: float) -> Outcome:
    ratio = side["speed_up"]["median"]
    goal = f"{_what(run, case, name)}: at least {least:g} times as fast as {side['compared_with']}"
    return Outcome(goal, f"{ratio:.2f} times", ratio >= least, _bound(run, case, name))


def _agreement(run: dict[str, Any]) -> Iterator[Outcome]:
    sides = [side for case in run["inference"] for name, side in _ours(case) if name == "fp32"]
    if sides:
        worst = max(side["difference"]["largest_of_range"] for side in sides)
        goal = f"{run['resolution']} px: fp32's images equal to the reference's to 1e-4 of their range"
        yield Outcome(goal, f"{worst:.1e}", worst <= 1e-4)


def _slider(run: dict[str, Any]) -> Iterator[Outcome]:
    if run["slider"]:
        share = run["slider"]["share"]["median"]
        goal = (
            f"{run['resolution']} px, {run['slider']['side']}: re-rendering after an edit at most 0.3 of an inversion"
        )
        work = "one synthesis is 0.22 to 0.23 of an inversion's multiply-accumulates at 256 and 1024 px"
        yield Outcome(goal, f"{share:.2f}", share <= 0.3, work)


def _training(run: dict[str, Any], on_gpu: bool) -> Iterator[Outcome]:
    name, least = ("bf16", 2.0) if on_gpu else ("fp32", 1.3)
    for case in run["training"]:
        side = case["sides"].get(name)
        if case["phase"].startswith("phase2") and side and side.get("compared_with", "").startswith("reference"):
            ratio = side["speed_up"]["median"]
            what = f"{run['resolution']} px, {case['phase']} step of {case['batch_size']}, {name}"
            goal = f"{what}: at least {least:g} times as fast as {side['compared_with']}"
            yield Outcome(goal, f"{ratio:.2f} times", ratio >= least, _step_bound(run, case, name))


def _memory(run: dict[str, Any]) -> Iterator[Outcome]:
    held = run["generators"]["ours"]
    if len(held) > 1:
        shown = ", ".join(f"{mib:.0f} MiB at batch {n}" for n, mib in held.items())
        yield Outcome(
            f"{run['resolution']} px: generator memory constant in the batch", shown, len(set(held.values())) == 1
        )
    for entry in run["budget"]:
        if run["resolution"] == 1024 and entry["hidden_size"] == 128 and entry["batch_size"] == 2:
            goal = (
                f"1024 px Phase II step of 2, D = 128, {_budget_name(entry)}: within 12 GiB (computed, 1 GiB set aside)"
            )
            yield Outcome(goal, f"{entry['peak'] / 1024:.1f} GiB", entry["fits_12_gib"])


def _budget_name(entry: dict[str, Any]) -> str:
    return entry["side"] + (", adversarial" if entry["adversarial"] else "")


def _cases(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that were held against the released way, at the first hidden size."""
    first = run["inference"][0]["hidden_size"] if run["inference"] else None
    return (c for c in run["inference"] if c["hidden_size"] == first and any(map(_is_reference, c["sides"])))


def _ours(case: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, side in case["sides"].items():
        if not _is_reference(name) and _is_reference(side.get("compared_with", "")):
            yield name, side


def _is_reference(name: str) -> bool:
    return name.startswith("reference")


def _what(run: dict[str, Any], case: dict[str, Any], name: str) -> str:
    return f"{run['resolution']} px, batch {case['batch_size']}, {name}"


def _bound(run: dict[str, Any], case: dict[str, Any], name: str) -> str:
    """The stage that takes longest, and how near it is to what the machine can do."""
    stages: dict[str, dict[str, float]] = case["sides"][name]["stages"]
    by_time: Callable[[str], float] = lambda stage: stages[stage]["median_ms"]  # noqa: E731
    counted = [stage for stage, values in stages.items() if stage != "total" and "share_of_matmul" in values]
    precision = next((half for half in HALF if half in name), "fp32")
    rates = run["ceiling"]["matmul"]
    told = []
    if counted:
        longest = max(counted, key=by_time)
        of_total = stages[longest]["median_ms"] / stages["total"]["median_ms"]
        matmul, copy = (100 * stages[longest][f"share_of_{what}"] for what in ("matmul", "copy"))
        told.append(
            f"{longest} takes {100 * of_total:.0f} % at {matmul:.0f} % of the matrix and {copy:.0f} % of the copy rate"
        )
    if precision in HALF and "fp32" in rates:
        told.append(
            f"matrix products in {precision} run at {rates[precision] / rates['fp32']:.2f} times fp32's rate here"
        )
    return "; ".join(told)


def _step_bound(run: dict[str, Any], case: dict[str, Any], name: str) -> str:
    """The part of a Phase II step that takes longest, and how near the whole is to the rate of matrix products."""
    stages = case["sides"][name]["stages"]
    longest = max((part for part in stages if part != "total"), key=lambda part: stages[part]["median_ms"])
    of_total = stages[longest]["median_ms"] / stages["total"]["median_ms"]
    told = f"{longest} takes {100 * of_total:.0f} %"
    same_size = (c for c in run["inference"] if c["hidden_size"] == case["hidden_size"] and "ours" in c["counts"])
    inference = next(same_size, None)
    if inference is None:
        return told
    counts = inference["counts"]["ours"]
    # E1 and the Phase I image keep nothing; the rest has a backward pass of twice its work, to images and to weights
    alone = sum(counts[stage]["macs"] for stage in ("w_encoder", "first_synthesis"))
    macs = (3 * counts["total"]["macs"] - 2 * alone) * case["batch_size"] / inference["batch_size"]
    precision = next((half for half in HALF if half in name), "fp32")
    share = 2000 * macs / stages["total"]["median_ms"] / run["ceiling"]["matmul"][precision]
    without = "losses and D" if case["phase"] == "phase2_adversarial" else "losses"
    return f"{told}; {macs / 1e9:,.0f} GMAC (without {without}) run at {100 * share:.0f} % of the matrix rate"
