"""One reader for every container."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class PublishedFile:
    """A file as read.

    Attributes:
        path: where it lies.
        container: nvidia_pkl | torch | safetensors | npz.
        content: plain types, tensors and (nvidia_pkl) NetworkStubs, nested as in the file.
        sha256: of the file's bytes, 64 hex digits.
    """

    path: Path
    container: str
    content: Any
    sha256: str


def read_published(path: str | Path) -> PublishedFile:
    """To be written by the helper who owns this file."""
    raise NotImplementedError
