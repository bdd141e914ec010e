"""How well methods reconstruct images: one record per image, a summary, a table and a contact sheet.

Letters: N images of a batch, R resolution. Every output is rounded to 8 bits before it is measured, as a saved PNG
would be; the published scripts measured JPEG files of JPEG inputs, which this does not imitate. Several processes share
the batches, and rank 0 puts what they found together in the order of the images: every number is that of one process.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import hyperinverter
from hyperinverter import metrics as metric_table
from hyperinverter.config.schema import DomainConfig, EvaluateConfig, ImagesConfig
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.image_source import Subset
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import check_images, open_source
from hyperinverter.evaluation.comparison import compare_with_each
from hyperinverter.evaluation.reconstructing import Reconstructor, reconstruct, rounded, timing_of_records
from hyperinverter.evaluation.sheet import SHEET_RULE, TITLES, choose_rows, draw_sheet
from hyperinverter.evaluation.tables import TIMES, to_markdown
from hyperinverter.extractors.framing import look_at_some
from hyperinverter.inverters import INVERTERS, Inverter, check_methods, load
from hyperinverter.metrics import FILTERS, Metric, NotMeasured, Reduction
from hyperinverter.metrics.pixel import L2
from hyperinverter.metrics.timing import WARM_UP_CALLS, Timing, time_per_image
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.pretrained.files import find_model_folder
from hyperinverter.pretrained.load import load_discriminator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.common import set_up
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.distributed import from_main, gather_numbered, in_all_processes, is_main, world_size
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json, write_text
from hyperinverter.utils.paths import check_given
from hyperinverter.utils.waiting import doing, log_message

CROP = f"crop them first: {command_of('align')} FOLDER output=ALIGNED"


@in_all_processes
def evaluate(
    config: EvaluateConfig, *, chosen: Sequence[int] | None = None, keep_inversions: bool = False
) -> dict[str, Any]:
    """Measure `config.methods` on the images of `config.data` and write the results into `config.output`.

    Writes images.jsonl (one record per image), metrics.json (the returned summary), table.md and sheet.png.

    Args:
        chosen: numbers of some of the images; None: all.
        keep_inversions: of methods that optimise, see `Reconstructor`.
    Raises:
        UserError: no images, or none readable; the model's files are missing or do not belong together.
    """
    check_given(config.data)  # before gigabytes are read
    check_images(config.data.root, config.data.kind)
    device = set_up(config)
    source = config.domain if config.model is None else config.model
    check_methods(source, config.methods)
    fast = {"precision": config.precision, "compile": config.compile, "resolution": config.resolution}
    with doing("loading the model"):
        inverters = {}
        for method in config.methods:
            refine = config.refine if INVERTERS[method].refines else 0
            inverters[method] = load(source, method, device, config.projection, refine=refine, **fast)
    last_inverter = list(inverters.values())[-1]
    domain = last_inverter.domain
    images = open_images(config.data, last_inverter.generator, device, chosen, config.resolution)
    measured, not_measured = metric_table.build(
        config.metrics,
        domain,
        discriminator=_discriminator(config),
        device=device,
        metric_filter=config.metric_filter,
        kid_subset_size=config.kid_subset_size,
    )
    per_method = {method: [metric.fresh() for metric in measured] for method in inverters}

    by_l2 = L2(Reduction(domain.loss_resolution, config.metric_filter))
    with doing("looking at some photos"):
        framing = list(look_at_some(images.source, domain, CROP)) if is_main() else []
    for line in framing:
        log_message(line)
    kept = Path(config.output) / "reconstructions"
    methods = {name: Reconstructor(one, kept / name, images, keep_inversions) for name, one in inverters.items()}
    if slow := [method for method, one in methods.items() if one.keeps and is_main()]:
        log_message(f"{', '.join(slow)}: optimised image by image; finished ones are kept in {kept} and not made again")

    records, ranking = _measure(config, methods, per_method, images, by_l2, device)
    images.share_report()
    if not records:
        raise UserError(f"none of the {len(images)} images is readable: {'; '.join(images.report()[:3])}")
    result = {}
    if is_main():
        result = _summarise(config, methods, per_method, images, records, ranking, not_measured, framing)
    return from_main(result)


def _summarise(
    config: EvaluateConfig,
    methods: dict[str, Reconstructor],
    per_method: dict[str, list[Metric]],
    images: Batches,
    records: list[dict[str, Any]],
    ranking: list[float],
    not_measured: dict[str, str],
    framing: list[str],
) -> dict[str, Any]:
    """Time the methods, compute the metrics, write the files; in one process."""
    inverters = {method: one.inverter for method, one in methods.items()}
    last_method, last_inverter = list(inverters.items())[-1]
    domain, device = last_inverter.domain, last_inverter.device
    timings = {
        method: timing_of_records([record[method] for record in records], device)
        if one.keeps
        else _time(config, one.inverter, images, device)
        for method, one in methods.items()
    }

    protocol = _protocol(config, domain, inverters, timings)
    summaries, intervals = {}, {}
    for method, own_metrics in per_method.items():
        summary = dict.fromkeys(config.metrics)
        intervals[method] = {}
        for metric in own_metrics:
            try:
                summary[metric.name] = metric.compute()
            except NotMeasured as reason:
                not_measured[metric.name] = str(reason)
                continue
            protocol |= metric.protocol()
            if interval := metric.interval():
                intervals[method][metric.name] = list(interval)
        times = (timings[method].median_ms, timings[method].p95_ms)
        summaries[method] = summary | dict(zip(TIMES, times, strict=True))

    about = {
        name: {"unit": m.unit, "better": m.better} for name in config.metrics for m in [metric_table.METRICS[name]]
    }
    result = {
        "domain": domain.name,
        "num_images": len(records),
        "protocol": protocol | {"sheet_rule": SHEET_RULE.format(method=last_method)},
        "metrics": about | {name: {"unit": "ms per image", "better": "lower"} for name in TIMES},
        "methods": summaries,
        "intervals_95": intervals,
        "comparison": compare_with_each(records, list(inverters), about),
        "not_measured": not_measured,
        "files": {"unreadable": dict(sorted(images.bad_files.items())), "notes": [*images.report(), *framing]},
    }
    output = Path(config.output)
    _print_replaced(output / "metrics.json", protocol)
    write_text(output / "images.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    write_json(output / "metrics.json", result, indent=2)
    write_text(output / "table.md", to_markdown(result))
    chosen = choose_rows(ranking, config.sheet_rows)
    if chosen:
        names = [record["name"] for record in records]
        results = originals(images, [names[row.index] for row in chosen], config.batch_size)
        columns = {one.inverter.heading(TITLES.get(method, method)): one.redrawn for method, one in methods.items()}
        draw_sheet(output / "sheet.png", chosen, names, ranking, results, columns)
    tqdm.write(to_markdown(result))
    tqdm.write(f"written: {output / 'metrics.json'}, images.jsonl, table.md, sheet.png")
    return result


def open_images(
    data: ImagesConfig,
    generator: Generator,
    device: torch.device,
    chosen: Sequence[int] | None = None,
    resolution: int | None = None,
) -> Batches:
    """Images in name order, never mirrored; `generated` ones are from a stream that no training draws from.

    Args:
        chosen: numbers of some of them; of generated images, which are all alike, the first as many are taken.
        resolution: side in px; None: the generator's.
    """
    size = generator.resolution if resolution is None else resolution
    if data.kind == "generated":
        count = min(data.num_generated, data.max_images or data.num_generated)
        count = count if chosen is None else min(count, len(chosen))
        drawn = {"seed": data.generated_seed, "truncation_psi": data.truncation_psi, "resolution": size}
        drawn["truncation_psi_from"] = data.truncation_psi_from
        source = GeneratedSource(generator, count, stream="evaluation", **drawn)
    else:
        source = open_source(data.root, data.kind, data.max_images, data.max_megapixels, size)
        source = source if chosen is None else Subset(source, chosen)
    return Batches(
        source, size, on_bad_file=data.on_bad_file, cache_mib=data.cache_mib, workers=data.workers, device=device
    )


def _discriminator(config: EvaluateConfig) -> Discriminator | None:
    """The model's discriminator, None where its folder has none."""
    try:
        if config.model is not None:
            return load_discriminator(find_model_folder(config.model))
        return load_discriminator(obtain_weights(config.domain, "discriminator"), config.domain)
    except FileNotFoundError:
        if config.model is None and config.domain.weights.discriminator is not None:
            raise
        return None


