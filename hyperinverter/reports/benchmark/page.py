"""benchmark.json -> Markdown: the tables of one device, and the published page of several."""

import re
from collections.abc import Iterator
from typing import Any

from hyperinverter.evaluation.tables import bracketed, table
from hyperinverter.reports.benchmark.counting import STAGES
from hyperinverter.reports.benchmark.loading import loading_rows
from hyperinverter.utils.text import counted


def page(about: str, results: list[dict[str, Any]]) -> str:
    """The published page.

    Args:
        about: its head, up to the first `##`, and its end.
        results: the measurements of each device.
    """
    head, *notes = re.split("\n(?=## )", about)
    return "\n".join([head, _summary(results), *map(tables, results), *notes])


def _summary(results: list[dict[str, Any]]) -> str:
    """A line for each domain on each device: the fastest way, and how many times as fast as the reference it is."""
    rows = []
    for device, run in ((result["device"], run) for result in results for run in result["runs"]):
        one = [case for case in run["inference"] if case["batch_size"] == 1]
        steps = [case for case in run["training"] if case["phase"] == "phase2"]
        slider = run["slider"] and _number(run["slider"]["times"]["slider"]["median_ms"])
        cells = [_fastest(one, "ms_per_image"), _fastest(run["inference"], "ms_per_image"), slider or ""]
        rows.append([device, run["domain"], run["resolution"], *cells, _fastest(steps, "median_ms")])
    heads = ["device", "domain", "px", "an image inverted, ms", "the same in a batch", "an edit drawn, ms"]
    return table([*heads, "a Phase II step, ms"], rows) + "\n"


def _fastest(cases: list[dict[str, Any]], key: str) -> str:
    """`8.61 (bf16, batch 8, × 1.79)`, of all sides but the reference; "" where nothing was measured."""
    sides = [
        (side["stages"]["total"][key], name, case["batch_size"], side.get("speed_up"))
        for case in cases
        for name, side in case["sides"].items()
        if name != "reference"
    ]
    if not sides:
        return ""
    ms, name, batch, ratio = min(sides, key=lambda side: side[0])
    parts = [name, f"batch {batch}", f"× {ratio['median']:.2f}" if ratio else ""]
    return f"{_number(ms)} ({', '.join(filter(None, parts))})"


def tables(result: dict[str, Any]) -> str:
    threads = f", {counted(result['threads'], 'thread')}" if result["threads"] else ""
    capability = f", {result['capability']}" if result["capability"] else ""
    lines = [
        f"## {result['device']}{threads}{capability}",
        *result.get("notes", []),  # written by hand into the device's JSON; measuring again keeps them
        *(section for run in result["runs"] for section in _domain(run)),
        *_apps(result.get("apps", [])),
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def _apps(apps: list[dict[str, Any]]) -> Iterator[str]:
    if not apps:
        return
    about, rows = apps[0]["about"], []
    loads = ", ".join(f"{app['load']:.1f}" for app in apps if app["load"] is not None)
    for app in apps:
        for what in ("moving", "stopped"):
            times, ratio = app[what]["times"]["app"], app[what]["over_synthesis"]
            over = bracketed(ratio["median"], (ratio["least"], ratio["most"]), ".2f")
            ms = [_number(times["median_ms"]), _number(times["p95_ms"]), _number(app[what]["cpu_ms"])]
            rows.append([app["domain"], what, app[what]["px"], *ms, times["rounds"], over])
    yield "### The app, from a slider to the picture"
    yield (
        f"`{about['command']}`, PyTorch {about['versions']['torch']}; load average "
        f"of the machine when each began: {loads}. "
        "From the request to the picture's last byte, over HTTP, in ms: `moving` is a preview, `stopped` keeps the "
        "settings and draws in full. Times of the processor are the process's own, not those it waited while others "
        "worked."
    )
    heads = ["domain", "slider", "px", "ms", "p95", "of the processor", "rounds", "over the synthesis alone"]
    yield table(heads, rows)


def _domain(run: dict[str, Any]) -> Iterator[str]:
    rates = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in run["ceiling"]["matmul"].items())
    about, versions = run["about"], run["about"]["versions"]
    yield f"### {run['domain']}, {run['resolution']} px"
    yield (
        f"`{about['command']}`; {run['seconds'] / 60:.1f} minutes for this domain, PyTorch {versions['torch']}, Python "
        f"{versions['python']}, {versions['system']}."
    )
    yield (
        f"{run['weights'].capitalize()} weights. Measured ceilings: matrix products in GFLOP/s: {rates}; copies "
        f"{run['ceiling']['copy'] / 1e9:,.1f} GB/s."
    )
    yield _inference(run)
    yield _stages(run)
    yield _slider(run)
    yield _training(run)
    yield _loading(run)
    yield _memory(run)
    yield _budget(run)


