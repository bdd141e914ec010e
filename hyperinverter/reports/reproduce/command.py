"""reproduce and ablate as commands: parts, each into its JSON, and the pages of all domains' parts."""

import shlex
import traceback
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

import hyperinverter
from hyperinverter.checkpoint import read_model
from hyperinverter.config.cli import is_users
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import AblateConfig, ReproduceConfig
from hyperinverter.metrics import NotMeasured
from hyperinverter.pretrained import files
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.methods import model_of
from hyperinverter.reports.reproduce import lacking
from hyperinverter.reports.reproduce.ablations import measure_ablations
from hyperinverter.reports.reproduce.parts import OF_PAPER, PARTS, expanded_parts, write_html
from hyperinverter.reports.reproduce.publish import publish, section, write_pages
from hyperinverter.training.common import set_up
from hyperinverter.utils.checkout import REPOSITORY, command_of
from hyperinverter.utils.errors import Unfinished, UserError
from hyperinverter.utils.files import write_json, write_text
from hyperinverter.utils.waiting import doing, log_message

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
        Unfinished: some of several parts failed, and all the others are done; names each with its fault.
    """
    config.parts = expanded_parts(config.parts, config.domain.kind)
    absent = lacking.not_given(config)
    if absent and all(absent.values()):
        message = "; ".join(f"{part} needs {', '.join(f'{key}=...' for key in keys)}" for part, keys in absent.items())
        raise UserError(f"none of the parts can be measured: {message}")
    if not config.parts and config.publish is None:
        raise UserError("parts=[] makes the page alone, which needs its folder: write publish=docs/results")
    device = set_up(config)
    bench = lacking.look(config, absent, device)
    results: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for part in (part for part, keys in absent.items() if not keys):
        log_message(f"{part} ...")
        try:
            result = _measured(config, part, bench)
        except Exception as error:  # whatever it is: the other parts do not wait for it
            if len(absent) == 1:
                raise
            text = str(error) if is_users(error) else "".join(traceback.format_exception(error)).rstrip()
            faults[part] = text
            log_message(f"{part}: failed, the other parts go on: {text}")
            continue
        if result is not None:
            results[part] = result
    if OF_PAPER & results.keys():
        log_message(f"written: {write_html(Path(config.output), config.domain.name)}")
    if config.publish is not None:
        log_message(f"written: {write_pages(Path(config.publish))}")
    else:
        log_message("no page is made; publish=FOLDER puts the JSON files there and makes the page FOLDER.md")
    if faults:
        listed = "\n".join(f"{part}: {text}" for part, text in faults.items())
        done = f"the others are done ({', '.join(results)})" if results else "no part was"
        count = f"{len(faults)} of {len(absent)} parts failed"
        raise Unfinished(f"{count}, {done}; mended, the same command goes on:\n{listed}")
    return results


def ablate(config: AblateConfig) -> dict[str, Any]:
    """Measure every row, see `measure_ablations`; `publish` puts the result on the page."""
    result = measure_ablations(config)
    if config.publish is not None:
        publish(Path(config.publish), config.domain.name, "ablations", result)
        log_message(f"written: {write_pages(Path(config.publish))}")
    return result


def _measured(config: ReproduceConfig, part: str, bench: Bench | None) -> dict[str, Any] | None:
    """Measure one part, write and publish it; None where it cannot be measured, which is told."""
    make = PARTS[part].make
    assert bench is not None and make is not None, "there are parts, and they are this command's"
    try:
        with doing(part):
            result = make(bench)
    except NotMeasured as reason:
        log_message(f"{part}: not measured: {reason}")
        return None
    if result is None:
        return None
    result = {**result, "about": _about(config, part, lacking.needs(config, part))}
    write_json(Path(config.output) / f"{part}.json", result)
    log_message(f"{part}: written to {Path(config.output) / part}.json")
    _show(part, result, Path(config.output))
    if config.publish is not None:
        shown = [path for name in PARTS[part].pictures if (path := Path(config.output) / name).is_file()]
        publish(Path(config.publish), config.domain.name, part, result, shown)
    return result


def _show(part: str, result: dict[str, Any], output: Path) -> None:
    """The part's section of the page, into `<part>.md` and on stdout."""
    text = section(part, result, output)
    write_text(output / f"{part}.md", text + "\n")
    print(f"\n{text}\n", flush=True)


def _about(config: ReproduceConfig, part: str, needs: list[str]) -> dict[str, Any]:
    """What the numbers belong to: command, weights and versions, without the folders of this machine."""
    name = config.domain.name
    named_config = [] if name == EMBEDDED else ["--config", f"configs/reproduce/{name}.yaml"]
    words = [*command_of("reproduce").split(), *named_config, part if part in OF_PAPER else f"parts=[{part}]"]
    used = [*needs, *PARTS[part].used]
    named = [key for key in NAMED_IN_COMMAND if key in used and getattr(config, key)]
    words += [f"{key}={_placeholder(getattr(config, key))}" for key in named]
    path = REPOSITORY / "configs" / "reproduce" / f"{name}.yaml"
    usual = load_config(ReproduceConfig, path) if path.is_file() else ReproduceConfig()
    words += [word for key in PARTS[part].named for word in _changed(key, getattr(config, key), getattr(usual, key))]
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


def model_hashes(config: ReproduceConfig) -> dict[str, str]:
    """Part -> weights hash of its file, of those that the model folder has."""
    folder = files.find_model_folder(model_of(config))
    paths = {part: folder / f"{part}.safetensors" for part in (*files.PARTS, *files.MORE_PARTS)}
    return {part: read_model(path, part).hash for part, path in paths.items() if path.is_file()}


def _changed(key: str, value: Any, usual: Any) -> list[str]:
    """`key=value` where it is another than usual; of a block of settings each that is."""
    if is_dataclass(value):
        names = [one.name for one in fields(value)]
        return [
            word for name in names for word in _changed(f"{key}.{name}", getattr(value, name), getattr(usual, name))
        ]
    return [] if value == usual else [f"{key}={_written(value)}"]


def _written(value: Any) -> str:
    """A setting as it may be typed, lists without quotes around their words."""
    if value is None:
        return "null"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _placeholder(value: str | list[str]) -> str:
    """FOLDER/faces64_test.zip for any place of that file."""
    names = [f"FOLDER/{Path(one).name}" for one in ([value] if isinstance(value, str) else value)]
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"
