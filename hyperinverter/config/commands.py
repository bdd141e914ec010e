"""Every command: `hyperinverter NAME ...`, of which scripts/*.py are the twins. Nothing heavy is imported here.

A script is named as its command with `_` between the words: scripts/train_phase1.py is `hyperinverter train phase1`,
scripts/learn_direction.py is `hyperinverter learn-direction`.
"""

import sys
from collections.abc import Sequence

import hyperinverter
from hyperinverter.config import encoder_schema, model_schema, report_schema, schema
from hyperinverter.config.cli import ANEW, FROM_CHECKPOINT, GOES_ON, Command, run, stop
from hyperinverter.config.faults import did_you_mean
from hyperinverter.config.model_schema import ConvertConfig, DownloadConfig, InspectConfig

EVALUATION = "hyperinverter.evaluation"
PHOTOS_OR_INVERSIONS = (
    "photos, folders, .zip files, Inversions that `invert` saved (.safetensors), or codes of other methods "
    "(latents.pt, .npy, .npz, .pkl)"
)

COMMANDS: dict[str, Command] = {
    "invert": Command(
        schema.InvertConfig,
        "hyperinverter.editing.commands:invert_images",
        "configs/invert/faces64.yaml",
        "Invert photos: one .safetensors per photo (code and tokens), its reconstruction, and a contact sheet "
        "(input | Phase I | Phase II | difference). align=true first crops unaligned photos as FFHQ does.",
        inputs="data.root",
        inputs_help=PHOTOS_OR_INVERSIONS,
    ),
    "edit": Command(
        schema.EditConfig,
        "hyperinverter.editing.commands:edit_images",
        "configs/edit/faces64.yaml",
        "Invert photos and move them along directions: w + strength * direction on every style, each photo's own "
        "weight residuals kept (InterFaceGAN). 'edits={smile: 2, age: -1}' makes several edits at once. align=true "
        "first crops unaligned photos as FFHQ does.",
        inputs="data.root",
        inputs_help=PHOTOS_OR_INVERSIONS,
    ),
    "interpolate": Command(
        schema.InterpolateConfig,
        "hyperinverter.editing.commands:interpolate_images",
        "configs/edit/faces64.yaml",
        "Blend each photo into the next: codes and weights, and codes only beside it. t = 0 is the first photo named "
        "(the published script starts at its second). circle=true ends where it began.",
        inputs="data.root",
        inputs_help="photos, or Inversions that `invert` saved (.safetensors)",
    ),
    "app": Command(
        model_schema.AppConfig,
        "hyperinverter.app.web:run_app",
        "configs/app/faces64.yaml",
        "Edit photos in a browser: a photo is aligned and inverted once, then sliders edit it. Only this machine "
        "reaches it, unless host says otherwise, and nothing leaves this machine. Ends with Ctrl-C.",
    ),
    "edit-video": Command(
        model_schema.VideoConfig,
        "hyperinverter.editing.video.command:edit_video",
        "configs/video/faces64.yaml",
        "Edit the faces of a film, its sound kept: they are followed, cropped by smoothed landmarks, inverted, edited "
        "by codes that are smoothed in time, and put back. The same command goes on where a killed one stopped. Needs "
        "the extra `video`.",
        inputs="files",
        inputs_help="the film to read and the .mp4 to write",
        inputs_name="FILM",
        again=GOES_ON,
    ),
    "inspect-image": Command(
        InspectConfig,
        "hyperinverter.data.inspect_image:inspect_images",
        None,
        "Show what pictures and films say of their origin: whether a network drew or edited them (IPTC's digital "
        "source type). Metadata is easily lost: where there is none, nothing is proved.",
        inputs="files",
        inputs_help="pictures and films",
        inputs_name="FILE",
        plan="hyperinverter.data.inspect_image:dry_run",
    ),
    "align": Command(
        schema.AlignConfig,
        "hyperinverter.editing.align_command:align_folder",
        "configs/align/faces64.yaml",
        "Find the face in each photo and crop it as FFHQ does: tilted by any angle, at the domain's resolution. face=2 "
        "takes the second largest, face=all every one. With the extra `faces`, dlib's landmarks place the crop; their "
        "model was trained on iBUG 300-W, whose terms exclude commercial use.",
        inputs="data.root",
        again=GOES_ON,
    ),
    "prepare-data": Command(
        schema.PrepareConfig,
        "hyperinverter.data.prepare:prepare_data",
        None,
        "Sort CelebA-HQ, FFHQ, LSUN church or any images into train and test: split by the official lists, counted, "
        "and looked through for photos that stand in two splits.",
        inputs="data.root",
        plan="hyperinverter.data.prepare:dry_run",
        again=GOES_ON,
    ),
    "evaluate": Command(
        schema.EvaluateConfig,
        f"{EVALUATION}.reconstruction:evaluate",
        "configs/evaluate/faces64.yaml",
        "Measure methods on images: L2, perceptual distances, PSNR, MS-SSIM, identity, FID, KID and time per image.",
        inputs="data.root",
        again=f"{ANEW}; images of methods that optimise for each are kept in the output",
    ),
    "train stylegan2": Command(
        schema.StyleGAN2Config,
        "hyperinverter.training.stylegan2:train",
        "configs/stylegan2/faces64.yaml",
        "Train a StyleGAN2 generator and discriminator on your own images: the domain both inversion phases build on.",
        inputs="data.root",
        again=FROM_CHECKPOINT,
    ),
    "train phase1": Command(
        schema.Phase1Config,
        "hyperinverter.training.phase1:train",
        "configs/phase1/faces64.yaml",
        "Train Phase I: the encoder E1 (image to w), against the domain's frozen generator.",
        inputs="data.root",
        again=FROM_CHECKPOINT,
    ),
    "train phase2": Command(
        schema.Phase2Config,
        "hyperinverter.training.phase2:train",
        "configs/phase2/faces64.yaml",
        "Train Phase II: the encoder E2 and the hypernetworks (image to weight residuals), E1 and generator frozen.",
        inputs="data.root",
        again=FROM_CHECKPOINT,
    ),
    "train phase3": Command(
        encoder_schema.Phase3Config,
        "hyperinverter.training.phase3:train",
        "configs/phase3/faces64.yaml",
        "Train Phase III, beyond the paper: a small residual of one feature map of the generator, and how it follows "
        "edits, with everything else frozen.",
        inputs="data.root",
        again=FROM_CHECKPOINT,
    ),
    "train encoder": Command(
        encoder_schema.TrainEncoderConfig,
        "hyperinverter.training.encoder:train",
        "configs/encoder/faces64.yaml",
        "Train another published encoder against the domain's frozen generator: method=psp, e4e, restyle or hyperstyle "
        "(which needs the domain's E1).",
        inputs="data.root",
        again=FROM_CHECKPOINT,
    ),
    "train early-head": Command(
        schema.EarlyHeadConfig,
        "hyperinverter.training.early_head:train",
        "configs/early_head/ffhq_mobile.yaml",
        "Train the early head of a MobileStyleGAN generator: its images at a quarter of the size, without the last "
        "layer.",
        again=FROM_CHECKPOINT,
    ),
    "learn-direction": Command(
        model_schema.DirectionConfig,
        "hyperinverter.editing.learn_command:learn_directions",
        "configs/directions/faces64.yaml",
        "Learn edit directions from labelled photos, or by networks that judge faces: a linear SVM per attribute on "
        "their w, whose unit normal is the direction; held-out accuracy is reported.",
        inputs="data.root",
        inputs_help="the photos: folders, .zip files or globs; none for predictors of the generator's samples",
        needs_images=False,
    ),
    "find-directions": Command(
        model_schema.GanspaceConfig,
        "hyperinverter.editing.ganspace_command:find_directions",
        "configs/ganspace/faces64.yaml",
        "Find editing directions without labels: principal components of the generator's W (GANSpace), or with "
        "method=sefa eigenvectors of its own weights (SeFa), shown and saved.",
        inputs="model",
        inputs_help="the model folder or name",
        inputs_name="MODEL",
    ),
    "list-directions": Command(
        model_schema.ListConfig,
        f"{EVALUATION}.direction_list:list_directions",
        "configs/list/faces64.yaml",
        "Show what a model's directions do, on samples of its generator: a sheet per direction, and a leakage matrix, "
        "what else it moves by networks that judge age, yaw and happiness.",
        inputs="directions",
        inputs_help="names of the model's directions, or files; none: all that it brings along",
        inputs_name="DIRECTION",
    ),
    "analyze": Command(
        report_schema.AnalyzeConfig,
        f"{EVALUATION}.analysis.command:analyze",
        "configs/analyze/faces64.yaml",
        "Draw what Phase II changes: weights per layer, difference maps, blends of real images, and quality against "
        "time.",
        inputs="data.root",
        needs_images=False,
    ),
    "ablate": Command(
        report_schema.AblateConfig,
        "hyperinverter.reports.reproduce.command:ablate",
        "configs/ablate/faces64.yaml",
        "Train and measure the rows of the paper's table 3: at one budget, without this, without that, and several D.",
        inputs="data.root",
        inputs_help="the photos to train on; those to measure are photos=FOLDER",
        again=FROM_CHECKPOINT,
    ),
    "reproduce": Command(
        report_schema.ReproduceConfig,
        "hyperinverter.reports.reproduce.command:reproduce",
        "configs/reproduce/faces64.yaml",
        "Make the paper's tables and figures of a domain by every method. Also measures all that docs/results.md says "
        "of a model. Writes JSON files, Markdown, HTML and pictures, and with publish=docs/results the page. Stopped "
        "at any time, the same command goes on.",
        inputs="parts",
        inputs_help="names of tables and figures (table1, fig4), of other measurements, or all",
        plan="hyperinverter.reports.reproduce.lacking:dry_run",
        looks_itself=True,
        inputs_name="PART",
        again=GOES_ON,
    ),
    "benchmark": Command(
        report_schema.BenchmarkConfig,
        "hyperinverter.reports.benchmark.command:benchmark",
        "configs/benchmark/faces64.yaml",
        "Measure time and memory: inversion, editing and training, beside the released code's way of working.",
    ),
    "demo": Command(
        report_schema.DemoConfig,
        "hyperinverter.reports.demo:run_demo",
        "configs/demo/demo.yaml",
        "Show everything in ten minutes: train both phases for a short while from the shipped generator, then "
        "evaluate, edit and interpolate with the shipped weights, on samples of the generator and on one real photo. "
        "Ends in one page, index.html. The output folder is replaced on every run. --config configs/demo/short.yaml "
        "is over sooner.",
    ),
    "export-model": Command(
        model_schema.ExportConfig,
        f"{EVALUATION}.export_model:export_model",
        "configs/export/faces64.yaml",
        "Write a trained model folder as it is shipped: in half precision, and measure what that changes in its "
        "images.",
        inputs="model",
        inputs_help="the trained model folder",
        inputs_name="MODEL",
    ),
    "convert": Command(
        ConvertConfig,
        "hyperinverter.releases.convert:convert",
        None,
        "Convert released weights (.pkl, .pt, .pth) to .safetensors: they are read without running code from them. "
        "Name IN OUT.safetensors, or several files of one model and its folder. --inspect IN says what a file is "
        "and writes nothing. --domain NAME requires that domain's sizes, --sha256 DIGITS the first file's hash, "
        "--kind KIND goes before what the content looks like.",
        inputs="files",
        inputs_help="released files, and at the end the file or folder to write",
        inputs_name="FILE",
        plan="hyperinverter.releases.convert:dry_run",
    ),
    "download": Command(
        DownloadConfig,
        "hyperinverter.releases.download_command:download",
        None,
        "Fetch released weights: from their publishers, or from a mirror (--base-url ADDRESS, --hub OWNER/REPO). They "
        "are checked against the hash of the first time, and released models become model folders. Interrupted "
        "downloads go on where they stopped. --list shows what there is, what is here, and the licences.",
        inputs="names",
        inputs_help="names of models (ffhq, church) or files, as --list shows them",
        inputs_name="NAME",
        plan="hyperinverter.releases.download_command:dry_run",
        again=GOES_ON,
    ),
}


