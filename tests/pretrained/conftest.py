"""Shared here: a server of files, and a small church model as its authors would release it."""

from pathlib import Path

import pytest
from file_server import file_server
from released_files import church_model, write_releases


@pytest.fixture
def server():
    with file_server() as running:
        yield running


@pytest.fixture(scope="module")
def church():
    """A network and a discriminator."""
    return church_model()


@pytest.fixture(scope="module")
def files(church, tmp_path_factory) -> Path:
    return write_releases(tmp_path_factory.mktemp("released"), *church)
