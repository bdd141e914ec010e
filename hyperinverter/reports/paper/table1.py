"""Table 1: how every method reconstructs held-out photos, beside the paper's numbers.

A row is one evaluation (`evaluation.reconstruction`), kept in `table1/METHOD/row.json` under a key; methods that
optimise keep each finished photo too. Rows of few photos compare with others on those photos: `paired`.
"""

import json
from glob import escape
from typing import Any

from hyperinverter import metrics as metric_table
from hyperinverter.config.schema import DataConfig, EvaluateConfig
from hyperinverter.evaluation.comparison import compare
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.evaluation.sheet import choose_rows
from hyperinverter.evaluation.tables import TIMES, grouped
from hyperinverter.inverters import INVERTERS
from hyperinverter.pretrained.load import hash_of, load_discriminator
from hyperinverter.reports.paper.bench import Bench, photos_at
from hyperinverter.reports.paper.grids import sheet_of
from hyperinverter.reports.paper.methods import Method, common, portable
from hyperinverter.reports.paper.values import METRICS, of_table_1
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import read_json
from hyperinverter.utils.output_names import file_name
from hyperinverter.utils.waiting import log_message

SHEET_ROWS = 6  # of table1.png


def table1(bench: Bench) -> dict[str, Any]:
    """Measure the rows that are missing; draw table1.png, local, of photos that need not be shown.

    Returns:
        `rows`: method -> `n`, `cells` (metric -> value, interval, the paper's value), `settings`, or `missing`;
        `paired`: what both phases do against each other method on that one's photos.
    """
    names = metric_names(bench)
    measurable, not_measured = measurable_of(bench, names)
    rows: dict[str, dict[str, Any]] = {}
    ordered = sorted(bench.methods.values(), key=lambda method: method.optimises)  # the fast ones first
    for number, method in enumerate(ordered, 1):
        if method.fault:
            rows[method.name] = {"missing": method.fault}
            continue
        place = f"table 1, row {number} of {len(ordered)}, {method.title}"
        log_message(f"{place}: {len(bench.chosen(method))} photos{_time_left(bench, method, ordered[number - 1 :])}")
        try:
            rows[method.name] = row_of(bench, method, bench.chosen(method), names, measurable)
        except (UserError, FileNotFoundError, metric_table.NotMeasured) as error:
            log_message(f"{place}: not measured: {error}")
            rows[method.name] = {"missing": portable(str(error))}
    done = {name: row for name, row in rows.items() if "missing" not in row}
    if not done:
        raise UserError("no method of table 1 could be measured:\n" + "\n".join(r["missing"] for r in rows.values()))
    for row in done.values():
        not_measured |= row["not_measured"]
    about = next(iter(done.values()))["metrics"]
    kind = bench.config.domain.kind
    ordered_rows = {name: rows[name] for name in bench.config.methods}
    for name, row in ordered_rows.items():
        row["title"], row["trained"] = bench.methods[name].title, bench.methods[name].trained
        cells = row.setdefault("cells", {})
        for metric in dict.fromkeys((*names, *METRICS)):
            cells.setdefault(metric, {"value": None})["paper"] = of_table_1(kind, name, metric)
    _draw(bench, done)
    return {
        "domain": bench.domain_name,
        "kind": kind,
        "rows": ordered_rows,
        "metrics": about,
        "not_measured": not_measured,
        "paired": _paired(bench, done, about),
    }


def metric_names(bench: Bench) -> list[str]:
    """The columns, seconds aside."""
    return list(dict.fromkeys(bench.config.table_metrics or bench.config.metrics))


