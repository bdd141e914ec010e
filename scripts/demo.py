"""The whole main job on the embedded domain, without network, GPU or data: python scripts/demo.py [--short].

Trains both phases for a short while from the shipped generator, then evaluates, edits and interpolates with the shipped
weights, on samples of the generator and on one real photo. Every step is what one of the other scripts does; the page
names its command. The output folder is replaced on every run, so that nothing of an earlier one is left in it.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperinverter.config import EditConfig, EvaluateConfig, Phase1Config, Phase2Config, load_config
from hyperinverter.utils.errors import UserError

STAGES = 6
MARKER = "demo.json"  # the first file written: says that a folder is a demo's and may be replaced
# The FFHQ crop of scikit-image's astronaut (Eileen Collins, NASA, public domain), as data.align finds it with dlib:
# corners x, y in px, top-left, bottom-left, bottom-right, top-right. Used where the extra `faces` is not installed.
ASTRONAUT_QUAD = [[142.5, 14.7], [133.0, 188.7], [307.0, 198.2], [316.5, 24.2]]
CURVES = {
    "train/l2": "L2, training",
    "validation/l2": "L2, validation",
    "train/discriminator_features": "discriminator features, training",
    "validation/discriminator_features": "discriminator features, validation",
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything: the full demo stays well below 10 minutes on 2 CPU cores, the short one below 3."""

    phase1_steps: int
    phase2_steps: int
    adversarial_steps: int  # the last ones of Phase II
    training_images: int
    validation_images: int
    evaluated_images: int
    edited_images: int


FULL = Sizes(400, 200, 30, 1024, 32, 128, 3)
SHORT = Sizes(30, 16, 4, 128, 8, 16, 2)


class Demo:
    """One run: its folder, its page, and what metrics.json will hold."""

    def __init__(self, sizes: Sizes, domain: str, output: Path, device: str) -> None:
        from hyperinverter.evaluation.report import Report

        self.sizes, self.domain, self.output, self.device = sizes, domain, output, device
        self.report = Report(f"HyperInverter: demo on {domain}")
        self.start = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        begun = time.monotonic()
        print(f"[{len(self.seconds) + 1}/{STAGES}] {title} ...", flush=True)
        yield
        self.seconds[title] = round(time.monotonic() - begun, 1)
        print(f"[{len(self.seconds)}/{STAGES}] {title}: {self.seconds[title]:.0f} s\n", flush=True)

    def config(self, schema_class: type, script: str, file: str, folder: str, **settings: Any) -> Any:
        """Load a config as `script` would, and put that command on the page."""
        settings = {"domain": self.domain, "output": self.output / folder, "device": self.device, **settings}
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        self.report.command(f"python scripts/{script}.py --config {file} {shlex.join(overrides)}")
        return load_config(schema_class, file, overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer steps and images: under 3 minutes on 2 CPU cores")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="replaced (default: %(default)s)")
    parser.add_argument("--domain", default="faces64", help="another domain that has weights (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="check the weights, print the sizes, do nothing")
    options = parser.parse_args()
    sizes = SHORT if options.short else FULL
    try:
        check_weights(options.domain)
        print(f"demo on {options.domain}: {', '.join(f'{k} {v}' for k, v in asdict(sizes).items())}")
        if not options.dry_run:
            start_folder(options.output, sizes, options.domain)
            run(Demo(sizes, options.domain, options.output, options.device))
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def check_weights(name: str) -> None:
    """All of the domain's files must be there and fit before minutes are spent.

    Raises:
        UserError: lists what is missing, or says what does not fit.
    """
    from hyperinverter.config import load_domain
    from hyperinverter.pretrained import PARTS, find_model_folder, load_model, weights_file

    domain = load_domain(name)
    missing = []
    for part in PARTS:
        try:
            weights_file(domain, part)
        except FileNotFoundError as error:
            missing.append(str(error))
    if not missing:
        folder = find_model_folder(domain.weights.folder or domain.name)
        files = [folder / file for file in domain.directions.values()]
        missing = [f"{file}: learn it with scripts/learn_direction.py" for file in files if not file.is_file()]
    if missing:
        listed = "\n  ".join(missing)
        raise UserError(
            f"the demo works with trained weights of {name}, and these are missing:\n  {listed}\n"
            "A clone holds those of faces64 in pretrained_models/faces64: restore them with git, or name the folder "
            "that holds your models in HYPERINVERTER_MODELS"
        )
    load_model(domain)  # do they fit the domain and each other?


def start_folder(output: Path, sizes: Sizes, domain: str) -> None:
    """Replace an earlier demo; refuse a folder that is not one.

    Raises:
        UserError: the folder holds something else.
    """
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARKER).is_file())):
        raise UserError(f"{output} exists and is not a demo's folder (it has no {MARKER}); give another --output")
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARKER).write_text(json.dumps({"domain": domain, **asdict(sizes)}) + "\n")


