"""README.md and CONTRIBUTING.md from top to bottom, as a reader types them: every command runs, every link exists.

A command must stand in COMMANDS below; a new one without a line there fails. Training at full length is cut to one
step by added settings, never by another command.
"""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_runner import ROOT, astronaut, run_script, write_labels, write_photos

import hyperinverter
from hyperinverter.utils.films import save_mp4

PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
FETCHED = ('"ffhq_mobile", refine=20, download=True', '"faces64"')  # its generator is a download
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Script:
    """A command of ours: what is added to it, and a file that it must leave behind."""

    more: str = ""
    makes: str | None = None
    device: str = "device=cpu"  # "" for a command that computes nothing


SHORT = "schedule.max_steps=1 schedule.batch_size=2 data.cache_mib=16"
SHORT_PHASE = f"{SHORT} data.validation_fraction=0.2 'loss_weights={{l2: 1.0}}'"
FEW = "data.max_images=2 time_repeats=2 'metrics=[l2, psnr]'"
COMMANDS: dict[str, Script | None] = {  # None: not ours, see test_make_and_shell_commands
    "make demo": None,
    'make demo DEMO="--config configs/demo/short.yaml"': None,
    "make test": None,
    "make lint": None,
    "make test-slow": None,
    "source .venv/bin/activate": None,
    "python scripts/invert.py photo.jpg align=true": Script(makes="outputs/invert_faces64/photo.safetensors"),
    "python scripts/invert.py photo.jpg domain=ffhq_mobile align=true": Script("--dry-run"),
    "python scripts/invert.py photo.jpg align=true refine.steps=20": Script(
        "refine.steps=2", "outputs/invert_faces64/photo.safetensors"
    ),
    "python scripts/invert.py my_photos output=outputs/inversions": Script(
        "data.max_images=2", "outputs/inversions/sheet.png"
    ),
    "python scripts/train_stylegan2.py data.root=my_photos": Script(
        SHORT, "outputs/stylegan2_faces64/model/generator.safetensors"
    ),
    "python scripts/train_phase1.py data.root=my_photos domain.weights.folder=outputs/stylegan2_faces64/model": Script(
        SHORT_PHASE, "outputs/phase1_faces64/model/w_encoder.safetensors"
    ),
    "python scripts/train_phase2.py data.root=my_photos domain.weights.folder=outputs/phase1_faces64/model": Script(
        f"{SHORT_PHASE} adversarial.start_step=0 adversarial.batch_size=2",
        "outputs/phase2_faces64/model/hyperinverter.safetensors",
    ),
    "torchrun --nproc-per-node=2 scripts/train_phase2.py data.root=my_photos": Script("--dry-run"),  # test_distributed
    # the whole way on the tiny domain is test_scripts.py's
    "python scripts/train_stylegan2.py --config configs/stylegan2/tiny.yaml data.root=my_photos": Script("--dry-run"),
    "python scripts/train_phase1.py --config configs/phase1/tiny.yaml "
    "domain.weights.folder=outputs/stylegan2_tiny/model": Script("--dry-run"),
    "python scripts/train_phase2.py --config configs/phase2/tiny.yaml "
    "domain.weights.folder=outputs/phase1_tiny/model": Script("--dry-run"),
    "python scripts/train_phase2.py --config configs/phase2/ffhq.yaml --dry-run": Script(),
    # tests/test_scripts.py trains one on the tiny domain, and measures it
    "python scripts/train_phase3.py --config configs/phase3/faces64.yaml data.root=my_photos": Script("--dry-run"),
    "python scripts/evaluate.py model=outputs/phase3_faces64/model 'methods=[hyperinverter,phase3]' "
    "data.root=my_photos": Script("--dry-run"),
    "python scripts/train_stylegan2.py domain=my_domain.yaml data.root=my_photos output=outputs/my_gan": Script(
        "--dry-run"
    ),
    "python scripts/evaluate.py data.root=my_photos": Script(FEW, "outputs/evaluate_faces64/metrics.json"),
    "python scripts/evaluate.py model=outputs/phase2_faces64/model data.root=my_photos "
    "output=outputs/evaluate_mine": Script("--dry-run"),  # what was trained is measured by test_scripts.py
    "python scripts/evaluate.py data.kind=generated data.num_generated=64 output=outputs/evaluate_generated": Script(
        "--dry-run"
    ),  # test_scripts.py measures generated images of the tiny domain
    "python scripts/edit.py photo.jpg domain=ffhq_mobile align=true": Script("--dry-run"),
    "python scripts/invert.py photo.jpg align=true 'methods=[w_encoder,hyperinverter,pti]'": Script(
        "projection.steps=1 projection.tuning_steps=1", "outputs/invert_faces64/pti/photo.png"
    ),
    "python scripts/edit.py photo.jpg align=true 'methods=[w_encoder,hyperinverter]' 'directions=[smile]'": Script(
        "--dry-run"
    ),  # tests/editing/test_across.py
    "python scripts/edit.py photo.jpg align=true 'directions=[smile,age]' 'strengths=[-3,0,3]'": Script(
        makes="outputs/edit_faces64/photo/smile_-3.png"
    ),
    "python scripts/edit.py photo.jpg align=true 'edits={smile: 2, age: -1}' sweep=25 mp4=true": Script(
        "sweep=2", "outputs/edit_faces64/photo/smile+2_age-1.mp4"
    ),
    "python scripts/edit.py photo.jpg align=true 'edits={\"style:b16.conv1:5\": 3}'": Script(
        makes="outputs/edit_faces64/photo/b16.conv1_5+3.png"
    ),
    "python scripts/edit_video.py in.mp4 out.mp4 'edits={smile: 2, age: -1}'": Script(makes="out.mp4"),
    "python scripts/interpolate.py my_photos steps=25 circle=true mp4=true": Script(
        "data.max_images=2 steps=2", "outputs/edit_faces64/beside.mp4"
    ),
    "python scripts/inspect_image.py outputs/edit_faces64/photo/smile_+3.png photo.jpg": Script(device=""),
    "python scripts/interpolate.py photo.jpg other_photo.jpg align=true steps=9": Script(
        "steps=2", "outputs/edit_faces64/strip.png"
    ),
    # tests/app runs it, in a browser too
    "python scripts/app.py": Script("--dry-run"),
    "python scripts/app.py domain=ffhq_mobile": Script("--dry-run"),
    "python scripts/app.py domain=ffhq_mobile host=0.0.0.0 port=8000": Script("--dry-run"),
    "python scripts/analyze.py data.root=my_photos 'results=[outputs/evaluate_faces64/metrics.json]'": Script(
        "--dry-run"
    ),  # test_scripts.py draws on the tiny domain
    "python scripts/ablate.py data.root=my_photos photos=my_held_out_photos": Script("--dry-run"),  # an hour
    "python scripts/ablate.py --config configs/ablate/faces64/passes.yaml data.root=my_photos "
    "photos=my_held_out_photos": Script("--dry-run"),  # half an hour
    "python scripts/prepare_data.py CelebA-HQ-img dataset=celeba_hq mapping=CelebA-HQ-to-CelebA-mapping.txt "
    "partition=list_eval_partition.txt": Script("incomplete=true", "outputs/data/test/00002.jpg", device=""),
    "python scripts/align.py my_photos output=outputs/aligned": Script(
        "data.max_images=1", "outputs/aligned/alignment.json", device=""
    ),
    # tests/test_scripts.py trains one on the tiny domain, and measures it beside another method
    "python scripts/train_encoder.py --config configs/encoder/faces64.yaml method=e4e data.root=my_photos": Script(
        "--dry-run"
    ),
    "python scripts/evaluate.py data.root=my_photos 'methods=[w_encoder,e4e,hyperinverter]' "
    "domain.weights.e4e=outputs/e4e_faces64/model/e4e.safetensors": Script("--dry-run"),
    "python scripts/benchmark.py": Script("--dry-run"),  # measured on the tiny domain in tests/reports
    "python scripts/benchmark.py --config configs/benchmark/all.yaml publish=docs/performance": Script("--dry-run"),
    "python scripts/benchmark.py --config configs/benchmark/gpu.yaml publish=docs/performance": Script("--dry-run"),
    "python scripts/benchmark.py --config configs/benchmark/sliders.yaml publish=docs/performance": Script("--dry-run"),
    "python scripts/benchmark.py --config configs/benchmark/all.yaml 'runs=[]' 'sides={}' publish=docs/performance": (
        Script(makes="docs/performance.md")
    ),
    "python scripts/reproduce.py photos=FOLDER/faces64_test.zip other_photos=FOLDER/ffhq256_test.zip "
    "'training_photos=FOLDER/faces64_train_*.zip' labels=FOLDER/labels.csv.gz publish=docs/results": Script(
        "--dry-run"
    ),  # half an hour
    # an hour; on the tiny domain in tests/reports
    "python scripts/reproduce.py table1 photos=FOLDER/faces64_test.zip": Script("--dry-run"),
    "python scripts/reproduce.py table2 fig4 fig5 photos=FOLDER/faces64_test.zip labels=FOLDER/labels.csv.gz "
    "shown=my_photos": Script("--dry-run"),
    # tests/reports/test_edit_fid.py measures both on the tiny domain
    "python scripts/reproduce.py edit_fid photos=FOLDER/faces64_test.zip labels=FOLDER/labels.csv.gz "
    "'refine_steps=[0,5]'": Script("--dry-run"),
    "python scripts/reproduce.py refine_curve photos=FOLDER/faces64_test.zip labels=FOLDER/labels.csv.gz": Script(
        "--dry-run"
    ),
    "python scripts/reproduce.py --config configs/reproduce/ffhq.yaml all photos=FOLDER/CelebA-HQ "
    "shown=my_photos": Script("--dry-run"),
    "python scripts/reproduce.py --config configs/reproduce/ffhq_mobile.yaml 'parts=[editability]' "
    "photos=FOLDER/ffhq256_test.zip": Script("--dry-run"),  # an hour
    "python scripts/reproduce.py all photos=FOLDER/faces64_test.zip labels=FOLDER/labels.csv.gz shown=PHOTOS "
    "publish=docs/results": Script("--dry-run"),  # an hour and more
    "python scripts/reproduce.py 'parts=[]' publish=docs/results": Script(makes="docs/results.md"),
    "python scripts/export_model.py model=outputs/phase2_faces64/model output=my_models/shipped": Script(
        "--dry-run"
    ),  # test_scripts.py ships one of the tiny domain
    "python scripts/download.py --list": Script(device=""),
    "python scripts/download.py ffhq_mobile": Script("--dry-run", device=""),  # tests/pretrained fetch small ones
    "python scripts/download.py ffhq": Script("--dry-run", device=""),  # gigabytes, and no network here
    "python scripts/convert.py --inspect hyper_inverter.pt": Script(device=""),
    "python scripts/convert.py stylegan2.pkl hyper_inverter.pt my_models/mine": Script(
        makes="my_models/mine/hyperinverter.safetensors", device=""
    ),
    # docs/new-domain.md: its photos are not in the repository
    "python scripts/train_stylegan2.py --config configs/stylegan2/churches64.yaml "
    "data.root=FOLDER/churches64_train.zip precision=bf16": Script("--dry-run"),
    "python scripts/train_phase1.py --config configs/phase1/churches64.yaml data.root=FOLDER/churches64_train.zip "
    "domain.weights.folder=outputs/stylegan2_churches64/model precision=bf16": Script("--dry-run"),
    "python scripts/train_phase2.py --config configs/phase2/churches64.yaml data.root=FOLDER/churches64_train.zip "
    "domain.weights.folder=outputs/phase1_churches64/model precision=bf16": Script("--dry-run"),
    "python scripts/evaluate.py --config configs/evaluate/churches64.yaml data.root=FOLDER/churches64_test.zip "
    "model=outputs/phase2_churches64/model": Script("--dry-run"),
    "python scripts/analyze.py --config configs/analyze/churches64.yaml data.root=FOLDER/churches64_test.zip "
    "model=outputs/phase2_churches64/model": Script("--dry-run"),
    "python scripts/find_directions.py --config configs/ganspace/churches64.yaml "
    "model=outputs/phase2_churches64/model": Script("--dry-run"),
    "python scripts/edit.py --config configs/edit/churches64.yaml photo.jpg "
    "model=outputs/phase2_churches64/model "
    "'directions=[outputs/ganspace_churches64/pca.safetensors#0:0-10]'": Script("--dry-run"),
    "python scripts/export_model.py --config configs/export/churches64.yaml model=outputs/phase2_churches64/model "
    "output=my_models/churches64": Script("--dry-run"),
    "python scripts/find_directions.py 'directions={forehead: 3:0-3}'": Script(
        "samples=2000 shown=1 images=1 styles=[0-3]", "outputs/ganspace_faces64/directions/forehead.safetensors"
    ),
    "python scripts/learn_direction.py 'differences={mirrored: [photo.jpg, other_photo.jpg]}' "
    "'without={mirrored: [age]}'": Script(makes="outputs/directions_faces64/directions/mirrored.safetensors"),
    "python scripts/learn_direction.py 'predictors={rotation: fsanet_yaw, older: ssrnet_age}' "
    "'without={older: [rotation]}'": Script(
        "samples=60 ends=0.4", "outputs/directions_faces64/directions/older.safetensors"
    ),
    "python scripts/list_directions.py smile age": Script(
        "samples=2 images=1 'judges=[ssrnet_age]'", "outputs/list_faces64/leakage.png"
    ),
    "python scripts/learn_direction.py my_photos labels=labels.csv 'attributes={smile: Smiling}'": Script(
        makes="outputs/directions_faces64/directions/smile.safetensors"
    ),
}


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every code block."""
    return BLOCK.findall((ROOT / page).read_text())


def shell_lines() -> list[str]:
    """Every command of every page, in order; a line that ends in a backslash goes on in the next."""
    lines = []
    for page in PAGES:
        for language, text in blocks(page):
            assert language in ("bash", "python", "text"), f"{page}: a code block must say what it is: {text}"
            if language == "bash":
                lines += [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [" ".join(line.split()) for line in lines]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    astronaut().save(folder / "photo.jpg")
    astronaut().transpose(0).save(folder / "other_photo.jpg")  # 0: mirrored
    save_mp4([astronaut().crop((100, 0, 400, 226))] * 2, folder / "in.mp4")
    photos = write_photos(folder / "my_photos", 12, 96)
    write_labels(folder / "labels.csv", photos)
    (folder / "CelebA-HQ-img").mkdir()
    rows = [(number, f"{number + 1:06}.jpg") for number in range(6)]
    for number, _ in rows:
        cells = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(cells).resize((36, 36)).save(folder / "CelebA-HQ-img" / f"{number}.jpg")
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("".join(f"{i} {i} {original}\n" for i, original in rows))
    (folder / "list_eval_partition.txt").write_text("".join(f"{original} {i % 3}\n" for i, original in rows))
    shutil.copy(ROOT / "configs/domains/faces64.yaml", folder / "my_domain.yaml")
    write_released(folder)
    return folder


def write_released(folder: Path) -> None:
    """Tiny files in the formats in which the big ones are released."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests/pretrained")
        import released_files as released

        written = released.write_releases(folder / "released", *released.church_model())
    shutil.move(written / released.PKL, folder / "stylegan2.pkl")
    shutil.move(written / released.WHOLE, folder / "hyper_inverter.pt")


