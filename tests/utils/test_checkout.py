"""What differs between a clone and an installed wheel; tests/test_package.py builds and installs one."""

from pathlib import Path

import pytest

from hyperinverter.pretrained.files import search_folders
from hyperinverter.releases import obtain
from hyperinverter.releases.catalog import download_folder
from hyperinverter.utils import checkout


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a wheel; gives the user's folder of downloads."""
    monkeypatch.delenv("HYPERINVERTER_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    for module in (checkout, "hyperinverter.pretrained.files"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.IS_INSTALLED", True)
    return tmp_path / "hyperinverter"


def test_messages_name_commands_that_are_there(installed: Path, monkeypatch: pytest.MonkeyPatch):
    assert checkout.command_of("train_early_head") == "hyperinverter train early-head"
    assert checkout.command_of("learn_direction") == "hyperinverter learn-direction"
    monkeypatch.setattr(checkout, "IS_INSTALLED", False)
    assert checkout.command_of("train_early_head") == "python scripts/train_early_head.py"


def test_downloads_of_an_installed_package_go_to_the_users_folder(installed: Path, monkeypatch: pytest.MonkeyPatch):
    assert download_folder() == installed == search_folders()[0]
    monkeypatch.setattr(obtain, "PACKAGE", checkout.REPOSITORY)  # as if the shipped models lay inside the package
    monkeypatch.setattr(obtain, "search_folders", lambda: [installed, checkout.REPOSITORY / "pretrained_models"])
    folder = obtain.model_folder("ffhq_mobile")
    assert folder.parent in (installed, checkout.REPOSITORY / "pretrained_models")
    if not (checkout.REPOSITORY / "pretrained_models/ffhq_mobile/generator.safetensors").is_file():
        assert folder == installed / "ffhq_mobile"
