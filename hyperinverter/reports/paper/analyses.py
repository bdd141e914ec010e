"""Figures 1, 8, 9, 11 to 14 by `evaluation.analysis`, and Table 3 by the ablate command, beside the paper's numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperinverter.checkpoint import read_model
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AblateConfig, AnalyzeConfig
from hyperinverter.config.schema import DataConfig
from hyperinverter.evaluation.analysis.command import analyze
from hyperinverter.metrics import NotMeasured
from hyperinverter.pretrained.files import weights_file
from hyperinverter.reports.html_page import Block, Picture, Table
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.methods import OURS, common
from hyperinverter.reports.paper.table1 import table1
from hyperinverter.reports.paper.values import TABLE_3, TABLE_3_METRICS
from hyperinverter.reports.reproduce.ablations import measure_ablations, why_not_these
from hyperinverter.utils.checkout import REPOSITORY, command_of
from hyperinverter.utils.files import copy_file, read_json

QUALITY = ("l2", "lpips")  # figure 1 is drawn of the first
PAIRS, BLEND_STEPS, MAP_ROWS = 3, 7, 6  # of figure 9, of its blends, and of figures 13 and 14


def _analysis(bench: Bench, figure: str, kind: str, on_shown: bool, pictures: dict[str, str], **more: Any) -> Any:
    """One figure of `analyze`, in a folder of its own; pictures are copied to `output`: its name -> the figure's."""
    if lacking := lacks_ours(bench):
        raise NotMeasured(lacking[0])
    method = bench.methods[OURS]
    config, places = bench.config, [bench.output / name for name in pictures.values()]
    photos = bench.shown_digest if on_shown else bench.digest(bench.wide)
    key = bench.key(figure, bench.method_key(method), photos, more, bench.credit() if on_shown else None)
    folder = bench.output / "figures" / figure
    if known := bench.found(folder / "kept.json", key, places):
        return known
    generated = DataConfig(kind="generated", num_generated=len(bench.shown)) if on_shown and not config.shown else None
    settings = AnalyzeConfig(
        **common(config),
        model=method.folder,
        method=OURS,
        output=str(folder),
        figures=[kind],
        data=generated or DataConfig(root=config.shown if on_shown else config.photos, on_bad_file="refuse"),
        **more,
    )
    result = analyze(settings, chosen=None if on_shown else bench.wide)[kind]
    for source, place in zip(pictures, places, strict=True):
        copy_file(folder / source, place)
    credit = {"credit": bench.credit()} if on_shown else {}
    return bench.keep(folder / "kept.json", key, {"pictures": list(pictures.values()), **credit, "analysis": result})


def lacks_ours(bench: Bench) -> list[str]:
    method = bench.methods.get(OURS)
    is_there = method is not None and method.fault is None
    return [] if is_there else [f"it is of {OURS}: {method.fault if method else 'not among the methods'}"]


def weight_changes(figure: str, bench: Bench) -> dict[str, Any]:
    drawings = {"weight_changes.svg": f"{figure}.svg", "weight_changes.png": f"{figure}.png"}
    return _analysis(bench, figure, "weight_changes", False, drawings, compare_with=bench.config.compare_with)


def mean_map(bench: Bench) -> dict[str, Any]:
    return _analysis(bench, "fig12", "difference_maps", False, {"difference_map.png": "fig12.png"}, rows=MAP_ROWS)


def single_maps(figure: str, bench: Bench) -> dict[str, Any]:
    drawing = {"difference_maps.png": f"{figure}.png"}
    return _analysis(bench, figure, "difference_maps", True, drawing, rows=MAP_ROWS)


def blends(bench: Bench) -> dict[str, Any]:
    drawing = {"interpolation.png": "fig9.png"}
    return _analysis(bench, "fig9", "interpolation", True, drawing, pairs=PAIRS, steps=BLEND_STEPS)


def quality_time(bench: Bench) -> dict[str, Any]:
    """Figure 1, of Table 1's rows, which are measured first where they are missing."""
    table = table1(bench)
    rows = {name: row for name, row in table["rows"].items() if "n" in row}
    drawn = [q for q in QUALITY if any((row["cells"].get(q) or {}).get("value") is not None for row in rows.values())]
    if not drawn:
        raise NotMeasured(f"table 1 has none of {', '.join(QUALITY)}")
    missing = {name: row["missing"] for name, row in table["rows"].items() if "missing" in row}
    made_of = [[row["key"], row["cells"]["seconds"]] for row in rows.values()]  # measured again, seconds differ
    key = bench.key("fig1", made_of, missing, drawn)
    place, pictures = bench.output / "figures" / "fig1.json", [bench.output / f"{_figure1(q)}.svg" for q in drawn]
    if known := bench.found(place, key, pictures):
        return known
    files = [str(bench.output / "table1" / name / "metrics.json") for name in rows]
    results = {}
    for quality in drawn:
        folder = bench.output / "figures" / _figure1(quality)
        settings = AnalyzeConfig(
            figures=["quality_time"], results=files, quality=quality, output=str(folder), device="cpu"
        )
        results[quality] = analyze(settings)["quality_time"]["points"]
        for point in results[quality]:
            del point["file"]
        for suffix in (".svg", ".png"):
            copy_file(folder / f"quality_time{suffix}", bench.output / f"{_figure1(quality)}{suffix}")
    return bench.keep(place, key, {"points": results, "missing": missing})


