"""The stages of the demo: each runs what one of the scripts does and puts command, figures and pictures on the page."""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperinverter.config.load import list_domains, load_config, load_domain, to_yaml
from hyperinverter.config.report_schema import DemoConfig
from hyperinverter.config.schema import (
    DomainConfig,
    EditConfig,
    EvaluateConfig,
    InterpolateConfig,
    Phase1Config,
    Phase2Config,
)
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.editing.commands import edit_images, interpolate_images
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.extractors.align import align_face
from hyperinverter.pretrained.load import load_generator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.reports.html_page import Report, curves, metrics_rows, read_stats
from hyperinverter.training import phase1, phase2
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.decode import read_image
from hyperinverter.utils.files import write_text
from hyperinverter.utils.images import contact_sheet, from_uint8, save_image

STAGES = 7
PORTRAIT_PX = 512  # of each picture on the page; files of the full size lie beside it
CURVES = {
    "train/l2": "L2, training",
    "validation/l2": "L2, validation",
    "train/discriminator_features": "discriminator features, training",
    "validation/discriminator_features": "discriminator features, validation",
}


class Demo:
    """One run: its settings, its folder, its page, and how long each stage took."""

    def __init__(self, config: DemoConfig) -> None:
        self.settings, self.domain, self.output = config, config.domain, Path(config.output)
        self.report = Report(f"HyperInverter: demo on {config.domain.name}")
        self.start = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._domain_word = name_domain(config.domain, self.output)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        begun = time.monotonic()
        print(f"[{len(self.seconds) + 1}/{STAGES}] {title} ...", flush=True)
        yield
        self.seconds[title] = round(time.monotonic() - begun, 1)
        print(f"[{len(self.seconds)}/{STAGES}] {title}: {self.seconds[title]:.0f} s\n", flush=True)

    def config(
        self, schema_class: type, script: str, file: str, folder: str, images: Sequence[Path] = (), **settings: Any
    ) -> Any:
        """Load a config as `script` would, and put that command on the page; `a__b` in `settings` is the key a.b."""
        ours = self.settings
        common = {"domain": self._domain_word, "output": self.output / folder, "device": ours.device, "seed": ours.seed}
        if ours.threads is not None:
            common["threads"] = ours.threads
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in (common | settings).items()]
        words = shlex.join([*map(str, images), *overrides])
        self.report.command(f"{command_of(script)} --config {file} {words}")
        config = load_config(schema_class, file, overrides)
        config.data.root = [str(image) for image in images] or config.data.root
        return config


def name_domain(domain: DomainConfig, output: Path) -> str:
    """What a command writes after `domain=`: the name, or, where settings of it were changed, a file made for it."""
    if domain.name in list_domains() and load_domain(domain.name) == domain:
        return domain.name
    path = output / "domain.yaml"
    write_text(path, to_yaml(domain))
    return str(path)


def prepare_inputs(demo: Demo) -> tuple[list[Path], Path]:
    """Samples of the generator and the aligned photo as PNG files, and the head of the page."""
    domain, count = demo.domain, demo.settings.edited_images
    with demo.stage("pictures to work on"):
        import skimage

        generator = load_generator(obtain_weights(domain, "generator"), domain)
        source = GeneratedSource(generator, count, stream="demo", truncation_psi=0.7)
        files = []
        for index, pixels in source.pixels(0, whole_chunk=True):
            image = from_uint8(torch.from_numpy(pixels))
            files.append(save_image(image, demo.output / "inputs" / f"generated_{index}.png"))
        # read from the installed package: skimage.data would want pooch and the network for other pictures
        portrait = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png")
        crop = align_face(portrait, max(domain.resolution, 256), "scikit-image's astronaut")  # 256: worth looking at
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
        f"(astronaut Eileen Collins, NASA, public domain), aligned. Samples of the generator are easier than photos, "
        "because the generator can show them exactly; README.md says how to measure on photos of your own."
    )
    return [*files, photo], photo


def train_phase1(demo: Demo) -> dict[str, Any]:
    ours = demo.settings
    demo.report.section("Training, shortly: Phase I")
    demo.report.text(
        f"{ours.phase1_steps} steps of E1 from random weights, on samples of the shipped generator: enough to see the "
        "losses fall, far from enough for good pictures. Only the next section builds on these weights."
    )
    settings = short_run(ours, ours.phase1_steps)
    config = demo.config(Phase1Config, "train_phase1", ours.phase1, "training/phase1", **settings)
    with demo.stage("short Phase I training"):
        phase1.train(config)
    return show_training(demo, Path(config.output), "Phase I", "pairs of input | Phase I")


def train_phase2(demo: Demo) -> dict[str, Any]:
    ours = demo.settings
    demo.report.section("Training, shortly: Phase II")
    demo.report.text(
        f"{ours.phase2_steps} steps of E2 and the hypernetworks on top of that E1, both E1 and generator frozen; the "
        f"adversarial loss joins for the last {ours.adversarial_steps} steps, as the paper's does near its end."
    )
    settings = short_run(ours, ours.phase2_steps) | {
        "adversarial__start_step": ours.phase2_steps - ours.adversarial_steps,
        "domain__weights__folder": demo.output / "training/phase1/model",
    }
    config = demo.config(Phase2Config, "train_phase2", ours.phase2, "training/phase2", **settings)
    with demo.stage("short Phase II training"):
        phase2.train(config)
    return show_training(demo, Path(config.output), "Phase II", "triples of input | Phase I | Phase II")


