"""Shared by all tests: the tiny domain, folders with its models, and a disk that is full."""

import gc
import resource
import signal
from pathlib import Path

import pytest
from tiny_model import make_tiny_domain, save_tiny_model

from hyperinverter.config import cli
from hyperinverter.config.schema import DomainConfig


def pytest_collection_finish():
    """What was imported stays to the end: going through it took the collector a fifteenth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_unconfigure():
    """What is left at the end is looked at as ever: libraries tell of leaks there."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _freed_memory_goes_back():
    """A command that a test calls leaves this process alone: other tests measure what memory it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "keep_freed_memory", lambda: True)
        yield


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
    most, ignored = resource.getrlimit(resource.RLIMIT_FSIZE)[1], signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """A limit of files ends with the test that set it: pytest itself may be writing into one, as in `pytest > log`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