def _figure1(quality: str) -> str:
    return "fig1" if quality == QUALITY[0] else f"fig1_{quality}"


def table3(bench: Bench) -> dict[str, Any]:
    """The rows that the ablate command trains and measures; those that are trained already are not trained again.

    Without training_photos an earlier run's rows are taken, where there are any.
    """
    if lacking := lacks_ablations(bench):
        raise NotMeasured(lacking[0])
    config, settings = bench.config, _ablations(bench)
    assert settings is not None  # lacks_ablations would have said so
    known = Path(settings.output) / "ablations.json"
    settings.photos = config.photos
    if config.training_photos and config.photos:
        settings.data.root = config.training_photos
        settings.device, settings.threads = str(bench.device), config.threads
        result = measure_ablations(settings)
    else:
        result = read_json(known) or {}
        if "rows" not in result:
            raise NotMeasured(f"{known} is damaged: remove it, or give training_photos=FOLDER and photos=FOLDER")
        parts = ("generator", "w_encoder")
        hashes = {part: read_model(weights_file(settings.domain, part), part).hash for part in parts}
        if other := why_not_these(settings, result, hashes):
            raise NotMeasured(
                f"training_photos is not given, and {known} is of a run that differs: {'; '.join(other)}. Give "
                "training_photos=FOLDER and photos=FOLDER, so that its rows are measured anew"
            )
    sheet = Path(settings.output) / "ablations.png"
    if sheet.is_file():
        copy_file(sheet, bench.output / "table3.png")
    for row in result["rows"]:
        row["paper"] = _paper_row(row["title"])
    return {name: value for name, value in result.items() if name != "about"}


def _ablations(bench: Bench) -> AblateConfig | None:
    """The ablate command's config of this domain."""
    path = _ablations_file(bench)
    if not path.is_file():
        return None
    settings = load_config(AblateConfig, path)
    if bench.config.model is not None:  # the rows belong to the model that is asked for
        settings.domain.weights.folder = bench.base
    return settings


def _ablations_file(bench: Bench) -> Path:
    config = bench.config
    return Path(config.ablations or REPOSITORY / "configs" / "ablate" / f"{config.domain.name}.yaml")


def lacks_ablations(bench: Bench) -> list[str]:
    """The config, or both the photos to train its rows and an earlier run of them."""
    config, path, settings = bench.config, _ablations_file(bench), _ablations(bench)
    if settings is None:
        return [f"{path.name}: there is no such config of {command_of('ablate')}; name one in ablations"]
    known = Path(settings.output) / "ablations.json"
    if (config.training_photos and config.photos) or known.is_file():
        return []
    absent = " and ".join(key for key in ("training_photos", "photos") if not getattr(config, key))
    return [f"{absent} is not given, and {known} is not there: give training_photos=FOLDER photos=FOLDER, or run "
            f"{command_of('ablate')} --config {path.name} first"]  # fmt: skip


def _paper_row(title: str) -> dict[str, float] | None:
    """The paper's numbers of a row, by how its title begins."""
    names = [name for name in TABLE_3 if title == name or title.startswith(f"{name},")]
    return dict(zip(TABLE_3_METRICS, TABLE_3[names[0]], strict=True)) if names else None


def quality_time_blocks(result: dict[str, Any]) -> Iterator[Block]:
    yield "Quality against seconds per image, of Table 1's rows (numbers of photos as there)."
    for quality in result["points"]:
        yield Picture(f"{_figure1(quality)}.svg", f"Figure 1 by {quality}: lower and more to the left is better")
    if result["missing"]:
        yield f"Not drawn, as Table 1 says: {', '.join(result['missing'])}."


def analysis_blocks(what: str, result: dict[str, Any]) -> Iterator[Block]:
    name = next(n for n in result["pictures"] if n.endswith((".svg", ".png")))
    yield Picture(name, what)
    if credit := result.get("credit"):
        yield f"Images: {credit}."
    rows = [
        [one["statement"], f"{one['ratio']:.2f}" if "ratio" in one else "", one["verdict"]]
        for one in result["analysis"].get("statements", ())
    ]
    if rows:
        yield Table(["the paper's statement", "ratio", "here"], rows)