def test_every_command_is_listed_here():
    lines = shell_lines()
    assert set(lines) - set(COMMANDS) == set(), "a command in README.md or CONTRIBUTING.md has no line in COMMANDS"
    assert set(COMMANDS) - set(lines) == set(), "COMMANDS holds a command that no page shows any more"


@pytest.mark.timeout(900)  # half a minute of computing, on machines that are busy with other things
def test_every_command_of_ours_runs(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    """In one folder and in the order of the page, because later commands use what earlier ones made."""
    if (workspace / "pretrained_models").is_dir():
        monkeypatch.setenv("HYPERINVERTER_MODELS", str(workspace / "pretrained_models"))
    for line in dict.fromkeys(shell_lines()):
        script = COMMANDS[line]
        if script is None:
            continue
        program, path, *words = shlex.split(line.replace("torchrun --nproc-per-node=2 ", "torchrun "))
        # torchrun's two processes are tests/training/test_distributed.py's
        assert program in ("python", "torchrun") and (ROOT / path).is_file(), f"{line}: no such script"
        if script.makes:
            (workspace / script.makes).unlink(missing_ok=True)
        run_script(Path(path).stem, [*words, *shlex.split(f"{script.more} {script.device}")], workspace)
        assert script.makes is None or (workspace / script.makes).is_file(), f"{line}: did not write {script.makes}"


def test_python_blocks_run_one_after_the_other(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(workspace)
    if (workspace / "pretrained_models").is_dir():
        monkeypatch.setenv("HYPERINVERTER_MODELS", str(workspace / "pretrained_models"))
    names: dict = {}
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python":
                exec(compile(text.replace(*FETCHED), page, "exec"), names)
    assert (workspace / "photo.safetensors").stat().st_size < 32 * 1024
    assert (workspace / "reconstruction.png").is_file() and (workspace / "edited.png").is_file()


def test_the_first_examples_use_only_what_the_package_offers():
    examples = [text for language, text in blocks("README.md") if language == "python"][:3]
    used = {name for text in examples for name in re.findall(r"\bhyperinverter\.(\w+)", text)}
    assert used <= set(hyperinverter.__all__) and not any("from hyperinverter" in text for text in examples)
    assert ".invert(" in examples[0] and ".edit(" in examples[1] and ".save(" in examples[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed; the pages' make commands need it")
def test_make_and_shell_commands():
    """`make -n` resolves each target without running it; .ci/run runs `make test` and `make demo` for real."""
    for line in (line for line, script in COMMANDS.items() if script is None):
        if line.startswith("make "):
            done = subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}: {done.stderr}"
        else:
            assert line == "source .venv/bin/activate" and "$(PYTHON) -m venv .venv" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        "pretrained_models/README.md",
        "pretrained_models/nets/README.md",
        "pretrained_models/faces64/README.md",
        "pretrained_models/churches64/README.md",
    ],
)
def test_links_lead_somewhere(page: str):
    for target in LINK.findall((ROOT / page).read_text()):
        if "://" in target:
            continue
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target} does not exist"


def test_named_files_and_settings_exist():
    """Words in backticks that look like files of this repository; x is a name that the reader chooses."""
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:configs|scripts|hyperinverter)/[\w./*-]+)`", text):
        assert "/x." in path or list(ROOT.glob(path.rstrip("/"))), f"README.md names {path}, which is not there"
