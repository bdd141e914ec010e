"""Shared by all tests: the tiny domain and folders with its models."""

from pathlib import Path

import pytest
from tiny_model import make_tiny_domain, save_tiny_model

from hyperinverter.config.schema import DomainConfig


@pytest.fixture(scope="session")
def tiny_domain() -> DomainConfig:
    return make_tiny_domain()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder named `micro`. Read-only: tests that change files copy it first."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "micro", make_tiny_domain())


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sizes with other weights."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "micro", make_tiny_domain(), seed=1)
