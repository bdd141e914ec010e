"""Where dlib's model files are looked for: located without importing the package, None where it is not installed."""

import importlib.util
import sys

from hyperinverter.extractors.base import faces_file


def test_a_file_is_found_without_importing_its_package(monkeypatch, tmp_path):
    (tmp_path / "face_recognition_models" / "models").mkdir(parents=True)
    (tmp_path / "face_recognition_models" / "__init__.py").write_text("raise ImportError('no pkg_resources')")
    (tmp_path / "face_recognition_models" / "models" / "net.dat").write_bytes(b"1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "face_recognition_models", raising=False)
    assert faces_file("net.dat") == tmp_path / "face_recognition_models" / "models" / "net.dat"
    assert faces_file("absent.dat") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert faces_file("net.dat") is None
