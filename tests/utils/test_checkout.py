"""A package installed without its checkout says so instead of only listing folders that are not there."""

from pathlib import Path

import pytest

import hyperinverter
from hyperinverter.config import load_domain
from hyperinverter.utils import checkout


def test_without_the_checkout_refusals_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert checkout.unless_checkout() == ""
    monkeypatch.setattr(checkout, "REPOSITORY", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model 'nobody'.*clone that and run `pip install -e \.` in it"):
        hyperinverter.load("nobody")
    for domain in ("nowhere", "configs/domains/nowhere.yaml"):
        with pytest.raises(ValueError, match=r"no such .*without the configs/ .*`pip install -e \.`"):
            load_domain(domain)
