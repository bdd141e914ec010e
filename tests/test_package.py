"""The wheel: built out of the sdist, installed outside the checkout, and README's first block run with it."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from script_runner import ROOT, astronaut

import hyperinverter
from hyperinverter.config.commands import COMMANDS
from hyperinverter.utils import checkout

MOST_BYTES = 95e6  # of the wheel; PyPI takes 100 MB


def run(*words: str | Path, folder: Path) -> str:
    """A command in a folder outside the checkout, without what this process was told by its environment."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HYPERINVERTER_MODELS")}
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=kept | home, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building needs hatchling, of the extra dev")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment: of the present one it sees the packages, but not this project."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, folder=folder)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_holds_configs_and_models_and_nothing_else(wheel: Path):
    assert wheel.stat().st_size < MOST_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("the list of files that belong to it is git's, and this is no clone")
    files = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    wanted = {name for name in files if name.startswith("hyperinverter/")}
    shipped = (name for name in files if name.startswith(("configs/", "pretrained_models/")))
    left_out = ("*.png", "*.jpg", "pretrained_models/churches64/*")
    wanted |= {f"hyperinverter/shipped/{name}" for name in shipped if not any(fnmatch(name, one) for one in left_out)}
    assert {name for name in names if ".dist-info/" not in name} == wanted


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_installed_wheel_inverts_and_edits_outside_the_checkout(installed: Path, tmp_path: Path):
    astronaut().crop((160, 10, 310, 160)).save(tmp_path / "photo.jpg")
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    told = run(installed / "python", "-c", f"{block}\nprint(hyperinverter.__file__)", folder=tmp_path)
    assert str(installed.parent) in told.splitlines()[-1]
    words = ["photo.jpg", "--directions", "smile", "--strengths=-2,2", "--device", "cpu"]
    run(installed / "hyperinverter", "edit", *words, folder=tmp_path)
    assert (tmp_path / "outputs/edit_faces64/photo/smile_+2.png").is_file()
    assert "hyperinverter train phase1 " in run(
        installed / "hyperinverter", "train", "phase1", "--help", folder=tmp_path
    )
    plan = run(installed / "hyperinverter", "download", "vgg16", "--dry-run", folder=tmp_path)
    assert str(tmp_path / "cache" / "hyperinverter") in plan
    load = "import hyperinverter\ntry: hyperinverter.load('churches64')\nexcept FileNotFoundError as e: print(e)"
    told = run(installed / "python", "-c", load, folder=tmp_path)
    assert "churches64" in told and "HYPERINVERTER_MODELS" in told
    shown = run(installed / "python", "-m", "hyperinverter", "--version", folder=tmp_path)
    assert shown == f"hyperinverter {hyperinverter.__version__}\n"


def texts(path: Path) -> list[ast.Constant]:
    """The strings of a file, without its docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree)
                  if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node for node in strings if id(node) not in docstrings]


def test_messages_name_commands_that_a_wheel_has():
    """A wheel has no scripts/: what a user may read names commands by `command_of`."""
    package = ROOT / "hyperinverter"
    in_a_clone = {package / "utils/checkout.py", *package.glob("reports/*/page.py")}  # docs/*.md are a clone's
    faults = [f"{path.relative_to(ROOT)}:{text.lineno}: {text.value}"
              for path in set(package.rglob("*.py")) - in_a_clone
              for text in texts(path) if "scripts/" in text.value]  # fmt: skip
    assert not faults, "\n".join(faults)


def test_commands_are_named_as_they_can_be_typed(monkeypatch: pytest.MonkeyPatch):
    scripts = [path.stem for path in (ROOT / "scripts").glob("*.py")]
    assert all((ROOT / checkout.command_of(script).removeprefix("python ")).is_file() for script in scripts)
    monkeypatch.setattr(checkout, "IS_INSTALLED", True)
    assert {checkout.command_of(script).removeprefix("hyperinverter ") for script in scripts} == set(COMMANDS)


def test_the_licence_the_citation_and_the_package_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert citation["license"] == "MIT" and 'license = "MIT"' in project
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert citation["version"] == hyperinverter.__version__ and f'version = "{hyperinverter.__version__}"' in project
    assert citation["preferred-citation"]["title"] == "HyperInverter: Improving StyleGAN Inversion via Hypernetwork"


@pytest.mark.parametrize("name", ["faces64", "churches64", "ffhq_mobile"])
def test_model_cards_open_with_what_a_hub_reads(name: str):
    _, head, text = (ROOT / "pretrained_models" / name / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert (
        card["license"] == "other" and "non-commercial" in card["license_name"] and card["license_link"] == "README.md"
    )
    assert card["library_name"] == "hyperinverter" and card["pipeline_tag"] == "image-to-image"
    assert {"gan-inversion", "stylegan2"} <= set(card["tags"]) and text.lstrip().startswith(f"# {name}")
