"""Table 3 of the paper on any domain: variants of Phase II at one budget, held against the whole method.

Every row is a Phase II config. A row is trained by the ordinary trainer, whose exact resume makes the whole command
resumable; a row that is measured already is not measured again. Intervals are over images, not over seeds.
"""

import itertools
import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import hyperinverter
from hyperinverter import metrics as metric_table
from hyperinverter.checkpoint import read_model
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AblateConfig
from hyperinverter.config.schema import DataConfig, EvaluateConfig, Phase2Config
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import check_training_data, open_source
from hyperinverter.evaluation.comparison import compare, statement
from hyperinverter.evaluation.reconstructing import reconstruct, rounded
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.evaluation.sheet import choose_rows
from hyperinverter.inverters import load
from hyperinverter.models.build import build_hyperinverter
from hyperinverter.reports.paper.bench import photos_at
from hyperinverter.training import phase2
from hyperinverter.training.resume import NEUTRAL, flatten, under
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import read_json, slug, write_json
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.state_dicts import shapes_only
from hyperinverter.utils.waiting import log_message

WITHOUT = "without Phase II"
OF_TABLE_3 = {"hidden_size", "use_w_image_features", "shared_code"}  # what its rows change
TERMS = "terms.json"  # in the output folder: what its rows are trained by
RESULT = "row.json"  # in a row's folder: what was measured, and of which weights
NOTE = "one training of each row; intervals over images, of paired differences to the base where they say so"


def measure_ablations(config: AblateConfig) -> dict[str, Any]:
    """Train and measure every row; write ablations.json and ablations.png into `output`.

    Returns:
        What ablations.json holds: budget, rows with their values, and the paper's order checked.
    Raises:
        UserError: photos or weights are missing, or a row differs from the base in more than the domain.
    """
    if config.photos is None:
        raise UserError("photos is not set: give photos=FOLDER|ZIP of images that no training sees, to be measured")
    held_out = open_source(config.photos)  # reported before anything is trained
    check_training_data(config.data)
    if config.data.root is not None and (both := set(held_out.names) & set(open_source(config.data.root).names)):
        log_message(
            f"warning: {len(both)} names are in data.root and in photos, such as {min(both)}: are they held out?"
        )
    rows = {title: _row_config(config, title, path) for title, path in config.rows.items()}
    base_title, base = next(iter(rows.items()))
    for title, row in rows.items():
        _check_same_budget(base_title, base, title, row)
    output = Path(config.output)
    _check_terms(output, _terms(base))
    photos_hash = held_out.digest()
    measured: dict[str, dict[str, Any]] = {}
    for number, (title, row) in enumerate(rows.items(), 1):
        log_message(f"row {number} of {len(rows)}: {title}")
        measured[title] = _measure(config, row, photos_hash)
    result = _summary(config, rows, measured)
    write_json(output / "ablations.json", result)
    _draw(config, rows, measured, output / "ablations.png")
    for row in result["rows"]:
        log_message(f"{row['title']}: " + ", ".join(f"{name} {value:.4g}" for name, value in row["values"].items()))
    for one in result["statements"]:
        log_message(f"{one['statement']}: {one['verdict']} in this one training, ratio of L2 {one['ratio']:.3f}")
    log_message(f"written: {output / 'ablations.json'}, ablations.png")
    return result


# --------------------------------------------------------------------------------------------------- one row


def _row_config(config: AblateConfig, title: str, path: str) -> Phase2Config:
    row = load_config(Phase2Config, path, config.settings)
    if row.domain.name != config.domain.name:
        raise UserError(f"rows.{title}: {path} is of domain {row.domain.name}, not of {config.domain.name}")
    common = {key: getattr(config, key) for key in ("data", "device", "threads", "seed")}
    domain = replace(row.domain, weights=config.domain.weights)
    return replace(row, **common, domain=domain, output=str(Path(config.output) / slug(title)))