def run(demo: Demo) -> None:
    inputs, photo = prepare_inputs(demo)
    training = {"phase1": train_phase1(demo), "phase2": train_phase2(demo)}
    metrics, photo_metrics = evaluate_shipped(demo, photo)
    edit_shipped(demo, inputs)
    interpolate_shipped(demo, inputs)

    seconds = {**demo.seconds, "all": round(time.monotonic() - demo.start, 1)}
    extra = {"short_training": training, "photo": photo_metrics, "sizes": asdict(demo.sizes), "seconds": seconds}
    (demo.output / "metrics.json").write_text(json.dumps({**metrics, "demo": extra}, indent=2) + "\n")
    demo.report.section("How long it took")
    demo.report.table(["stage", "s"], [[title, value] for title, value in seconds.items()])
    demo.report.write(demo.output / "index.html")
    print(f"Done in {seconds['all']:.0f} s. Look at:")
    print(f"  {demo.output / 'index.html'}    pictures, curves and tables, one file")
    print(f"  {demo.output / 'metrics.json'}  the figures")


# ------------------------------------------------------------------------------------------------------- stages


def prepare_inputs(demo: Demo) -> tuple[list[Path], Path]:
    """Samples of the generator and the aligned photo as PNG files, and the head of the page."""
    with demo.stage("pictures to work on"):
        import skimage
        import torch
        from PIL import Image

        from hyperinverter.config import load_domain
        from hyperinverter.data.generated import GeneratedSource
        from hyperinverter.pretrained import load_generator, weights_file
        from hyperinverter.utils.images import from_uint8, save_image

        domain = load_domain(demo.domain)
        generator = load_generator(weights_file(domain, "generator"), domain)
        count = demo.sizes.edited_images
        source = GeneratedSource(generator, count, stream="demo", truncation_psi=0.7)
        files = []
        for index, pixels in source.pixels(0, whole_chunk=True):
            image = from_uint8(torch.from_numpy(pixels))
            files.append(save_image(image, demo.output / "inputs" / f"generated_{index}.png"))
        # read from the installed package: skimage.data would want pooch and the network for other pictures
        portrait = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
        crop, how = align_portrait(portrait, max(domain.resolution, 256))  # 256: worth looking at
        photo = save_image(crop, demo.output / "inputs" / "photo.png")

    report = demo.report
    report.text(
        f"What hyperinverter does, on the domain {domain.name} ({domain.resolution} px), made on this machine. Phase I "
        "finds the latent code w of a picture (encoder E1). Phase II predicts with hypernetworks how the generator's "
        "own weights must change to show what w alone cannot. Both are one pass through a network; nothing is "
        "optimised per picture. Edits then move w and keep the changed weights."
    )
    report.text(
        f"Pictures: {count} samples of the generator, and the one real photo that the scikit-image package carries "
        f"(astronaut Eileen Collins, NASA, public domain), {how}. Samples of the generator are easier than photos, "
        "because the generator can show them exactly; README.md tells how to measure on photos of your own."
    )
    return [*files, photo], photo


def align_portrait(portrait: Any, size: int) -> tuple[Any, str]:
    """The FFHQ crop of the photo and how it was found."""
    import numpy as np

    from hyperinverter.data.align import align_face, crop_quad

    try:
        return align_face(portrait, size, "scikit-image's astronaut"), "aligned by its landmarks"
    except UserError as error:
        print(f"      fixed crop of the photo: {error}")
        return crop_quad(portrait, np.array(ASTRONAUT_QUAD), size), "cut out at a fixed place"


def train_phase1(demo: Demo) -> dict[str, Any]:
    sizes = demo.sizes
    demo.report.section("Training, shortly: Phase I")
    demo.report.text(
        f"{sizes.phase1_steps} steps of E1 from random weights, on samples of the shipped generator: enough to see the "
        "losses fall, far from enough for good pictures. Only the next section builds on these weights."
    )
    settings = schedule(sizes, sizes.phase1_steps)
    config = demo.config(Phase1Config, "train_phase1", "configs/demo/phase1.yaml", "training/phase1", **settings)
    with demo.stage("short Phase I training"):
        from hyperinverter.training.phase1 import train

        train(config)
    return show_training(demo, Path(config.output), "Phase I", "pairs of input | Phase I")


def train_phase2(demo: Demo) -> dict[str, Any]:
    sizes = demo.sizes
    demo.report.section("Training, shortly: Phase II")
    demo.report.text(
        f"{sizes.phase2_steps} steps of E2 and the hypernetworks on top of that E1, both E1 and generator frozen; the "
        f"adversarial loss joins for the last {sizes.adversarial_steps} steps, as the paper's does near its end."
    )
    settings = schedule(sizes, sizes.phase2_steps) | {
        "adversarial__start_step": sizes.phase2_steps - sizes.adversarial_steps,
        "domain__weights__folder": demo.output / "training/phase1/model",
    }
    config = demo.config(Phase2Config, "train_phase2", "configs/demo/phase2.yaml", "training/phase2", **settings)
    with demo.stage("short Phase II training"):
        from hyperinverter.training.phase2 import train

        train(config)
    return show_training(demo, Path(config.output), "Phase II", "triples of input | Phase I | Phase II")