def measurable_of(bench: Bench, names: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Metric -> hashes of its networks, and why others cannot be measured: with another file a row is another one."""
    try:
        discriminator = load_discriminator(bench.base)
    except FileNotFoundError:
        discriminator = None
    domain, device = bench.model.domain, bench.device
    result, missing = metric_table.build(names, domain, discriminator=discriminator, device=device)
    networks = {metric.name: metric.networks() for metric in result}
    if "discriminator_features" in networks and discriminator is not None:
        networks["discriminator_features"] = {"discriminator": hash_of(discriminator)}
    return networks, missing


def lacks_networks(bench: Bench) -> list[str]:
    """Columns whose networks are not here."""
    reasons = grouped(measurable_of(bench, metric_names(bench))[1])
    return [f"without the columns {', '.join(names)}: {why}" for why, names in reasons.items()]


def row_of(
    bench: Bench, method: Method, indices: list[int], names: list[str], measurable: dict[str, Any]
) -> dict[str, Any]:
    """One method's row of some of the photos, from its file where that is still valid.

    `measurable`: those whose networks are here, see `measurable_of`.
    """
    config = bench.config
    folder = bench.output / "table1" / method.label
    key = bench.key("row", bench.method_key(method), bench.digest(indices), names, measurable, config.time_repeats)
    if known := bench.found(folder / "row.json", key):
        log_message(f"{method.title}: measured before, still valid")
        return known
    settings = EvaluateConfig(
        **common(config),
        projection=config.projection,
        model=method.folder,
        methods=[method.name],
        output=str(folder),
        data=DataConfig(root=config.photos, on_bad_file="refuse"),
        metrics=names,
        refine=bench.refine_of(method),
        time_repeats=config.time_repeats,
        sheet_rows=0,
    )
    result = evaluate(settings, chosen=indices, keep_inversions=True)
    values, intervals = result["methods"][method.name], result["intervals_95"][method.name]
    cells = {name: {"value": values[name], "interval_95": intervals.get(name)} for name in names}
    median, slow = (values[name] / 1000 for name in TIMES)
    protocol = result["protocol"]
    cells["seconds"] = {"value": median, "interval_95": None, "p95": slow}
    cells["seconds"]["computing"] = protocol["computing"].get(method.name)
    row = {
        "n": result["num_images"],
        "weights": method.weights,
        "settings": protocol["settings"].get(method.name, {}),
        "device": protocol["device"],
        "cells": cells,
        "metrics": {name: result["metrics"][name] for name in names},
        "not_measured": result["not_measured"],
        "notes": result["files"]["notes"],
    }
    return bench.keep(folder / "row.json", key, row)


def _time_left(bench: Bench, method: Method, waiting: list[Method]) -> str:
    """How long the methods that optimise will take, as far as finished photos foretell it."""
    if not method.optimises:
        return ""
    seconds = []  # of one update, in methods that have finished photos
    for name, one in bench.methods.items():
        if one.optimises and (row := read_json(bench.output / "table1" / name / "row.json")):
            seconds.append(row["cells"]["seconds"]["value"] / _steps(bench, name))
    if not seconds:
        return "; the first one tells how long they take"
    left = sum(_steps(bench, one.name) * _unfinished(bench, one) * seconds[-1] for one in waiting if one.optimises)
    return f"; about {left / 60:.0f} minutes left for {', '.join(one.name for one in waiting)}"


def _unfinished(bench: Bench, method: Method) -> int:
    """Photos of which nothing is kept; what was kept under other settings is taken for finished here."""
    names = (file_name(bench.source.names[index]) for index in bench.narrow)
    return sum(not any(bench.kept(method).glob(f"{escape(name)}_*.png")) for name in names)


def _steps(bench: Bench, name: str) -> int:
    """Updates of a method that optimises, of the code and of the generator, by which its time is foretold."""
    asked, method = bench.config.projection, INVERTERS[name]
    usual = {key: getattr(method, key) for key in ("steps", "tuning_steps") if hasattr(method, key)}
    return sum(steps if (wanted := getattr(asked, key)) is None else wanted for key, steps in usual.items())


def records_of(bench: Bench, name: str) -> dict[str, dict[str, float]]:
    """Photo -> metric -> value, of a row that was measured."""
    path = bench.output / "table1" / name / "images.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["name"]: line[name] for line in lines}


def _paired(bench: Bench, done: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Other method -> metric -> both phases against it on the photos that both saw, and how many these are."""
    ours = bench.leading.name
    if ours not in done:
        return {}
    own, result = records_of(bench, ours), {}
    for name in done:
        if name == ours:
            continue
        theirs = records_of(bench, name)
        both = [photo for photo in theirs if photo in own]
        pairs = [{name: theirs[photo], ours: own[photo]} for photo in both]
        result[name] = {"n": len(both), "of": ours, "metrics": compare(pairs, [name, ours], about)}
    return result


def _draw(bench: Bench, done: dict[str, Any]) -> None:
    """table1.png: the best, median and worst of the photos that every method has, by L2 of the leading one."""
    path, leading = bench.output / "table1.png", bench.leading.name
    if leading not in done:
        return
    records, indices = records_of(bench, leading), bench.narrow
    names = [bench.source.names[index] for index in indices]
    values = [records[name].get("l2", 0.0) for name in names]
    chosen = choose_rows(values, SHEET_ROWS)
    places = [indices[row.index] for row in chosen]
    key = bench.key("table1.png", bench.methods_key(), bench.digest(places), sorted(done))
    stamp = bench.output / "table1" / "sheet.json"
    if bench.found(stamp, key, [path]):
        return
    images = bench.batches(indices)
    own = [row.index for row in chosen]  # places in `images`
    columns = {"input": photos_at(images, own)[0]}
    methods = [method for method in bench.present if method.name in done]
    columns |= {method.title: made for method, made in bench.reconstructions(images, own, methods)}
    captions = [f"{row.place}\n{names[row.index]}\nL2 {values[row.index]:.4f}" for row in chosen]
    sheet_of(bench, "table1", columns, captions)
    bench.keep(stamp, key, {})
