"""The measurements of reproduce, one function per part: config and device in, what its JSON holds out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AnalyzeConfig, ReproduceConfig
from hyperinverter.config.schema import DataConfig, EvaluateConfig, Phase1Config, Phase2Config, StyleGAN2Config
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.image_source import Subset
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.editing.learn import read_labels, rows_of
from hyperinverter.evaluation.analysis.command import analyze
from hyperinverter.evaluation.editability import choose_photos, edit_rows
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.inverters import Inverter, load
from hyperinverter.losses import build_losses
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics import build as build_metrics
from hyperinverter.pretrained.files import find_model_folder
from hyperinverter.pretrained.load import load_discriminator, load_generator
from hyperinverter.reports.html_page import curves, read_stats
from hyperinverter.reports.paper.methods import model_of
from hyperinverter.reports.reproduce.bounds import measure_bounds
from hyperinverter.reports.reproduce.edits import SHEET_FACES, directions_of, measure_edits, photos_of
from hyperinverter.reports.reproduce.generator_distance import measure_generator
from hyperinverter.utils.files import copy_file, write_atomically
from hyperinverter.utils.images import contact_sheet, save_image

BOUNDS_BATCH = 4  # photos whose weights are optimised at a time: their gradients fit 1024 px too
RECORDS_KEPT = 8  # of the generated images, whose numbers a test recomputes
CURVE_POINTS = 40  # of a learning curve, at most
SAMPLES, SAMPLE_COLUMNS, SAMPLE_PSI = 64, 16, 0.7  # of samples.png
SHEET_ROWS = 9  # of reconstructions.png: a third each of the best, median and worst


# ---------------------------------------------------------------------------------------------- reconstruction


def photos(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    return _reconstruction(config, "photos", DataConfig(root=config.photos, on_bad_file="refuse"))


def other_photos(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    return _reconstruction(config, "other_photos", DataConfig(root=config.other_photos, on_bad_file="refuse"))


def generated(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    result = _reconstruction(config, "generated", _generated(config))
    lines = (Path(config.output) / "generated" / "images.jsonl").read_text().splitlines()
    return result | {"first_images": [json.loads(line) for line in lines[:RECORDS_KEPT]]}


def _generated(config: ReproduceConfig) -> DataConfig:
    return DataConfig(kind="generated", num_generated=config.generated)


def _reconstruction(
    config: ReproduceConfig, part: str, data: DataConfig, metrics: list[str] | None = None, rows: int = 8
) -> dict[str, Any]:
    result = evaluate(evaluation(config, part, data, metrics, rows))
    del result["files"]  # photos' names are no result
    return result


def evaluation(
    config: ReproduceConfig, part: str, data: DataConfig, metrics: list[str] | None = None, rows: int = 8
) -> EvaluateConfig:
    """What scripts/evaluate.py is given for a part."""
    passed_on = {key: getattr(config, key) for key in ("domain", "device", "threads", "seed", "batch_size")}
    return EvaluateConfig(
        **passed_on,
        model=model_of(config),
        output=str(Path(config.output) / part),
        data=data,
        metrics=metrics or config.metrics,
        time_repeats=config.time_repeats,
        sheet_rows=rows,
    )


# ----------------------------------------------------------------------------------------- edits and generator


def editability(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    return measure_edits(config, load(model_of(config), "hyperinverter", str(device)), device)


def generator(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    network = load_generator(find_model_folder(model_of(config))).to(device)
    batches = photos_of(config.photos, network.resolution)
    rows = rows_of(list(batches.names), read_labels(config.labels)) if config.labels else [None] * len(batches)
    people = [row and row.get("identity") for row in rows]
    return measure_generator(
        network,
        batches,
        people,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        augment=config.augment,
    )


def analysis(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    """What Phase II changes: weights per layer, and the mean difference map; both drawn into `output`."""
    data = DataConfig(root=config.photos, on_bad_file="refuse")
    return _analyze(
        config, config.output, data, ["weight_changes", "difference_maps"], compare_with=config.compare_with
    )


def figures(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    """The paper's figures that show single images, of generated ones: blends and difference maps, into `figures/`.

    With `config.results` also quality against time, of those evaluations.
    """
    folder = str(Path(config.output) / "figures")
    drawn = ["interpolation", "difference_maps", *(["quality_time"] if config.results else [])]
    (Path(folder) / "quality_time.svg").unlink(missing_ok=True)  # of an earlier call, or it would be published again
    result = _analyze(config, folder, _generated(config), drawn, results=config.results, rows=3, pairs=2)
    if time := result.get("quality_time"):
        # what names places on this machine goes; what differs between the evaluations stays
        time["notes"] = [note for note in time["notes"] if "differ between" in note]
        for point in time["points"]:
            point["file"] = Path(point["file"]).parent.name
    return result


def _analyze(config: ReproduceConfig, output: str, data: DataConfig, figures: list[str], **more: Any) -> dict[str, Any]:
    passed_on = {key: getattr(config, key) for key in ("domain", "device", "threads", "seed", "batch_size")}
    settings = AnalyzeConfig(**passed_on, output=output, figures=figures, model=model_of(config), data=data, **more)
    results = analyze(settings)
    for result in results.values():
        del result["pictures"]  # beside the published JSON lie those alone that the page shows
    return results


def bounds(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    """How far the encoders stay behind what generator and mapper could do, on photos at equal distances by name."""
    inverter = load(model_of(config), "hyperinverter", str(device))
    discriminator = load_discriminator(inverter.folder) if config.bounds_losses.get("discriminator_features") else None
    loss_resolution = inverter.domain.loss_resolution
    losses = build_losses(config.bounds_losses, discriminator=discriminator, loss_resolution=loss_resolution)
    metrics, _ = build_metrics(losses.weights, inverter.domain, discriminator=discriminator, device=device)
    source = open_source(config.photos, resolution=inverter.resolution)
    chosen = choose_photos([None] * len(source.names), config.bounds_photos)
    batches = Batches(Subset(source, chosen), inverter.resolution, on_bad_file="refuse").in_order(BOUNDS_BATCH)
    images = (images.to(device) for images, _ in batches)
    result = measure_bounds(inverter, images, config.bounds_steps, losses.to(device).eval(), metrics)
    return {**result, "photos_rule": "at equal distances in name order", "resolution": inverter.resolution}


# ------------------------------------------------------------------------------------ learning curve, pictures


def learning_curve(config: ReproduceConfig, device: torch.device) -> dict[str, Any]:
    """Every validation number of the runs against the images seen; L2 also as a drawing, in `output`."""
    runs = {name: _curve(Path(folder)) for name, folder in config.runs.items()}
    lines = [
        {"step": images, f"validation/{name}": value}
        for name, curve in runs.items()
        if "l2" in curve  # a generator's run measures another distance
        for images, value in zip(curve["images_seen"], curve["l2"], strict=True)
    ]
    drawing = curves(lines, {f"validation/{name}": name for name in runs}, "validation L2", "images seen")
    with write_atomically(Path(config.output) / "learning_curve.svg") as path:
        path.write_text(drawing + "\n")
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


def pictures(config: ReproduceConfig, device: torch.device) -> None:
    """samples.png, reconstructions.png and edits.png of the model card; every face in them is the generator's.

    Samples are the first ones of a stream that no training draws from; reconstructions the best, median and worst.
    """
    from torchvision.utils import make_grid

    folder = Path(config.pictures or Path(config.output) / "pictures")
    inverter = load(model_of(config), "hyperinverter", str(device))
    samples = _samples(inverter, SAMPLES)
    save_image(make_grid(samples, SAMPLE_COLUMNS, padding=0), folder / "samples.png")
    _reconstruction(config, "pictures", _generated(config), ["l2"], SHEET_ROWS)
    copy_file(Path(config.output) / "pictures" / "sheet.png", folder / "reconstructions.png")
    faces, strength = samples[:SHEET_FACES], max(config.strengths)
    cells, headings, captions = edit_rows(inverter, directions_of(inverter), faces, strength, config.strength_unit)
    if cells:
        contact_sheet(cells, headings, folder / "edits.png", captions)


def _samples(inverter: Inverter, count: int) -> Tensor:
    source = GeneratedSource(inverter.generator, count, stream="evaluation", truncation_psi=SAMPLE_PSI)
    images = next(Batches(source, inverter.resolution).in_order(count))[0]
    return images.to(inverter.device)
