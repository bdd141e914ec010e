"""The benchmark as a command: one domain or several, into benchmark.json and table.md, and into the published page."""

import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import hyperinverter
from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import BenchmarkConfig
from hyperinverter.metrics.timing import device_name
from hyperinverter.reports.benchmark.budget import phase2_budget
from hyperinverter.reports.benchmark.clock import Rounds
from hyperinverter.reports.benchmark.counting import count_generators
from hyperinverter.reports.benchmark.inference import measure_ceiling, measure_inference, measure_slider
from hyperinverter.reports.benchmark.loading import measure_loading
from hyperinverter.reports.benchmark.memory import give_back_memory, in_fresh_process, measure_memory
from hyperinverter.reports.benchmark.page import page, tables
from hyperinverter.reports.benchmark.sides import SideName, make_model, with_hidden_size
from hyperinverter.reports.benchmark.training import measure_training
from hyperinverter.training.common import set_up
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import own_cores
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import slug, write_json, write_text
from hyperinverter.utils.kept_memory import keep_freed_memory
from hyperinverter.utils.text import counted
from hyperinverter.utils.waiting import log_message

PASSED_ON = ("device", "threads", "seed", "rounds", "least_rounds", "seconds")  # to each of `runs`, where set


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure, and write `<output>/benchmark.json` and `<output>/table.md`.

    With `publish` the JSON also goes into that folder, under the device's name (a domain measured there before is
    replaced, others stay), and the page beside the folder is made anew of its `about.md` and every JSON in it. With
    neither `runs` nor `sides` nothing is measured, and the page alone is made.

    Raises:
        UserError: nothing to do, the device is not there, trained weights are missing, or `reference` has no such
            networks.
        ConfigError: a config in `runs` has faults.
    """
    device = set_up(config)
    parts = [_passed_on(config, path) for path in config.runs] or ([config] if config.sides else [])
    if not parts and not config.apps:
        if config.publish is None:
            raise UserError(
                "nothing to measure (runs, sides and apps are empty); publish=docs/performance makes the page alone"
            )
        _publish(Path(config.publish), {})
        return {}
    result: dict[str, Any] = {**_machine(device), "runs": []}
    for part in parts:
        measured = in_fresh_process(_measure, part) if config.runs else measure_domain(part, device)
        result["runs"].append({**measured, "about": _about()})
        _keep(config, result)  # one by one: the whole takes long
    if config.apps:
        result["apps"] = [{**in_fresh_process(_measure_app, config, path), "about": _about()} for path in config.apps]
        _keep(config, result)
    write_text(Path(config.output) / "table.md", tables(result))
    tqdm.write(tables(result))
    return result


def _keep(config: BenchmarkConfig, result: dict[str, Any]) -> None:
    write_json(Path(config.output) / "benchmark.json", result)
    if config.publish is not None:
        _publish(Path(config.publish), result)


def _measure(part: BenchmarkConfig) -> dict[str, Any]:
    return measure_domain(part, set_up(part))


def _measure_app(config: BenchmarkConfig, path: str) -> dict[str, Any]:
    from hyperinverter.reports.benchmark.app import measure_app  # it needs the extra app

    set_up(config)
    keep_freed_memory()  # as every command does: this is a process of its own
    threads = [] if config.threads is None else [f"threads={config.threads}"]
    rounds = Rounds(config.rounds, config.least_rounds, config.seconds, warm_up=2)
    log_message(f"{path}: from a slider to the picture")
    return measure_app(path, [f"device={config.device}", *threads], rounds)


def _publish(folder: Path, result: dict[str, Any]) -> None:
    """Put a result's domains into its device's file, and make the page of all files."""
    if result:
        threads = f"_{result['threads']}_threads" if result["threads"] else ""
        path = folder / f"{slug(result['device'])}{threads}.json"
        measured = [run["domain"] for run in result["runs"]]
        earlier = json.loads(path.read_text()) if path.is_file() else {"runs": []}
        apps = result.get("apps", earlier.get("apps", []))
        runs = [run for run in earlier["runs"] if run["domain"] not in measured] + result["runs"]
        runs.sort(key=lambda run: run["resolution"])
        write_json(path, {**result, "notes": earlier.get("notes", []), "runs": runs, "apps": apps})
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    about = folder / "about.md"  # written by hand
    write_text(folder.with_suffix(".md"), page(about.read_text() if about.is_file() else "# Performance\n", results))
    tqdm.write(f"written: {folder.with_suffix('.md')}")


def measure_domain(config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """All measurements of one domain; the keys are those of the config."""
    begin = time.perf_counter()
    rounds = Rounds(config.rounds, config.least_rounds, config.seconds)
    sizes: list[int | None] = [*config.hidden_sizes] or [None]
    domains = [with_hidden_size(config.domain, size) for size in sizes]
    training_sides = [side for sides in config.training.values() for side in sides]
    precisions = [SideName.of(name).precision for name in (*config.sides, *training_sides)]
    ceiling = measure_ceiling(device, precisions)
    result: dict[str, Any] = {
        "domain": config.domain.name,
        "resolution": config.domain.resolution,
        "weights": "trained" if config.trained else "random",
        "ceiling": vars(ceiling),
        "inference": [],
    }
    model = None
    for number, domain in enumerate(domains):
        model = make_model(domain, trained=config.trained, seed=config.seed)
        for batch_size in sorted({size for sizes in config.sides.values() for size in sizes}):
            names = [name for name, sizes in config.sides.items() if batch_size in sizes]
            if number and batch_size > min(min(sizes) for sizes in config.sides.values()):
                continue  # another D changes the hypernetworks alone
            log_message(f"{domain.name}, D = {domain.hypernetwork.hidden_size}, batch {batch_size}: {', '.join(names)}")
            case = measure_inference(model, batch_size, names, rounds, device, ceiling)
            result["inference"].append({"hidden_size": domain.hypernetwork.hidden_size, **case})
        if number == 0:
            result |= _at_first_size(config, model, rounds, device)
        del model
    give_back_memory()
    batch_sizes = sorted({n for sizes in config.sides.values() for n in sizes})
    result["generators"] = count_generators(domains[0], batch_sizes, reference="reference" in config.sides)
    result["memory"] = [measure_memory(*case, domains[0], device, config.threads) for case in _memory_cases(config)]
    result["budget"] = []
    for side in config.budget:
        for adversarial in (False, True):
            log_message(f"{config.domain.name}: memory of a Phase II step, {side}{', adversarial' * adversarial}")
            entry = phase2_budget(domains[0], config.training_batch_size, side, adversarial=adversarial)
            result["budget"].append({"hidden_size": domains[0].hypernetwork.hidden_size, **entry})
    if config.loading:
        log_message(f"{config.domain.name}: reading from disk")
        result["loading"] = measure_loading(config.domain.resolution, config.loading, device=device)
    return {**result, "seconds": time.perf_counter() - begin}


def _at_first_size(config: BenchmarkConfig, model: Any, rounds: Rounds, device: torch.device) -> dict[str, Any]:
    result: dict[str, Any] = {"slider": None, "training": []}
    hidden_size = model.domain.hypernetwork.hidden_size
    if config.slider is not None:
        log_message(f"{model.domain.name}: slider, {config.slider}")
        result["slider"] = {"hidden_size": hidden_size, **measure_slider(model, config.slider, rounds, device)}
    for phase, names in config.training.items():
        log_message(f"{model.domain.name}: a step of {phase}: {', '.join(names)}")
        case = measure_training(phase, model, config.training_batch_size, names, rounds, device)
        result["training"].append({"hidden_size": hidden_size, **case})
    return result


def _memory_cases(config: BenchmarkConfig) -> Iterator[tuple[str, str, int]]:
    """What is run, by which side, on how many images."""
    if not config.memory:
        return
    for side, sizes in config.sides.items():
        if not SideName.of(side).compiled:
            yield from (("inference", side, batch_size) for batch_size in sorted(sizes))
    for phase, sides in config.training.items():
        for side in sides:
            if not (phase == "phase1" and SideName.of(side).is_reference):
                yield phase, side, config.training_batch_size


def _passed_on(config: BenchmarkConfig, path: str) -> BenchmarkConfig:
    """One of `runs`, with the settings that the whole has and its own sides where the whole names none."""
    part = load_config(BenchmarkConfig, path)
    plain = BenchmarkConfig()
    for key in PASSED_ON:
        if getattr(config, key) != getattr(plain, key):
            setattr(part, key, getattr(config, key))
    if config.sides != plain.sides:
        part.sides = deepcopy(config.sides)
    if config.training:
        part.training = deepcopy(config.training)
    return part


def _machine(device: torch.device) -> dict[str, Any]:
    """Where it was measured: "threads" and "capability" (the vector instructions used) are a CPU's."""
    if device.type != "cpu":
        return {"device": device_name(device), "threads": None, "capability": None}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"device": _processor(), "threads": torch.get_num_threads(), "capability": capability}


def _program() -> list[str]:
    """What was typed before the settings: the script, or `hyperinverter`, whose first setting is the command's name."""
    is_script = Path(sys.argv[0]).name == "benchmark.py"
    return command_of("benchmark").split() if is_script else ["hyperinverter"]


def _about() -> dict[str, Any]:
    """What else the numbers depend on."""
    return {
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "versions": {
            "hyperinverter": hyperinverter.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.system(),
        },
    }


def _processor() -> str:
    """The processor's name, as far as the system says it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"model name\s*:\s*(.+)", text)
    return f"{match[1].strip() if match else platform.processor() or 'CPU'}, {counted(own_cores(), 'core')}"
