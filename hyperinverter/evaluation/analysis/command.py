"""analyze as a command: every figure's numbers as JSON, the pictures beside them."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.config.report_schema import AnalyzeConfig
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import check_images
from hyperinverter.evaluation.analysis import difference_maps, interpolation, quality_time, weight_changes
from hyperinverter.evaluation.reconstruction import open_images
from hyperinverter.inverters import INVERTERS, Inverter, load
from hyperinverter.metrics import NotMeasured
from hyperinverter.training.common import set_up
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json
from hyperinverter.utils.waiting import log_message


class Analysis:
    """What the figures share: the method and the images, opened when the first figure needs them."""

    def __init__(self, config: AnalyzeConfig, chosen: list[int] | None) -> None:
        self.config, self.chosen = config, chosen
        self.other = weight_changes.read_other(config.compare_with) if config.compare_with else None
        self.device = set_up(config)
        self.folder = Path(config.output)
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def inverter(self) -> Inverter:
        return load(self.config.model or self.config.domain, self.config.method, str(self.device))

    @cached_property
    def batches(self) -> Batches:
        return self._open(self.chosen)

    def _open(self, chosen: list[int] | None) -> Batches:
        return open_images(self.config.data, self.inverter.generator, self.device, chosen)

    def images(self, what: str) -> Iterator[tuple[Tensor, list[str]]]:
        """Every readable image once, in batches on the device, with a progress bar."""
        for images, names in self.batches.in_order(self.config.batch_size, shown_as=what):
            yield images.to(self.device), names
        report = self.batches.report()
        if self.batches.bad_files and len(self.batches.bad_files) == len(self.batches):
            raise UserError(f"none of the {len(self.batches)} images is readable: {'; '.join(report[:3])}")
        for line in report:
            log_message(f"{what}: {line}")

    def some(self, count: int) -> tuple[Tensor, list[str]]:
        """`count` images at equal distances in name order."""
        places = range(len(self.batches)) if self.chosen is None else self.chosen
        chosen = sorted({places[round(place)] for place in torch.linspace(0, len(places) - 1, count).tolist()})
        return next(self._open(chosen).in_order(count))

    @property
    def title(self) -> str:
        return f"{self.inverter.domain.name}, {self.config.method}"


def analyze(config: AnalyzeConfig, *, chosen: list[int] | None = None) -> dict[str, Any]:
    """Draw `config.figures`; write `<figure>.json`, pictures and CSV into `output`.

    Args:
        chosen: places of the images to take, in name order; None: all.
    Returns:
        figure -> what its JSON holds.
    Raises:
        UserError: the model's files are missing, or images or results cannot be read.
    """
    missing = {figure: _missing(config, figure) for figure in config.figures}
    if all(missing.values()):
        reasons = "; ".join(f"{figure}: {reason}" for figure, reason in missing.items())
        raise UserError(
            f"nothing to draw ({reasons}): give data.root=FOLDER of images, results=[FILE] of evaluations, or a method "
            f"that changes weights"
        )
    if "quality_time" in config.figures and config.results:
        quality_time.read_points(
            config.results, config.quality
        )  # a wrong file is reported before the images are inverted
    check_images(config.data.root, config.data.kind)
    analysis = Analysis(config, chosen)
    results: dict[str, Any] = {}
    for figure in config.figures:
        if missing[figure]:
            log_message(f"{figure}: left out: {missing[figure]}")
            continue
        try:
            result = FIGURES[figure](analysis)
        except NotMeasured as reason:
            log_message(f"{figure}: left out: {reason}")
            continue
        if figure != "quality_time":
            inverter = analysis.inverter
            result = {"model": f"{inverter.model_name} {inverter.model_hash}", "domain": inverter.domain.name, **result}
        results[figure] = result
        path = analysis.folder / f"{figure}.json"
        write_json(path, result)
        for statement in result.get("statements", ()):
            ratio = f", ratio {statement['ratio']:.2f}" if "ratio" in statement else ""
            log_message(f"{figure}: {statement['statement']}: {statement['verdict']}{ratio}")
        log_message(f"{figure}: written to {config.output}: {', '.join(result['pictures'])}")
    return results


def _missing(config: AnalyzeConfig, figure: str) -> str | None:
    """Why a figure cannot be drawn with this config, for the log."""
    if figure in ("weight_changes", "difference_maps") and INVERTERS[config.method].code_title is None:
        return f"method {config.method} leaves the generator's weights as they are"
    if figure == "quality_time":
        return None if config.results else "results is not given"
    return None if config.data.root or config.data.kind == "generated" else "data.root is not given"


def _weight_changes(analysis: Analysis) -> dict[str, Any]:
    images = (images for images, _ in analysis.images("weight changes"))
    layers, values = weight_changes.measure_weight_changes(analysis.inverter, images)
    result = weight_changes.as_json(layers, values, analysis.inverter.domain.kind, analysis.other)
    return result | {"pictures": weight_changes.draw_weight_changes(result, analysis.title, analysis.folder)}


def _difference_maps(analysis: Analysis) -> dict[str, Any]:
    result = difference_maps.measure_difference_maps(analysis.inverter, analysis.images("difference maps"))
    described = difference_maps.as_json(result, analysis.inverter.domain.kind)
    pictures = difference_maps.draw_mean_map(result, analysis.title, analysis.folder)
    originals = ((image, name) for batch, names in analysis.batches.in_order(analysis.config.batch_size)
                 for image, name in zip(batch, names, strict=True))  # fmt: skip
    sheet = analysis.folder / "difference_maps.png"
    difference_maps.draw_single_maps(analysis.inverter, result, originals, analysis.config.rows, sheet)
    return described | {"pictures": [*pictures, sheet.name]}


def _interpolation(analysis: Analysis) -> dict[str, Any]:
    config = analysis.config
    images, names = analysis.some(2 * config.pairs)
    if len(images) < 2:
        raise NotMeasured(f"it needs two images at least, got {len(images)}")
    images = images[: len(images) // 2 * 2]
    result = interpolation.draw_interpolations(analysis.inverter, images, names, config.steps, analysis.folder)
    return result | {"pictures": ["interpolation.png", *(f"interpolation_{n}.gif" for n in range(len(images) // 2))]}


def _quality_time(analysis: Analysis) -> dict[str, Any]:
    config = analysis.config
    points, about, notes = quality_time.read_points(config.results, config.quality)
    for note in notes:
        log_message(f"quality_time: {note}")
    pictures = quality_time.draw_quality_time(points, about, config.quality, analysis.folder)
    return {"quality": config.quality, **about, "points": points, "notes": notes, "pictures": pictures}


FIGURES: dict[str, Callable[[Analysis], dict[str, Any]]] = {
    "weight_changes": _weight_changes,
    "difference_maps": _difference_maps,
    "interpolation": _interpolation,
    "quality_time": _quality_time,
}