def _measure(
    config: EvaluateConfig,
    methods: dict[str, Reconstructor],
    per_method: dict[str, list[Metric]],
    images: Batches,
    ranking: L2,
    device: torch.device,
) -> tuple[list[dict[str, Any]], list[float]]:
    """One pass over the images, each process over its batches; the metrics of rank 0 then hold those of all.

    Returns:
        One record per image (its name, and per method its values by metric), and its rank's L2 by the last method.
    """
    own: list[tuple[int, list[dict[str, Any]], list[float]]] = []  # number of the batch, records, order
    total = -(-len(images) // world_size()) * len(methods)
    progress = tqdm(total=total, desc="evaluate", unit="inversion", disable=not is_main())
    for number, real, names in images.own_in_order(config.batch_size):
        real = rounded(real).to(device)
        batch: list[dict[str, Any]] = [{"name": name} for name in names]
        for method, one in methods.items():
            progress.set_postfix_str(method, refresh=False)
            fake, times = one(real, names, progress.update)
            for number_in_batch, record in enumerate(batch):
                record[method] = times[number_in_batch].record() if times else {}
            for metric in per_method[method]:
                values = metric.update(real, fake)
                if values is not None:
                    for record, value in zip(batch, values.tolist(), strict=True):
                        record[method][metric.name] = value
        own.append((number, batch, ranking.per_image(real, fake).tolist()))  # of the last method
    progress.close()
    for metric in (metric for metrics in per_method.values() for metric in metrics):
        numbered = [(number, taken) for (number, *_), taken in zip(own, metric.taken, strict=True)]
        metric.taken = [taken for _, taken in gather_numbered(numbered, everywhere=False)]
    everything = gather_numbered(own)
    records = [record for _, batch, _ in everything for record in batch]
    return records, [value for *_, order in everything for value in order]


def originals(images: Batches, names: list[str], batch_size: int) -> dict[str, Tensor]:
    """Name -> image [3,R,R], rounded, for a few of the images."""
    result: dict[str, Tensor] = {}
    for batch, batch_names in images.in_order(batch_size):
        result |= {name: rounded(image).cpu() for image, name in zip(batch, batch_names, strict=True) if name in names}
        if len(result) == len(names):
            break
    return result


def _time(config: EvaluateConfig, inverter: Inverter, images: Batches, device: torch.device) -> Timing:
    """Time from the image on the device to its reconstruction there."""
    batch, _ = next(images.in_order(config.time_batch_size))
    copies = -(-config.time_batch_size // len(batch))  # fewer images than the batch asks for: repeat them
    batch = batch.repeat(copies, 1, 1, 1)[: config.time_batch_size].to(device)
    with tqdm(total=WARM_UP_CALLS + config.time_repeats, desc=f"timing {inverter.name}", leave=False) as bar:

        def call() -> None:
            reconstruct(inverter, batch)
            bar.update()

        return time_per_image(call, batch_size=config.time_batch_size, repeats=config.time_repeats, device=device)


def _protocol(
    config: EvaluateConfig, domain: DomainConfig, inverters: dict[str, Inverter], timings: dict[str, Timing]
) -> dict[str, Any]:
    size = config.resolution or domain.resolution
    slow = [method for method, inverter in inverters.items() if inverter.optimises]
    timing = next((one for method, one in timings.items() if method not in slow), timings[next(iter(inverters))])
    once = {m: f"invert and render, synchronised, each of {timings[m].repeats} images once, alone" for m in slow}
    data = config.data
    roots = [data.root] if isinstance(data.root, str) else data.root or []
    names = ", ".join(Path(root).name for root in roots)  # without the folders of this machine
    return {
        "images": f"generated, seed {data.generated_seed}" if data.kind == "generated" else names,
        "order": "by name, not mirrored",
        "resolution": size,
        "loss_resolution": min(size, domain.loss_resolution),
        "loss_filter": FILTERS[config.metric_filter] if size > domain.loss_resolution else None,
        "rounding": "outputs rounded to 8 bits, lossless",
        "models": {method: f"{inverter.model_name} {inverter.model_hash}" for method, inverter in inverters.items()},
        "settings": {method: settings for method, inverter in inverters.items() if (settings := inverter.settings())},
        "device": timing.device,
        "precision": config.precision + (", compiled" if config.compile else ""),
        "time": f"invert and render, synchronised, warm, {timing.repeats} calls",
        **({"time_of_methods_that_optimise": once} if slow else {}),
        "computing": {method: timing.computing for method, timing in timings.items() if timing.computing is not None},
        "time_batch_size": timing.batch_size,
        "batch_size": config.batch_size,
        "versions": {"hyperinverter": hyperinverter.__version__, "torch": torch.__version__},
    }


def _print_replaced(path: Path, protocol: dict[str, Any]) -> None:
    """Say so where an evaluation of other models or images lies at `path`, which is about to be replaced."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["protocol"]
        other = [what for what in ("models", "images") if before[what] != protocol[what]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if other:
        log_message(
            f"{path}: replaces an evaluation of other {' and '.join(other)}; another output=FOLDER would keep both"
        )
