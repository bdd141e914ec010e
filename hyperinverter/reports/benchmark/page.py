"""benchmark.json -> Markdown: the tables of one device, and the published page of several."""

from collections.abc import Iterable, Iterator
from typing import Any

from hyperinverter.reports.benchmark.counting import STAGES
from hyperinverter.reports.benchmark.goals import RELEASED_SECONDS, outcomes
from hyperinverter.reports.benchmark.loading import loading_rows

HEAD = """# Performance

How fast the method runs, what it needs, and what the released code's way of working would take in its place. Every
number comes from one command, which stands above its tables; this page is made by the same command.

**`reference`** renders the released code from its description: one deep copy of the generator per image of a batch and
a loop over images, dense residuals for each, E2 called twice, the hypernetworks one after the other, up-sampling as a
transposed convolution and a filter of its own, weights modulated per image in one grouped convolution, separate
discriminator passes, gradients for frozen generators. It runs in the same process, on the same weights and images,
and in turn with ours (A B A B ...); a ratio is the median of the rounds' ratios, in brackets the least and the largest.
On a GPU the released code has compiled kernels for filter and activation, which `reference` does without.

**Times** are wall-clock with the device synchronised, warm; p95 is the 95th percentile over the rounds. **Work** is
multiply-accumulates of convolutions and matrix products, counted without a device. **Shares** are of the rates of
matrix products (in the side's precision) and of copies that were measured in the same run; bytes are what the
operations of a side's call read and write, counted in such a call (a compiled side's in one of the uncompiled side),
so a share of the copy rate above 100 % means that caches served it. **Differences** are between a side's images and
the first side's; networks have random weights unless it says otherwise, with residuals large enough to change every
image. D = 256 changes the hypernetworks alone and is measured at the smallest batch; the adversarial step is measured
at 64 px, and at 1024 px no reference's step, which would need more than 16 GB beside ours.

**bf16 on a CPU** pays where the processor multiplies matrices in it (AMX: `amx_bf16` among the flags in
`/proc/cpuinfo`), which the CPU measured here does. Others get slower by it: on an AMD EPYC that has AVX2 alone, faces64
at batch 4 took 1.4 s of one core in bf16 and 0.20 s in fp32. A command that computes in bf16 or fp16 on a processor
without instructions for it says so once.

**What feeds a GPU.** One core of the CPU below decodes 94 to 116 JPEGs of 1024 px in a second, 34 to 37 PNGs, 38 to 39
WebPs. A run's `time/images_per_s` over those numbers is how many cores a GPU needs: at 100 images per second one core
for JPEG, three for PNG. No H200 was measured; whatever its step takes, training says so where it waits for its images.
`data.workers` is by default one thread per core of the process. What helps: photos stored at the domain's resolution,
as JPEG; `data.cache_mib`, where all of them fit (3 MiB a photo at 1024 px, 0.2 at 256); and for large JPEGs
`data.max_megapixels`, above which they are decoded at a half, a quarter or an eighth of their sides: with 0.3 a JPEG
of 1024 px is read at 512 for a domain of 256 px, in 0.6 of the time. Other formats above the limit are refused.

```bash
python scripts/benchmark.py --config configs/benchmark/all.yaml publish=docs/performance
python scripts/benchmark.py --config configs/benchmark/gpu.yaml publish=docs/performance
python scripts/benchmark.py --config configs/benchmark/all.yaml 'runs=[]' 'sides={}' publish=docs/performance
```

The first measures this page's domains on a CPU, the second on a GPU, and the third makes the page from the measurements
in `docs/performance/` without measuring.
"""


def page(results: list[dict[str, Any]]) -> str:
    """The published page: a head, then the tables of every device."""
    return "\n".join([HEAD, *map(tables, results)])


def tables(result: dict[str, Any]) -> str:
    """Everything in one benchmark.json as Markdown."""
    threads = f", {result['threads']} thread{'s' * (result['threads'] != 1)}" if result["threads"] else ""
    capability = f", {result['capability']}" if result["capability"] else ""
    lines = [
        f"## {result['device']}{threads}{capability}",
        _table(
            ["goal", "measured", "met", "what bounds it where it is missed"],
            (
                [o.goal, o.measured, "yes" if o.is_met else "**no**", "" if o.is_met else o.bound]
                for o in outcomes(result)
            ),
        ),
        *result.get("notes", []),  # written by hand into the device's JSON; measuring again keeps them
        *(section for run in result["runs"] for section in _domain(run)),
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


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
    yield _beside_release(run)
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
                    _ms(total["ms_per_image"]),
                    f"{1000 / total['ms_per_image']:.3g}",
                    f"{_ms(total['median_ms'])} ({_ms(total['p95_ms'])})",
                    total["rounds"],
                    _ratio(side),
                    f"{100 * total['share_of_matmul']:.0f} %",
                    f"{100 * total['share_of_copy']:.0f} %",
                    f"{off['largest']:.1e} ({off['largest_of_range']:.1e}), {off['mean']:.1e}" if off else "",
                ]
            )
    heads = ["D", "batch", "side", "ms per image", "images/s", "ms per call (p95)", "rounds", "times as fast"]
    heads += ["of matrix ceiling", "of copy ceiling", "image difference: largest (of range), mean"]
    return _titled("**Inversion**, from an image to its reconstruction:", _table(heads, rows))


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
                row.append(_ms(values["median_ms"]) + about if values else "")
            rows.append(row)
        title = (
            f"Stages, D = {case['hidden_size']}, batch {case['batch_size']}, ms per call [share of the matrix and of "
            f"the copy ceiling; moved]; parameters {counts['total']['parameter_bytes'] / 2**20:,.0f} MiB:"
        )
        parts.append(_titled(title, _table(["stage", "GMAC", *sides], rows)))
    return "\n\n".join(parts)