def _check_same_budget(base_title: str, base: Phase2Config, title: str, row: Phase2Config) -> None:
    first, other = (asdict(replace(one, domain=base.domain, output="")) for one in (base, row))
    differing = sorted(key for key in first if first[key] != other[key])
    if differing:
        raise UserError(
            f"rows.{title}: differs from {base_title} in {', '.join(differing)}; a row may differ in its domain "
            f"section only, so that all have one budget"
        )


def _terms(base: Phase2Config) -> dict[str, Any]:
    """What all rows are trained by, as JSON gives it back: settings that change a step, and which photos."""
    settings = {key: value for key, value in flatten(asdict(base)).items() if not under(key, (*NEUTRAL, "domain"))}
    for key in ("data.root", "data.validation_root"):
        roots = [settings[key]] if isinstance(settings[key], str) else settings[key] or []
        settings[key] = [Path(root).name for root in roots]  # the same photos may have been moved
    if settings.get("init_from"):
        settings["init_from"] = Path(settings["init_from"]).name  # ablations.json is published
    return json.loads(json.dumps(settings, default=str))


def _other_terms(known: dict[str, Any], terms: dict[str, Any]) -> list[str]:
    changed = (key for key in sorted(known.keys() | terms.keys()) if known.get(key) != terms.get(key))
    return [f"{key}: {known.get(key, 'absent')}, now {terms.get(key, 'absent')}" for key in changed]


def _check_terms(output: Path, terms: dict[str, Any]) -> None:
    """Write the terms down before the first row is trained; rows of other ones are not gone on with.

    Raises:
        UserError: rows in this folder were trained by other settings or photos; names them.
    """
    path = output / TERMS
    if not path.is_file():
        return write_json(path, terms)
    if (before := read_json(path)) is None:
        raise UserError(f"{path} is damaged, so nobody knows what its rows are trained by: give another output")
    if other := _other_terms(before, terms):
        raise UserError(
            f"{output}: its rows are trained by other settings:\n  " + "\n  ".join(other) + "\nset these back, or give "
            "another output (of table 3: another config in ablations=FILE)"
        )


def why_not_these(config: AblateConfig, known: dict[str, Any], hashes: dict[str, str]) -> list[str]:
    """In what an earlier ablations.json differs from what the config asks for; [] where it is that.

    Training photos are compared where `config.data.root` names some, held-out ones where `config.photos` does.

    Args:
        hashes: part -> hash of the weights that rows are to be trained with.
    """
    rows = {title: _row_config(config, title, path) for title, path in config.rows.items()}
    base = next(iter(rows.values()))
    terms, before = _terms(base), known.get("terms", {})
    if config.data.root is None:
        terms["data.root"] = before.get("data.root")
    other = _other_terms(before, terms) if before else ["an earlier version made it, which did not note its settings"]
    titles = [row["title"] for row in known["rows"] if row["title"] != WITHOUT]
    weights = known.get("about", {}).get("model", {})
    asked: list[tuple[str, Any, Any]] = [
        ("rows", titles, list(rows)),
        ("steps", known.get("budget", {}).get("steps"), base.schedule.max_steps),
        ("metrics", known.get("asked_metrics"), config.metrics),
        *((f"{part}'s weights", weights.get(part), digest) for part, digest in hashes.items()),
    ]
    if config.photos is not None:
        asked.append(("photos", known.get("photos_hash"), open_source(config.photos).digest()))
    return other + [f"{name}: {was}, now {now}" for name, was, now in asked if was != now]


