"""Where configs/ and pretrained_models/ are: beside the package in a clone, inside it in an installed wheel."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = PACKAGE / "shipped"  # only a wheel has it: the build puts both folders there
IS_INSTALLED = SHIPPED.is_dir()
REPOSITORY = SHIPPED if IS_INSTALLED else PACKAGE.parent


def download_root() -> Path:
    """Where downloads go unless HYPERINVERTER_MODELS says: `pretrained_models` of a clone, else a user's own folder."""
    if not IS_INSTALLED:
        return REPOSITORY / "pretrained_models"
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hyperinverter"


def command_of(script: str) -> str:
    """How messages write a command: `python scripts/train_phase1.py` in a clone, else `hyperinverter train phase1`."""
    if not IS_INSTALLED:
        return f"python scripts/{script}.py"
    return "hyperinverter " + script.replace("_", "-").replace("train-", "train ")