def _inference(run: dict[str, Any]) -> str:
    rows = []
    for case in run["inference"]:
        for name, side in case["sides"].items():
            total = side["stages"]["total"]
            off = side.get("difference")
            rows.append(
                [
                    case["hidden_size"],
                    case["batch_size"],
                    name,
                    _number(total["ms_per_image"]),
                    f"{1000 / total['ms_per_image']:.3g}",
                    f"{_number(total['median_ms'])} ({_number(total['p95_ms'])})",
                    total["rounds"],
                    _ratio(side),
                    f"{100 * total['share_of_matmul']:.0f} %",
                    f"{100 * total['share_of_copy']:.0f} %",
                    f"{off['largest']:.1e} ({off['largest_of_range']:.1e}), {off['mean']:.1e}" if off else "",
                ]
            )
    heads = ["D", "batch", "side", "ms per image", "images/s", "ms per call (p95)", "rounds", "times as fast"]
    heads += ["of matrix ceiling", "of copy ceiling", "image difference: largest (of range), mean"]
    return _titled("**Inversion**, from an image to its reconstruction:", heads, rows)


def _stages(run: dict[str, Any]) -> str:
    """Where the time goes, with the work of each stage."""
    parts = []
    for case in run["inference"]:
        sides = {name: side["stages"] for name, side in case["sides"].items() if STAGES[0] in side["stages"]}
        if not sides or case["hidden_size"] != run["inference"][0]["hidden_size"]:
            continue
        counts = case["counts"].get("ours") or case["counts"]["reference"]
        rows = []
        for stage in (*STAGES, "rest", "total"):
            counted = counts.get(stage)
            row = [stage.replace("_", " ")]
            row.append(f"{counted['macs'] / 1e9:.2f}" if counted else "")
            for stages in sides.values():
                values = stages.get(stage)
                about = (
                    f" [{100 * values['share_of_matmul']:.0f}, {100 * values['share_of_copy']:.0f} %; "
                    f"{values['gib_moved']:.2f} GiB]"
                    if counted
                    else ""
                )
                row.append(_number(values["median_ms"]) + about if values else "")
            rows.append(row)
        title = (
            f"Stages, D = {case['hidden_size']}, batch {case['batch_size']}, ms per call [share of the matrix and of "
            f"the copy ceiling; moved]; parameters {counts['total']['parameter_bytes'] / 2**20:,.0f} MiB:"
        )
        parts.append(_titled(title, ["stage", "GMAC", *sides], rows))
    return "\n\n".join(parts)


def _slider(run: dict[str, Any]) -> str:
    slider = run["slider"]
    if not slider:
        return ""
    times = slider["times"]
    rows = [[what, _number(v["median_ms"]), _number(v["p95_ms"]), v["rounds"]] for what, v in times.items()]
    share = slider["share"]
    title = (
        f"**Slider** ({slider['side']}, D = {slider['hidden_size']}, one image): rendering after an edit takes "
        f"{share['median']:.2f} of an inversion [{share['least']:.2f} to {share['most']:.2f}]:"
    )
    return _titled(title, ["", "ms", "p95", "rounds"], rows)