def schedule(sizes: Sizes, steps: int) -> dict[str, Any]:
    """Settings of a short run: its length, and thirty points on its curves."""
    return {
        "data__num_generated": sizes.training_images,
        "data__validation_fraction": sizes.validation_images / sizes.training_images,
        "schedule__max_steps": steps,
        "schedule__log_every": max(1, steps // 30),
        "schedule__validate_every": max(1, steps // 3),
        "schedule__images_every": steps,
        "schedule__save_every": steps,
    }


def show_training(demo: Demo, folder: Path, title: str, layout: str) -> dict[str, Any]:
    """Curves and last pictures on the page; the figures for metrics.json."""
    from hyperinverter.evaluation.report import curves, read_stats

    stats = read_stats(folder / "stats.jsonl")
    demo.report.drawing(curves(stats, CURVES, "loss (unweighted)"), f"{title}: losses over {stats[-1]['step']} steps.")
    last = sorted((folder / "samples").glob("*.png"))[-1]
    demo.report.picture(last, f"Validation pictures after the last step, {layout}.")
    training = [line for line in stats if "train/loss" in line]
    validation = [line for line in stats if "validation/loss" in line]
    return {"steps": stats[-1]["step"], "first": training[0], "last": training[-1], "validation": validation[-1]}


def evaluate_shipped(demo: Demo, photo: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """metrics.json of the generated pictures and of the photo."""
    from hyperinverter.evaluation.report import metrics_rows

    report, count = demo.report, demo.sizes.evaluated_images
    file = f"configs/evaluate/{demo.domain}.yaml"
    with demo.stage("evaluation of the shipped weights"):
        from hyperinverter.evaluation.reconstruction import evaluate

        report.section("Reconstruction with the shipped weights")
        report.text(f"Phase I (w_encoder) and both phases (hyperinverter) on {count} samples that no training saw.")
        settings = {"data__kind": "generated", "data__num_generated": count}
        metrics = evaluate(demo.config(EvaluateConfig, "evaluate", file, "evaluate/generated", **settings))
        report.table(*metrics_rows(metrics))
        report.note([f"Not measured: {name}: {reason}" for name, reason in metrics["not_measured"].items()])
        report.note([f"{key}: {value}" for key, value in metrics["protocol"].items()])
        report.picture(demo.output / "evaluate/generated/sheet.png", "A third each of the best, median and worst.")

        report.section("The real photo")
        settings = {"data__kind": "auto", "data__root": photo, "metrics": "[l2, psnr, discriminator_features]"}
        settings |= {"time_repeats": 5}  # measured above
        photo_metrics = evaluate(demo.config(EvaluateConfig, "evaluate", file, "evaluate/photo", **settings))
        report.table(*metrics_rows(photo_metrics))
        report.picture(demo.output / "evaluate/photo/sheet.png", "One photo is a look, not a measurement.")
    return metrics, photo_metrics["methods"]


def edit_shipped(demo: Demo, inputs: list[Path]) -> None:
    report = demo.report
    with demo.stage("edits"):
        from hyperinverter.editing.commands import edit_images

        report.section("Edits")
        report.text(
            "w moves along a learned direction by the stated strength, in standard deviations of photos along it; "
            "the changed weights stay. Strength 0 is the reconstruction."
        )
        file = f"configs/edit/{demo.domain}.yaml"
        config = demo.config(EditConfig, "edit", file, "edit", data__root=listed(inputs))
        edit_images(config)
        for name in config.directions:
            report.picture(demo.output / f"edit/sheet_{name}.png", f"Direction {name}.")
        saved = demo.output / "edit/photo/inversion.safetensors"
        report.text(f"The inverted photo is a file of {saved.stat().st_size / 1024:.1f} KiB: {saved}.")


def interpolate_shipped(demo: Demo, inputs: list[Path]) -> None:
    report = demo.report
    with demo.stage("interpolation"):
        from hyperinverter.editing.commands import interpolate_images

        report.section("Interpolation")
        report.text("Between two inverted pictures: codes and weights together above, codes only below.")
        file = f"configs/edit/{demo.domain}.yaml"
        for folder, pair in (("samples", inputs[:2]), ("photo", [inputs[-1], inputs[0]])):
            output = f"interpolate/{folder}"
            interpolate_images(demo.config(EditConfig, "interpolate", file, output, data__root=listed(pair)))
            report.picture(demo.output / output / "strip.png", f"From {pair[0].stem} to {pair[1].stem}.")
        report.picture(demo.output / output / "beside.gif", "Moving: codes and weights left, codes only right.")


def listed(paths: list[Path]) -> str:
    return "[" + ", ".join(f"'{path}'" for path in paths) + "]"


if __name__ == "__main__":
    main()