def short_run(ours: DemoConfig, steps: int) -> dict[str, Any]:
    """Settings of a short training: its length, thirty points on its curves, and no trained encoder to start from."""
    named = [part for part in ("w_encoder", "hyperinverter") if getattr(ours.domain.weights, part) is not None]
    return {
        "data__num_generated": ours.training_images,
        "data__validation_fraction": ours.validation_images / ours.training_images,
        "schedule__max_steps": steps,
        "schedule__lr_decay_steps": steps // 2,
        "schedule__log_every": max(1, steps // 30),
        "schedule__validate_every": max(1, steps // 3),
        "schedule__images_every": steps,
        "schedule__save_every": steps,
        **{f"domain__weights__{part}": "null" for part in named},
    }


def show_training(demo: Demo, folder: Path, title: str, layout: str) -> dict[str, Any]:
    """Curves and last pictures on the page; the figures for metrics.json."""
    stats = read_stats(folder / "stats.jsonl")
    demo.report.drawing(curves(stats, CURVES, "loss (unweighted)"), f"{title}: losses over {stats[-1]['step']} steps.")
    last = sorted((folder / "samples").glob("*.png"))[-1]
    demo.report.picture(last, f"Validation pictures after the last step, {layout}.")
    training = [line for line in stats if "train/loss" in line]
    validation = [line for line in stats if "validation/loss" in line]
    return {"steps": stats[-1]["step"], "first": training[0], "last": training[-1], "validation": validation[-1]}


def evaluate_trained(demo: Demo, photo: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """metrics.json of the generated pictures and of the photo."""
    report, file, count = demo.report, demo.settings.evaluate, demo.settings.evaluated_images
    with demo.stage("evaluation of the shipped weights"):
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


def edit_inputs(demo: Demo, inputs: list[Path]) -> None:
    report = demo.report
    with demo.stage("edits"):
        report.section("Edits")
        config = demo.config(EditConfig, "edit", demo.settings.edit, "edit", inputs)
        unit = "in standard deviations of photos along it" if config.strength_unit == "std" else "a distance in W"
        report.text(
            f"w moves along a learned direction by the stated strength, {unit}; the changed weights stay. Strength 0 "
            "is the reconstruction."
        )
        edit_images(config)
        for name in config.directions:
            report.picture(demo.output / f"edit/sheet_{name}.png", f"Direction {name}.")
        saved = demo.output / "edit/photo/inversion.safetensors"
        report.text(f"The inverted photo is a file of {saved.stat().st_size / 1024:.1f} KiB: {saved}.")


def interpolate_inputs(demo: Demo, inputs: list[Path]) -> None:
    report, file = demo.report, demo.settings.edit
    with demo.stage("interpolation"):
        report.section("Interpolation")
        report.text("Between two inverted pictures: codes and weights together above, codes only below.")
        for folder, pair in (("samples", inputs[:2]), ("photo", [inputs[-1], inputs[0]])):
            output = f"interpolate/{folder}"
            interpolate_images(demo.config(InterpolateConfig, "interpolate", file, output, pair))
            report.picture(demo.output / output / "strip.png", f"From {pair[0].stem} to {pair[1].stem}.")
        report.picture(demo.output / output / "beside.gif", "Moving: codes and weights left, codes only right.")


def edit_portrait(demo: Demo, photo: Path) -> None:
    """The real photo again, by the model of `portrait` at its full resolution, if its weights are there."""
    report, file = demo.report, demo.settings.portrait
    if file is None:
        return
    domain = load_config(EditConfig, file).domain
    with demo.stage(f"the photo at {domain.resolution} px"):
        report.section(f"The real photo at {domain.resolution} px")
        try:
            obtain_weights(domain, "generator")
        except FileNotFoundError as error:
            report.text(f"Not shown, because the generator of {domain.name} is not there: {error}")
            print(f"      not shown: {error}")
            return
        strengths = [-3, 3]
        settings = {"domain": domain.name, "strengths": strengths}
        config = demo.config(EditConfig, "edit", file, "edit_portrait", [photo], **settings)
        record = edit_images(config)
        files = record["images"][0]["files"]
        names = list(record["directions"])
        rows = [
            [files[head], *(files[f"{name}_{strength:+g}"] for name in names)]
            for head, strength in zip(("input", "reconstruction"), strengths, strict=True)
        ]
        pictures = [[read_image(Path(config.output) / file) for file in row] for row in rows]
        for picture in (picture for row in pictures for picture in row):
            picture.thumbnail((PORTRAIT_PX, PORTRAIT_PX), Image.Resampling.LANCZOS)
        sheet = Path(config.output) / "portrait.jpg"
        contact_sheet(pictures, ["photo, inversion", *names], sheet, [f"{strength:+g}" for strength in strengths])
        report.picture(sheet, f"Edits by a distance of 3 in W. Files of {domain.resolution} px: {config.output}.")
