"""Shared by all tests: the tiny domain, folders with its models, and a disk that is full."""

import resource
import signal
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


@pytest.fixture
def largest_file():
    """largest_file(bytes): the system lets no file of this process grow beyond, as a full disk would."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)