def run_command(name: str, argv: Sequence[str] | None = None) -> None:
    """What a script calls: one command of COMMANDS on the words of the command line, None takes sys.argv."""
    run(COMMANDS[name], sys.argv[1:] if argv is None else argv)


def main(argv: Sequence[str] | None = None) -> None:
    """`hyperinverter NAME ...` and `python -m hyperinverter NAME ...`.

    Raises SystemExit: 0 after --help and --version, 2 where no command of that name exists; else as `run`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        raise SystemExit(0 if words else 2)
    if words[0] in ("-V", "--version"):
        print(f"hyperinverter {hyperinverter.__version__}")
        raise SystemExit(0)
    if words[0].startswith("train_"):
        words[:1] = words[0].split("_", 1)
    count = 2 if words[0] == "train" else 1
    name = " ".join(words[:count]).replace("_", "-")
    if name not in COMMANDS:
        if words[0] == "train" and words[1:2] in ([], ["-h"], ["--help"]):
            stop(f"which trainer? Write one of: {', '.join(each for each in COMMANDS if each.startswith('train '))}")
        begun = next((each for each in COMMANDS if len(name) > 1 and each.startswith(name)), None)
        close = begun or did_you_mean(name, COMMANDS) or did_you_mean(f"train {words[0]}", COMMANDS)
        hint = f"did you mean {close}? " if close else ""
        stop(f"no such command: {name}; {hint}`hyperinverter --help` lists all")
    run(COMMANDS[name], words[count:], program=f"hyperinverter {name}")


def _overview() -> str:
    """All commands, each with the first sentence of its description."""
    lines = ["usage: hyperinverter COMMAND [words] [key=value] [--key value]", "", "commands:"]
    for name, command in COMMANDS.items():
        first = command.description.partition(". ")[0].partition(": ")[0].rstrip(".")  # up to its first stop
        lines.append(f"  {name:<18}{first}")
    return "\n".join([*lines, "", "`hyperinverter COMMAND --help` lists every key of a command."])
