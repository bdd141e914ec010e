"""reproduce as a command: the parts one after the other, each into its JSON, and the page of all domains' parts."""

import json
import shlex
from glob import glob
from pathlib import Path
from typing import Any

import torch

import hyperinverter
from hyperinverter.checkpoint import read_model
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AnalyzeConfig, ReproduceConfig
from hyperinverter.data import check_images
from hyperinverter.evaluation.analysis.quality_time import read_points
from hyperinverter.evaluation.messages import log_message
from hyperinverter.metrics import NotMeasured
from hyperinverter.pretrained.files import PARTS, find_model_folder, part_file
from hyperinverter.pretrained.load import check_served
from hyperinverter.releases.obtain import obtain
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.parts import PARTS as PAPER_PARTS
from hyperinverter.reports.paper.parts import expanded_parts, write_html
from hyperinverter.reports.reproduce import measures
from hyperinverter.reports.reproduce.edits import ATTRIBUTES
from hyperinverter.reports.reproduce.page import TITLES, section
from hyperinverter.reports.reproduce.publish import publish, write_page
from hyperinverter.training.common import set_up
from hyperinverter.utils.checkout import REPOSITORY, command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json, write_text
from hyperinverter.utils.text import expanded
from hyperinverter.utils.waiting import doing

# part -> its measurement, and the settings without which there is nothing to measure
MEASURES = {
    "photos": (measures.photos, ["photos"]),
    "other_photos": (measures.other_photos, ["other_photos"]),
    "generated": (measures.generated, []),
    "editability": (measures.editability, ["photos"]),
    "generator": (measures.generator, ["photos"]),
    "analysis": (measures.analysis, ["photos"]),
    "figures": (measures.figures, []),
    "bounds": (measures.bounds, ["photos"]),
    "learning_curve": (measures.learning_curve, ["runs"]),
    "pictures": (measures.pictures, []),
}
SHOWN = {  # part -> pictures that the page shows
    "editability": ["edits.png"],
    "analysis": ["weight_changes.svg", "difference_map.png"],
    "figures": ["figures/interpolation.png", "figures/difference_maps.png"],
    "learning_curve": ["learning_curve.svg"],
}
ON_SHOWN = ("fig4", "fig5", "fig6", "fig7", "fig10", "fig9", "fig13", "fig14", "fig26")
ALSO_NAMED = {
    **{part: ["methods", "table_photos", "optimised_photos"] for part in ("table1", "fig1")},
    "table2": ["methods", "edited_photos", "optimised_photos", "strengths", "strength_unit", "classifiers"],
    **{part: ["methods", "shown_photos"] for part in ON_SHOWN},
    "editability": ["edited_photos", "strengths", "strength_unit", "classifiers"],
    "generated": ["generated"],
    "figures": ["generated"],
    "bounds": ["bounds_photos", "bounds_steps", "bounds_losses"],
}  # unless default
# where given
ALSO_USED = {part: ["labels"] for part in ("generator", "editability", "table1", "fig1")} | {
    "table2": ["training_photos", "labels"],
    "table3": ["photos", "training_photos"],
    **{part: ["shown"] for part in ON_SHOWN},
}
EMBEDDED = "faces64"  # whose config the script takes when none is named
NAMED_IN_COMMAND = ("photos", "other_photos", "training_photos", "labels", "shown")


def reproduce(config: ReproduceConfig) -> dict[str, Any]:
    """Measure `config.parts`; write `<part>.json` into `output` and, with `publish`, into that folder's `<domain>/`.

    The tables of a part go to `<part>.md` in `output` and to stdout. Beside the `publish` folder the page is made anew
    of every domain's JSON; with `parts=[]` nothing is measured.

    Returns:
        part -> what its JSON holds.
    Raises:
        UserError: the model's files are missing, images or labels cannot be read, or no part has what it needs.
    """
    config.parts = expanded_parts(config.parts, config.domain.kind)
    absent = {part: [key for key in _needs(config, part) if not getattr(config, key)] for part in config.parts}
    if absent and all(absent.values()):
        message = "; ".join(f"{part} needs {', '.join(f'{key}=...' for key in keys)}" for part, keys in absent.items())
        raise UserError(f"none of the parts can be measured: {message}")
    if not config.parts and config.publish is None:
        raise UserError("parts=[] makes the page alone, which needs its folder: write publish=docs/results")
    for key in ("photos", "other_photos", "training_photos", "shown"):
        check_images(getattr(config, key))
    if config.labels is not None and not expanded(config.labels).is_file():
        raise UserError(f"labels: {config.labels}: there is no such file; give a CSV of labels, or leave it out")
    if lost := [name for name in config.votes if not (glob(name, recursive=True) or Path(name).exists())]:
        raise UserError(f"votes: {', '.join(lost)}: no such file; give those that the page saved, or leave it out")
    if "figures" in config.parts and config.results:
        read_points(config.results, AnalyzeConfig.quality)  # a wrong file is reported before an hour of measuring
    if config.parts:
        folder = obtain(measures.model_of(config), "generator")  # of a released model: made, or told how to get it
        check_served(read_model(part_file(folder, "generator"), "generator"))
    device = set_up(config)
    bench = Bench(config, device) if set(config.parts) & set(PAPER_PARTS) else None
    _tell_what_is_missing(absent, bench)
    results: dict[str, Any] = {}
    result: dict[str, Any] | None
    for part in config.parts:
        needs = _needs(config, part)
        if absent[part]:
            continue
        log_message(f"{part} ...")
        try:
            with doing(part):
                if bench is not None and part in PAPER_PARTS:
                    result = PAPER_PARTS[part].make(bench)
                else:
                    result = MEASURES[part][0](config, device)
        except NotMeasured as reason:
            log_message(f"{part}: not measured: {reason}")
            continue
        if result is None:
            continue
        results[part] = {**result, "about": _about(config, part, needs)}
        write_json(Path(config.output) / f"{part}.json", results[part])
        log_message(f"{part}: written to {Path(config.output) / part}.json")
        _show(part, results[part], Path(config.output))
        if config.publish is not None:
            names = PAPER_PARTS[part].pictures if part in PAPER_PARTS else SHOWN.get(part, ())
            shown = [path for name in names if (path := Path(config.output) / name).is_file()]
            if "quality_time" in results[part]:
                shown.append(Path(config.output) / "figures" / "quality_time.svg")
            publish(Path(config.publish), config.domain.name, part, results[part], shown)
    if any(part in PAPER_PARTS for part in results):
        log_message(f"written: {_write_html(config)}")
    if config.publish is not None:
        log_message(f"written: {write_page(Path(config.publish))}")
    else:
        log_message("no page is made; publish=FOLDER puts the JSON files there and makes the page FOLDER.md")
    return results