def _beside_release(run: dict[str, Any]) -> str:
    """How the reference's stages are spread, beside the released code's own on another machine."""
    rows = []
    for case in run["inference"]:
        released = RELEASED_SECONDS.get((run["resolution"], case["batch_size"]))
        side = case["sides"].get("reference")
        if released and side and case["hidden_size"] == 128:
            for who, seconds in (
                ("released code, there", released),
                ("reference, here", {stage: v["median_ms"] / 1000 for stage, v in side["stages"].items()}),
            ):
                shares = [f"{100 * seconds[stage] / seconds['total']:.0f} %" for stage in STAGES]
                rows.append([case["batch_size"], who, f"{seconds['total']:.2f}", *shares])
    title = (
        "The released code itself (D = 128) took these times on another machine, two cores of an AMD EPYC of the Zen 4 "
        "class; `reference` should spend its time alike, as far as memory is handed out as fast:"
    )
    return _titled(title, _table(["batch", "", "s per call", *(s.replace("_", " ") for s in STAGES)], rows))


def _slider(run: dict[str, Any]) -> str:
    slider = run["slider"]
    if not slider:
        return ""
    times = slider["times"]
    rows = [[what, _ms(v["median_ms"]), _ms(v["p95_ms"]), v["rounds"]] for what, v in times.items()]
    share = slider["share"]
    title = (
        f"**Slider** ({slider['side']}, D = {slider['hidden_size']}, one image): rendering after an edit takes "
        f"{share['median']:.2f} of an inversion [{share['least']:.2f} to {share['most']:.2f}]:"
    )
    return _titled(title, _table(["", "ms", "p95", "rounds"], rows))


def _training(run: dict[str, Any]) -> str:
    rows = []
    for case in run["training"]:
        for name, side in case["sides"].items():
            total, parts = side["stages"]["total"], side["stages"].items()
            split = ", ".join(f"{part.replace('_', ' ')} {_ms(v['median_ms'])}" for part, v in parts if part != "total")
            off = (
                f"{side['loss_difference']:.1e}, {side['gradient_difference']:.1e}" if "loss_difference" in side else ""
            )
            extra = _ms(side["r1_extra_ms"]) if "r1_extra_ms" in side else ""
            rows.append(
                [
                    case["phase"],
                    case["batch_size"],
                    name,
                    f"{_ms(total['median_ms'])} ({_ms(total['p95_ms'])})",
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
    return _titled(title, _table(heads, rows))


def _loading(run: dict[str, Any]) -> str:
    steps = {}
    for case in run["training"]:
        name, side = list(case["sides"].items())[-1]  # the fastest stands last
        steps[f"{case['phase']}, {name}"] = 1000 / side["stages"]["total"]["ms_per_image"]
    heads, rows = loading_rows(run.get("loading", []), steps)
    return _titled("**Reading from disk**, by the threads that decode, beside the steps above:", _table(heads, rows))


def _memory(run: dict[str, Any]) -> str:
    rows = [
        [m["what"], m["batch_size"], m["side"]]
        + ([m["failed"], "", ""] if "failed" in m else [_mib(m[key]) for key in ("before_mib", "peak_mib", "rise_mib")])
        for m in run["memory"]
    ]
    how = next((m["how"] for m in run["memory"] if "how" in m), "")
    held = run["generators"]
    constant = ", ".join(
        f"batch {n}: {_mib(held['ours'][n])} (ours), {_mib(held['reference'][n])} (reference)" for n in held["ours"]
    )
    table = _table(["what", "batch", "side", "before, MiB", "peak, MiB", "rise, MiB"], rows)
    return f"**Memory.** Generators held, MiB: {constant}." + (f" Peak: {how}.\n\n{table}" if rows else "")


def _budget(run: dict[str, Any]) -> str:
    parts = ("frozen_weights", "trained_weights", "gradients", "optimiser", "kept_for_backward", "peak")
    rows = [
        [
            entry["side"] + (", adversarial" if entry["adversarial"] else ""),
            entry["hidden_size"],
            entry["batch_size"],
            *(_mib(entry[part]) for part in parts),
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
    return _titled(title, _table(heads, rows))


def _titled(title: str, table: str) -> str:
    return f"{title}\n\n{table}" if table else ""


def _table(heads: list[str], rows: Iterable[list[Any]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


_mib = _ms


def _ratio(side: dict[str, Any]) -> str:
    ratio = side.get("speed_up")
    return f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['most']:.2f}]" if ratio else ""
