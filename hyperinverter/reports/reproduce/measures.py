"""The measurements of reproduce, one function per part: the bench in, what its JSON holds out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AnalyzeConfig
from hyperinverter.config.schema import DataConfig, EvaluateConfig, Phase1Config, Phase2Config, StyleGAN2Config
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.loader import Batches
from hyperinverter.evaluation.analysis.command import analyze
from hyperinverter.evaluation.editability import choose_photos, edit_rows
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.inverters import Inverter, load
from hyperinverter.losses import build_losses
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics import build as build_metrics
from hyperinverter.pretrained.load import load_discriminator
from hyperinverter.reports.html_page import curves, read_stats
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.methods import common, model_of
from hyperinverter.reports.reproduce.bounds import measure_bounds
from hyperinverter.reports.reproduce.edits import SHEET_FACES, directions_of, measure_edits
from hyperinverter.reports.reproduce.generator_distance import measure_generator
from hyperinverter.utils.files import copy_file, write_text
from hyperinverter.utils.images import contact_sheet, save_image

BOUNDS_BATCH = 4  # photos whose weights are optimised at a time: their gradients fit 1024 px too
RECORDS_KEPT = 8  # of the generated images, whose numbers a test recomputes
CURVE_POINTS = 40  # of a learning curve, at most
SAMPLES, SAMPLE_COLUMNS, SAMPLE_PSI = 64, 16, 0.7  # of samples.png
SHEET_ROWS = 9  # of reconstructions.png: a third each of the best, median and worst


# ---------------------------------------------------------------------------------------------- reconstruction


def photos(part: str, bench: Bench) -> dict[str, Any]:
    """Of the photos that the setting of the part's name holds."""
    return _reconstruction(bench, part, DataConfig(root=getattr(bench.config, part), on_bad_file="refuse"))


def generated(bench: Bench) -> dict[str, Any]:
    result = _reconstruction(bench, "generated", _generated(bench))
    lines = (bench.output / "generated" / "images.jsonl").read_text().splitlines()
    return result | {"first_images": [json.loads(line) for line in lines[:RECORDS_KEPT]]}


def _generated(bench: Bench) -> DataConfig:
    return DataConfig(kind="generated", num_generated=bench.config.generated)


def _reconstruction(
    bench: Bench, part: str, data: DataConfig, metrics: list[str] | None = None, rows: int = 8
) -> dict[str, Any]:
    """What scripts/evaluate.py says."""
    settings = EvaluateConfig(
        **common(bench.config),
        model=model_of(bench.config),
        output=str(bench.output / part),
        data=data,
        metrics=metrics or bench.config.metrics,
        time_repeats=bench.config.time_repeats,
        sheet_rows=rows,
    )
    result = evaluate(settings)
    del result["files"]  # photos' names are no result
    return result


# ----------------------------------------------------------------------------------------- edits and generator


def _inverter(bench: Bench) -> Inverter:
    """Both phases as they are, without the settings of the paper's methods."""
    return load(model_of(bench.config), "hyperinverter", str(bench.device))


def editability(bench: Bench) -> dict[str, Any]:
    return measure_edits(bench, _inverter(bench))


def generator(bench: Bench) -> dict[str, Any]:
    return measure_generator(
        bench.generator,
        bench.batches(range(len(bench.source))),
        bench.people,
        batch_size=bench.config.batch_size,
        seed=bench.config.seed,
        device=bench.device,
        augment=bench.config.augment,
    )


def analysis(bench: Bench) -> dict[str, Any]:
    """What Phase II changes: weights per layer, and the mean difference map; both drawn into `output`."""
    data, other = DataConfig(root=bench.config.photos, on_bad_file="refuse"), bench.config.compare_with
    return _analyze(bench, bench.output, data, ["weight_changes", "difference_maps"], compare_with=other)


def figures(bench: Bench) -> dict[str, Any]:
    """The paper's figures that show single images, of generated ones: blends and difference maps, into `figures/`.

    With `config.results` also quality against time, of those evaluations.
    """
    folder, results = bench.output / "figures", bench.config.results
    drawn = ["interpolation", "difference_maps", *(["quality_time"] if results else [])]
    (folder / "quality_time.svg").unlink(missing_ok=True)  # of an earlier call, or it would be published again
    result = _analyze(bench, folder, _generated(bench), drawn, results=results, rows=3, pairs=2)
    if time := result.get("quality_time"):
        # what names places on this machine goes; what differs between the evaluations stays
        time["notes"] = [note for note in time["notes"] if "differ between" in note]
        for point in time["points"]:
            point["file"] = Path(point["file"]).parent.name
    return result