def _tell_what_is_missing(absent: dict[str, list[str]], bench: Bench | None) -> None:
    """Everything that will be left out, before any work: parts without their images, methods without their files."""
    lines = [f"{part}: left out, because {', '.join(keys)} is not given" for part, keys in absent.items() if keys] + (
        bench.faults() if bench else []
    )
    if lines:
        log_message("what cannot be made, and the rest will be:\n  " + "\n  ".join(lines))
    if bench and not bench.present:
        raise UserError("no method has its files:\n" + "\n".join(bench.faults()))


def _write_html(config: ReproduceConfig) -> Path:
    """paper.html of all parts of the paper that lie in `output`, of earlier calls too."""
    files = {part: Path(config.output) / f"{part}.json" for part in PAPER_PARTS}
    results = {part: json.loads(path.read_text()) for part, path in files.items() if path.is_file()}
    return write_html(results, Path(config.output), f"The paper's tables and figures on {config.domain.name}")


def _show(part: str, result: dict[str, Any], output: Path) -> None:
    """The part's section of the page, into `<part>.md` and on stdout."""
    if part not in TITLES:
        return
    text = section(part, result, output).replace(f"]({output.parent.name}/{output.name}/", "](")  # pictures beside it
    write_text(output / f"{part}.md", text + "\n")
    print(f"\n{text}\n", flush=True)


def _needs(config: ReproduceConfig, part: str) -> list[str]:
    """Settings without which a part cannot be measured."""
    is_fitted = part == "editability" and ATTRIBUTES in config.classifiers
    if part in PAPER_PARTS:
        return list(PAPER_PARTS[part].needs)
    return [*MEASURES[part][1], *(["training_photos", "labels"] if is_fitted else [])]


def _about(config: ReproduceConfig, part: str, needs: list[str]) -> dict[str, Any]:
    """What the numbers belong to: command, weights and versions, without the folders of this machine."""
    words = [*command_of("reproduce").split(), *_config_of(config), part if part in PAPER_PARTS else f"parts=[{part}]"]
    used = [*needs, *ALSO_USED.get(part, ())]
    named = [key for key in NAMED_IN_COMMAND if key in used and getattr(config, key)]
    words += [f"{key}={_placeholder(getattr(config, key))}" for key in named]
    path = REPOSITORY / "configs" / "reproduce" / f"{config.domain.name}.yaml"
    usual = load_config(ReproduceConfig, path) if path.is_file() else ReproduceConfig()
    changed = [key for key in ALSO_NAMED.get(part, ()) if getattr(config, key) != getattr(usual, key)]
    words += [f"{key}={_written(getattr(config, key))}" for key in changed]
    words += ["runs={NAME: FOLDER}"] if "runs" in needs else []
    if part == "figures" and config.results:
        here = not any(Path(name).is_absolute() for name in config.results)
        words.append(f"results=[{', '.join(config.results)}]" if here else "results=[FILE]")
    return {
        "command": shlex.join(words),
        "kind": config.domain.kind,
        "model": model_hashes(config),
        "versions": {"hyperinverter": hyperinverter.__version__, "torch": torch.__version__.partition("+")[0]},
    }


def _config_of(config: ReproduceConfig) -> list[str]:
    name = config.domain.name
    return [] if name == EMBEDDED else ["--config", f"configs/reproduce/{name}.yaml"]


def model_hashes(config: ReproduceConfig) -> dict[str, str]:
    """Part -> weights hash of its file, of those that the model folder has."""
    folder = find_model_folder(measures.model_of(config))
    files = {part: folder / f"{part}.safetensors" for part in PARTS}
    return {part: read_model(path, part).hash for part, path in files.items() if path.is_file()}


def _written(value: Any) -> str:
    """A setting as it may be typed, lists without quotes around their words."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _placeholder(value: str | list[str]) -> str:
    """FOLDER/faces64_test.zip for any place of that file."""
    names = [f"FOLDER/{Path(one).name}" for one in ([value] if isinstance(value, str) else value)]
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"
