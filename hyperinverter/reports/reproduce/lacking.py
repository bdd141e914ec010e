"""What the parts lack - images, weights, networks, settings - told all at once before any work, or by `--dry-run`."""

from collections.abc import Callable, Iterator
from functools import partial
from glob import glob
from pathlib import Path

import torch

from hyperinverter.checkpoint import read_model
from hyperinverter.config.report_schema import AnalyzeConfig, ReproduceConfig
from hyperinverter.data.sources import check_images
from hyperinverter.evaluation.analysis.quality_time import read_points
from hyperinverter.models.plan import dry_run as plan_of_domain
from hyperinverter.pretrained.files import part_file
from hyperinverter.pretrained.load import check_served
from hyperinverter.releases.obtain import obtain
from hyperinverter.reports.paper.bench import Bench
from hyperinverter.reports.paper.methods import missing_files, model_of
from hyperinverter.reports.reproduce.edits import ATTRIBUTES
from hyperinverter.reports.reproduce.parts import OF_PAPER, PARTS, expanded_parts
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import expanded
from hyperinverter.utils.waiting import doing, log_message


def needs(config: ReproduceConfig, part: str) -> list[str]:
    """Settings without which a part cannot be measured."""
    is_fitted = part == "editability" and ATTRIBUTES in config.classifiers
    return [*PARTS[part].needs, *(["training_photos", "labels"] if is_fitted else [])]


def not_given(config: ReproduceConfig) -> dict[str, list[str]]:
    """Part -> settings that it needs and that are not given."""
    return {part: [key for key in needs(config, part) if not getattr(config, key)] for part in config.parts}


def not_there(config: ReproduceConfig) -> list[Exception]:
    """What is wrong with each file that the settings name: it is not there, or holds other things."""

    def labels() -> None:
        if config.labels is not None and not expanded(config.labels).is_file():
            raise UserError(f"labels: {config.labels}: there is no such file; give a CSV of labels, or leave it out")

    def votes() -> None:
        if lost := [name for name in config.votes if not (glob(name, recursive=True) or Path(name).exists())]:
            raise UserError(f"votes: {', '.join(lost)}: no such file; give those that the page saved, or leave it out")

    def results() -> None:
        if "figures" in config.parts and config.results:
            read_points(config.results, AnalyzeConfig.quality)

    roots = (config.photos, config.other_photos, config.training_photos, config.shown)
    checks: list[Callable[[], None]] = [*(partial(check_images, root) for root in roots), labels, votes, results]
    errors: list[Exception] = []
    for check in checks:
        try:
            check()
        except (UserError, OSError) as error:
            errors.append(error)
    return errors


def lines(absent: dict[str, list[str]], bench: Bench | None) -> Iterator[str]:
    """Parts without their settings, methods without their files, and what else single parts lack."""
    yield from (f"{part}: left out, because {', '.join(keys)} is not given" for part, keys in absent.items() if keys)
    if bench is None or not OF_PAPER & absent.keys():
        return
    yield from bench.faults()
    if not bench.present:
        return  # nothing else can be asked
    parts_by_lack: dict[str, list[str]] = {}  # what several parts lack is said once
    for part, keys in absent.items():
        for lack in () if keys else PARTS[part].lacks(bench):
            parts_by_lack.setdefault(lack, []).append(part)
    yield from (f"{', '.join(parts)}: {' '.join(lack.split())}" for lack, parts in parts_by_lack.items())


@doing("looking for what is missing")
def look(config: ReproduceConfig, absent: dict[str, list[str]], device: torch.device) -> Bench | None:
    """Log all that will be left out; the Bench of the parts, None where there are none.

    Raises:
        UserError, FileNotFoundError: given files, the generator, or every method's files are missing; names all.
    """
    errors, bench = not_there(config), None
    try:
        if config.parts:
            folder = obtain(model_of(config), "generator")  # of a released model: made, or told how to get it
            check_served(read_model(part_file(folder, "generator"), "generator"))
            bench = Bench(config, device)
    except (UserError, FileNotFoundError) as error:
        errors.append(error)
    missing = list(lines(absent, bench))
    is_of_methods = bool(OF_PAPER & absent.keys())
    if errors and bench is None and is_of_methods:
        missing += missing_files(config)
    if bench and is_of_methods and not bench.present:
        faults = bench.faults()
        errors.append(UserError("no method has its files:\n" + "\n".join(faults)))
        missing = [line for line in missing if line not in faults]
    if len(errors) == 1 and not missing:
        raise errors[0]
    if errors:
        also = "\nand what else cannot be made:\n  " + "\n  ".join(missing) if missing else ""
        raise UserError("\n".join(map(str, errors)) + also)
    if missing:
        log_message("what cannot be made, and the rest will be:\n  " + "\n  ".join(missing))
    return bench


def dry_run(config: ReproduceConfig) -> str:
    """The domain's networks, the parts, the methods with their files, and all that is missing; nothing is made."""
    config.parts = expanded_parts(config.parts, config.domain.kind)
    text = [plan_of_domain(config), "", f"parts: {', '.join(config.parts) or 'the page alone'}"]
    missing = [line for error in not_there(config) for line in str(error).splitlines()]
    bench = None
    if OF_PAPER & set(config.parts):
        try:
            bench = Bench(config, torch.device("cpu"), makes=False)
        except (FileNotFoundError, UserError) as error:
            missing += [f"generator: {error}", *missing_files(config)]
    if bench is not None:
        text += [f"{method.name}: {method.folder}" for method in bench.present]
    try:
        missing += lines(not_given(config), bench)
    except (FileNotFoundError, UserError) as error:  # of files that were named as damaged above
        missing.append(str(error))
    return "\n".join([*text, "missing:" if missing else "nothing is missing", *(f"  {line}" for line in missing)])