def _training(run: dict[str, Any]) -> str:
    rows = []
    for case in run["training"]:
        for name, side in case["sides"].items():
            total, parts = side["stages"]["total"], side["stages"].items()
            split = ", ".join(
                f"{part.replace('_', ' ')} {_number(v['median_ms'])}" for part, v in parts if part != "total"
            )
            off = (
                f"{side['loss_difference']:.1e}, {side['gradient_difference']:.1e}" if "loss_difference" in side else ""
            )
            extra = _number(side["r1_extra_ms"]) if "r1_extra_ms" in side else ""
            rows.append(
                [
                    case["phase"],
                    case["batch_size"],
                    name,
                    f"{_number(total['median_ms'])} ({_number(total['p95_ms'])})",
                    total["rounds"],
                    _ratio(side),
                    split,
                    extra,
                    off,
                ]
            )
    heads = ["step", "batch", "side", "ms (p95)", "rounds", "times as fast", "of that", "R1, every 16th step"]
    heads += ["first step's loss and gradient differ by"]
    title = (
        "**Training**, one step. The gradient's difference is that of its whole vector, relative to its length. Random "
        "networks whose BatchNorm sees two images make it large, because they amplify rounding; trained ones on more "
        "images show what a precision costs:"
    )
    return _titled(title, heads, rows)


def _loading(run: dict[str, Any]) -> str:
    steps = {}
    for case in run["training"]:
        name, side = list(case["sides"].items())[-1]  # the fastest stands last
        steps[f"{case['phase']}, {name}"] = 1000 / side["stages"]["total"]["ms_per_image"]
    heads, rows = loading_rows(run.get("loading", []), steps)
    return _titled("**Reading from disk**, by the threads that decode, beside the steps above:", heads, rows)


def _memory(run: dict[str, Any]) -> str:
    rows = [
        [m["what"], m["batch_size"], m["side"]]
        + (
            [m["failed"], "", ""]
            if "failed" in m
            else [_number(m[key]) for key in ("before_mib", "peak_mib", "rise_mib")]
        )
        for m in run["memory"]
    ]
    how = next((m["how"] for m in run["memory"] if "how" in m), "")
    held = run["generators"]
    other = {n: f", {_number(mib)} (reference)" for n, mib in held["reference"].items()}
    constant = ", ".join(f"batch {n}: {_number(held['ours'][n])} (ours){other.get(n, '')}" for n in held["ours"])
    heads = ["what", "batch", "side", "before, MiB", "peak, MiB", "rise, MiB"]
    return f"**Memory.** Generators held, MiB: {constant}." + (f" Peak: {how}.\n\n{table(heads, rows)}" if rows else "")


def _budget(run: dict[str, Any]) -> str:
    parts = ("frozen_weights", "trained_weights", "gradients", "optimiser", "kept_for_backward", "peak")
    rows = [
        [
            entry["side"] + (", adversarial" if entry["adversarial"] else ""),
            entry["hidden_size"],
            entry["batch_size"],
            *(_number(entry[part]) for part in parts),
            "yes" if entry["fits_12_gib"] else "no",
        ]
        for entry in run["budget"]
    ]
    title = (
        "**A Phase II step's memory, computed** in MiB from a step on tensors without numbers: what the weights, "
        "gradients and Adam's two moments take, what autograd keeps for the backward pass, and the largest sum at any "
        "moment, temporaries included. A GPU adds its context and its libraries' workspaces, for which 1 GiB is set "
        "aside:"
    )
    heads = ["side", "D", "batch", *(part.replace("_", " ") for part in parts), "within 12 GiB"]
    return _titled(title, heads, rows)


def _titled(title: str, heads: list[str], rows: list[list[Any]]) -> str:
    return f"{title}\n\n{table(heads, rows)}" if rows else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(side: dict[str, Any]) -> str:
    ratio = side.get("speed_up")
    return bracketed(ratio["median"], (ratio["least"], ratio["most"]), ".2f") if ratio else ""