def _analyze(bench: Bench, output: Path, data: DataConfig, figures: list[str], **more: Any) -> dict[str, Any]:
    shared = common(bench.config) | {"model": model_of(bench.config), "output": str(output)}
    results = analyze(AnalyzeConfig(**shared, figures=figures, data=data, **more))
    for result in results.values():
        del result["pictures"]  # beside the published JSON lie those alone that the page shows
    return results


def bounds(bench: Bench) -> dict[str, Any]:
    """How far the encoders stay behind what generator and mapper could do, on photos at equal distances by name."""
    config, device, inverter = bench.config, bench.device, _inverter(bench)
    discriminator = load_discriminator(inverter.folder) if config.bounds_losses.get("discriminator_features") else None
    loss_resolution = inverter.domain.loss_resolution
    losses = build_losses(config.bounds_losses, discriminator=discriminator, loss_resolution=loss_resolution)
    metrics, _ = build_metrics(losses.weights, inverter.domain, discriminator=discriminator, device=device)
    chosen = choose_photos([None] * len(bench.source), config.bounds_photos)
    images = (images for images, _ in bench.batches(chosen).in_order(BOUNDS_BATCH))
    result = measure_bounds(inverter, images, config.bounds_steps, losses.to(device).eval(), metrics)
    return {**result, "photos_rule": "at equal distances in name order", "resolution": inverter.resolution}


# ------------------------------------------------------------------------------------ learning curve, pictures


def learning_curve(bench: Bench) -> dict[str, Any]:
    """Every validation number of the runs against the images seen; L2 also as a drawing, in `output`."""
    runs = {name: _curve(Path(folder)) for name, folder in bench.config.runs.items()}
    lines = [
        {"step": images, f"validation/{name}": value}
        for name, curve in runs.items()
        if "l2" in curve  # a generator's run measures another distance
        for images, value in zip(curve["images_seen"], curve["l2"], strict=True)
    ]
    drawing = curves(lines, {f"validation/{name}": name for name in runs}, "validation L2", "images seen")
    write_text(bench.output / "learning_curve.svg", drawing + "\n")
    return {"runs": runs}


def _curve(folder: Path) -> dict[str, list[float]]:
    """`images_seen`, and validation numbers by name, of one run; thinned, the last row kept.

    Raises:
        NotMeasured: the run has no validation numbers.
    """
    lines = [line for line in read_stats(folder / "stats.jsonl") if any(key.startswith("validation/") for key in line)]
    if not lines:
        raise NotMeasured(f"{folder.name}/stats.jsonl holds no validation numbers")
    every = -(-len(lines) // CURVE_POINTS)
    kept = lines[::-1][::every][::-1]
    seen = _images_seen(folder / "config.yaml")
    names = [key for key in kept[-1] if key.startswith("validation/")]
    curve: dict[str, list[float]] = {"images_seen": [seen(line["step"]) for line in kept]}
    return curve | {name.removeprefix("validation/"): [line.get(name) for line in kept] for name in names}


def _images_seen(path: Path) -> Callable[[int], int]:
    """From the step of a run to the images it has seen, by the run's config."""
    for schema in (Phase2Config, Phase1Config, StyleGAN2Config):
        try:
            config = load_config(schema, path)
        except ConfigError:
            continue
        whole = config.schedule.batch_size
        if not isinstance(config, Phase2Config) or config.adversarial.weight <= 0:
            return lambda step: step * whole
        start, part = config.adversarial.start_step, config.adversarial.batch_size
        return lambda step: min(step, start) * whole + max(step - start, 0) * part
    raise NotMeasured(f"{path.name} of the run is no trainer's config")


def pictures(bench: Bench) -> None:
    """samples.png, reconstructions.png and edits.png of the model card; every face in them is the generator's.

    Samples are the first ones of a stream that no training draws from; reconstructions the best, median and worst.
    """
    from torchvision.utils import make_grid

    config, inverter = bench.config, _inverter(bench)
    folder = Path(config.pictures or bench.output / "pictures")
    samples = _samples(inverter, SAMPLES)
    save_image(make_grid(samples, SAMPLE_COLUMNS, padding=0), folder / "samples.png")
    _reconstruction(bench, "pictures", _generated(bench), ["l2"], SHEET_ROWS)
    copy_file(bench.output / "pictures" / "sheet.png", folder / "reconstructions.png")
    faces, strength = samples[:SHEET_FACES], max(config.strengths)
    cells, headings, captions = edit_rows(inverter, directions_of(inverter), faces, strength, config.strength_unit)
    if cells:
        contact_sheet(cells, headings, folder / "edits.png", captions)


def _samples(inverter: Inverter, count: int) -> Tensor:
    source = GeneratedSource(inverter.generator, count, stream="evaluation", truncation_psi=SAMPLE_PSI)
    images = next(Batches(source, inverter.resolution).in_order(count))[0]
    return images.to(inverter.device)
