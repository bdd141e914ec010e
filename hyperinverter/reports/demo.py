"""The demo: what every other command does, one after the other on little data, and one page that shows it.

Short training of both phases from the domain's generator, then evaluation, edits and interpolation with the domain's
trained weights. Every step is what one of the other scripts does; the page names its command.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from hyperinverter.config.load import load_config
from hyperinverter.config.report_schema import DemoConfig
from hyperinverter.config.schema import DomainConfig, EditConfig, EvaluateConfig, Phase1Config, Phase2Config
from hyperinverter.pretrained.files import PARTS, find_model_folder
from hyperinverter.pretrained.load import load_model
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.reports.demo_stages import (
    Demo,
    edit_inputs,
    edit_portrait,
    evaluate_trained,
    interpolate_inputs,
    prepare_inputs,
    train_phase1,
    train_phase2,
)
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import resolve_device
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json, write_text

MARKER = "demo.json"  # the first file written: says that a folder is a demo's and may be replaced


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run every stage and write the page (`index.html`), `metrics.json` and each stage's own folder into `output`.

    The output folder is replaced, so that nothing of an earlier demo is left in it; everything that can be refused at
    once is refused before that.

    Returns:
        What metrics.json holds: the evaluation of the trained weights on generated images, and under "demo" the short
        training, the photo, the sizes and the seconds of each stage.
    Raises:
        UserError: weights are missing or do not fit, the device is not there, or `output` holds something else.
        ConfigError: a step's config has faults.
    """
    resolve_device(config.device)
    check_steps(config)
    check_weights(config.domain)
    start_folder(config)

    demo = Demo(config)
    inputs, photo = prepare_inputs(demo)
    training = {"phase1": train_phase1(demo), "phase2": train_phase2(demo)}
    metrics, photo_metrics = evaluate_trained(demo, photo)
    edit_inputs(demo, inputs)
    interpolate_inputs(demo, inputs)
    edit_portrait(demo, photo)

    seconds = {**demo.seconds, "all": round(time.monotonic() - demo.start, 1)}
    result = {"short_training": training, "photo": photo_metrics, "sizes": sizes(config), "seconds": seconds}
    write_json(demo.output / "metrics.json", metrics | {"demo": result}, indent=2)
    demo.report.section("How long it took")
    demo.report.table(["stage", "s"], [[title, value] for title, value in seconds.items()])
    demo.report.write(demo.output / "index.html")
    print(f"Done in {seconds['all']:.0f} s. Look at:")
    print(f"  {demo.output / 'index.html'}    pictures, curves and tables, one file")
    print(f"  {demo.output / 'metrics.json'}  the figures")
    return metrics | {"demo": result}


def sizes(config: DemoConfig) -> dict[str, int]:
    return {key: value for key, value in vars(config).items() if key.endswith(("_steps", "_images"))}


def check_steps(config: DemoConfig) -> None:
    """The configs of all steps must be there before minutes are spent on the first.

    Raises ConfigError: one is not there, or has faults.
    """
    schemas = {"phase1": Phase1Config, "phase2": Phase2Config, "evaluate": EvaluateConfig, "edit": EditConfig}
    for key, schema_class in schemas.items():
        load_config(schema_class, getattr(config, key))


def check_weights(domain: DomainConfig) -> None:
    """All of the domain's files must be there and fit before minutes are spent.

    Raises UserError: lists what is missing, or says what does not fit.
    """
    missing = []
    for part in PARTS:
        try:
            obtain_weights(domain, part)
        except FileNotFoundError as error:
            missing.append(str(error))
    if not missing:
        folder = find_model_folder(domain.weights.folder or domain.name)
        files = [folder / file.partition("#")[0] for file in domain.directions.values()]
        missing = [f"{file}: learn it with {command_of('learn_direction')}" for file in files if not file.is_file()]
    if missing:
        listed = "\n  ".join(dict.fromkeys(missing))  # without its folder every part is missing for one reason
        raise UserError(
            f"the demo works with trained weights of {domain.name}, and these are missing:\n  {listed}\n"
            "A clone holds those of faces64 in pretrained_models/faces64: restore them with git, or name the folder "
            "that holds your models in HYPERINVERTER_MODELS"
        )
    load_model(domain)  # do they fit the domain and each other?


def start_folder(config: DemoConfig) -> None:
    """Empty an earlier demo's folder, or make one; refuse a folder that is something else.

    Raises UserError: `output` is a file, or a folder that holds something else.
    """
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARKER).is_file())):
        raise UserError(f"{output} exists and is not a demo's folder (it has no {MARKER}); give another output=FOLDER")
    output.mkdir(parents=True, exist_ok=True)
    # the marker goes last, so that a demo stopped here is still known as one; the folder may itself be a link: it stays
    for path in sorted(output.iterdir(), key=lambda path: path.name == MARKER):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_text(output / MARKER, json.dumps({"domain": config.domain.name, **sizes(config)}) + "\n")