def _measure(config: AblateConfig, row: Phase2Config, photos_hash: str) -> dict[str, Any]:
    """Train the row unless it is trained, measure it unless these weights were measured on these photos."""
    folder = Path(row.output)
    phase2.train(row)
    model = folder / "model_last"  # the last step, not the best one: the same number of steps for all
    steps = read_model(model / "hyperinverter.safetensors", "hyperinverter").info.get("step")
    if steps != row.schedule.max_steps:
        raise UserError(
            f"{folder}: was trained for {steps} steps by an earlier call, the rows' budget is now "
            f"{row.schedule.max_steps}; give another output, or the earlier schedule.max_steps"
        )
    photos = [config.photos] if isinstance(config.photos, str) else config.photos
    judge = model / "discriminator.safetensors"
    what = {
        "weights": read_model(model / "hyperinverter.safetensors", "hyperinverter").hash,
        "photos": [Path(one).name for one in photos],
        "photos_hash": photos_hash,
        "metrics": config.metrics,
        "networks": {name: metric_table.METRICS[name].networks() for name in config.metrics},
        "discriminator": read_model(judge, "discriminator").hash if judge.is_file() else None,
    }
    path = folder / RESULT
    if (known := read_json(path)) and known.get("of") == what:
        return known
    evaluation = EvaluateConfig(
        domain=row.domain,
        model=str(model),
        data=DataConfig(root=config.photos, on_bad_file="refuse", workers=config.data.workers),
        output=str(folder / "evaluation"),
        device=config.device,
        threads=config.threads,
        seed=config.seed,
        metrics=config.metrics,
        batch_size=config.batch_size,
        time_repeats=1,  # the table has no times
        sheet_rows=config.sheet_rows,
    )
    result = evaluate(evaluation)
    lines = (folder / "evaluation" / "images.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    results = {"of": what, "result": result, "records": records, "parameters": _parameters(row)}
    write_json(path, results)
    return results


def _parameters(row: Phase2Config) -> int:
    """Trained numbers: E2's and the hypernetworks'."""
    with shapes_only():
        return sum(p.numel() for p in build_hyperinverter(row.domain).trainable_parameters())


# --------------------------------------------------------------------------------------------------- the table


def _summary(
    config: AblateConfig, rows: dict[str, Phase2Config], measured: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    base_title, base = next(iter(rows.items()))
    about = {name: one for name, one in measured[base_title]["result"]["metrics"].items() if name in config.metrics}
    about = {name: one for name, one in about.items() if name not in measured[base_title]["result"]["not_measured"]}
    phase1 = measured[base_title]["result"]
    table = []
    for title, result in measured.items():
        values, intervals = (result["result"][key]["hyperinverter"] for key in ("methods", "intervals_95"))
        row = {"title": title, "parameters": result["parameters"]}
        row |= {"values": {name: values[name] for name in about}, "intervals_95": intervals}
        if title != base_title:
            row["against_base"] = _against(result, measured[base_title], about)
        table.append(row)
        if title == base_title:
            without = {"title": WITHOUT, "parameters": 0, "intervals_95": phase1["intervals_95"]["w_encoder"]}
            without["values"] = {name: phase1["methods"]["w_encoder"][name] for name in about}
            without["against_base"] = _against(result, result, about, method="w_encoder")
            table.append(without)
    schedule = base.schedule
    start = base.adversarial.start_step if base.adversarial.weight > 0 else schedule.max_steps
    adversarial = max(schedule.max_steps - start, 0)
    images = (schedule.max_steps - adversarial) * schedule.batch_size + adversarial * base.adversarial.batch_size
    return {
        "domain": config.domain.name,
        "num_images": phase1["num_images"],
        "photos": measured[base_title]["of"]["photos"],
        "photos_hash": measured[base_title]["of"]["photos_hash"],
        "terms": _terms(base),
        "asked_metrics": config.metrics,
        "settings": config.settings,
        "budget": {"steps": schedule.max_steps, "adversarial_steps": adversarial, "images": images, "seed": base.seed},
        "metrics": about,
        "rows": table,
        "statements": list(_statements(rows, measured, about)),
        "note": NOTE,
        "about": {
            "command": " ".join(map(_quoted, _command(config))),
            "kind": config.domain.kind,
            "model": {part: read_model(Path(base.output) / "model_last" / f"{part}.safetensors", part).hash
                      for part in ("generator", "w_encoder")},
            "versions": {"hyperinverter": hyperinverter.__version__, "torch": torch.__version__.partition("+")[0]},
        },
    }  # fmt: skip


def _command(config: AblateConfig) -> list[str]:
    path = f"configs/ablate/{config.domain.name}.yaml"
    words = [*command_of("ablate").split(), "--config", path, "data.root=TRAINING", "photos=HELD_OUT"]
    usual = load_config(AblateConfig, path) if Path(path).is_file() else AblateConfig()
    changed = [key for key in ("rows", "settings", "metrics", "seed") if getattr(config, key) != getattr(usual, key)]
    named = {"rows": {title: path if not Path(path).is_absolute() else f"FOLDER/{Path(path).name}"
                      for title, path in config.rows.items()}}  # fmt: skip
    return words + [f"{key}={named.get(key, getattr(config, key))}" for key in changed]


def _quoted(word: str) -> str:
    """For a shell; in double quotes where the word holds single ones, so that it stays readable."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _against(
    row: dict[str, Any], base: dict[str, Any], about: dict[str, Any], method: str = "hyperinverter"
) -> dict[str, Any]:
    """The row against the base, paired by photo: ratio where lower is better, else difference."""
    pairs = [
        {"base": first["hyperinverter"], "row": second[method]}
        for first, second in zip(base["records"], row["records"], strict=True)
    ]
    return compare(pairs, ["base", "row"], about)


def _statements(rows: dict[str, Phase2Config], measured: dict[str, dict[str, Any]], about: dict[str, Any]) -> Any:
    """The order of table 3, checked on L2: what the paper leaves out makes it worse, and a larger D makes it better."""
    if "l2" not in about:
        return
    base_title = next(iter(rows))
    base = measured[base_title]
    yield _worse(f"{WITHOUT} is worse than {base_title}", _against(base, base, about, method="w_encoder")["l2"])
    sweeps: dict[str, dict[int, str]] = {}  # rows that differ from each other in D alone: D -> title
    for title, row in rows.items():
        ours, theirs = row.domain.hypernetwork, rows[base_title].domain.hypernetwork
        changed = {key for key in vars(ours) if getattr(ours, key) != getattr(theirs, key)}
        if ours.mapper == "matrices":  # of scales of channels there is no D
            sweeps.setdefault(repr(replace(ours, hidden_size=0)), {}).setdefault(ours.hidden_size, title)
        if not changed <= {"hidden_size"}:
            beyond = "" if changed <= OF_TABLE_3 else " (not a row of the paper)"
            against = _against(measured[title], base, about)["l2"]
            yield _worse(f"{title} is worse than {base_title}{beyond}", against)
    for sizes in sweeps.values():
        for small, large in itertools.pairwise(sorted(sizes)):
            against = _against(measured[sizes[small]], measured[sizes[large]], about)["l2"]
            yield _worse(f"D = {small} is worse than D = {large}", against)


def _worse(text: str, comparison: dict[str, Any]) -> dict[str, Any]:
    """A statement on the ratio of L2 over photos."""
    return statement(text, comparison["ratio"], comparison["interval_95"])


def _draw(config: AblateConfig, rows: dict[str, Phase2Config], measured: dict[str, dict[str, Any]], path: Path) -> None:
    """The sheet: a third each of the best, median and worst photos by L2 of the base, reconstructed by every row."""
    base_title, base = next(iter(rows.items()))
    values = [record["hyperinverter"].get("l2", 0.0) for record in measured[base_title]["records"]]
    chosen = choose_rows(values, config.sheet_rows)
    if not chosen:
        return
    size = base.domain.resolution
    batches = Batches(open_source(config.photos, resolution=size), size, on_bad_file="refuse")
    photos, names = photos_at(batches, [row.index for row in chosen])
    columns = {"input": photos}
    for title, row in rows.items():
        model = Path(row.output) / "model_last"
        if not columns.keys() & {WITHOUT}:
            phase1 = load(str(model), "w_encoder", config.device)
            columns[WITHOUT] = rounded(reconstruct(phase1, photos.to(phase1.device))).cpu()
        inverter = load(str(model), "hyperinverter", config.device)
        columns[title] = rounded(reconstruct(inverter, photos.to(inverter.device))).cpu()
    cells = [[column[i] for column in columns.values()] for i in range(len(photos))]
    contact_sheet(cells, list(columns), path, [f"{row.place}\n{name}" for row, name in zip(chosen, names, strict=True)])
