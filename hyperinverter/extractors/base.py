"""What the frozen networks behind losses and metrics share: where their file is, how it is read, and one protocol.

An extractor turns images [N,3,R,R] in [-1,1] into features and measures the distance of two sets of features. Losses
and metrics know nothing else about it. Letters: N images, C channels, D embedding size.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hyperinverter.pretrained.files import find_network_file
from hyperinverter.published.reading import read_published
from hyperinverter.releases.catalog import catalog
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.checks import check_images
from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.state_dicts import misfits


def faces_file(filename: str) -> Path | None:
    """A file of the package `face_recognition_models`; None where the package or the file is absent.

    The package is located, not imported: its import needs pkg_resources, which setuptools 82 dropped.
    """
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0]) / "models" / filename
    return file if file.is_file() else None


def has_package(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


CARRIED = "this project's repository, which carries it in pretrained_models/nets"
Features = Any  # what `features` gives and `distance` takes: one embedding [N,D] or a list of maps [N,C,h,w]


class Extractor(nn.Module):
    """A frozen network with a distance between its features.

    It stays in eval mode whatever a parent's `train()` says (dropout and batch statistics would change the distance),
    and its parameters never get gradients; gradients do flow to the images.
    """

    filenames: ClassVar[tuple[str, ...]] = ()  # files that `find` needs, by the name their publisher gave them
    also_as: ClassVar[tuple[str, ...]] = ()  # other files with the weights of the first, taken where it is absent
    purpose: ClassVar[str] = ""  # what the network is for, as a user would say it
    source: ClassVar[str] = ""  # where a person gets the files
    smallest_px: ClassVar[int] = 1  # smaller images do not reach its deepest features, or say nothing there
    package: ClassVar[tuple[str, str]] = ("torch", "")  # a package that it needs, and for what

    @classmethod
    def find(cls) -> Self:
        """Build the extractor from its files in the search folders.

        Raises UserError: a file is missing or damaged; names it, what it is for, and where to put it. Or its package is
            not installed.
        """
        if (missing := cls.why_missing()) is not None:
            raise UserError(missing)
        paths = [path for name in cls.filenames if (path := place(cls, name)) is not None]
        with errors_named_after(cls, paths):
            return cls(*map(cls.read_file, paths))

    @classmethod
    def why_missing(cls) -> str | None:
        """None when every file and its package are there, else one sentence that names the first missing one."""
        for name in cls.filenames:
            if place(cls, name) is None:
                return missing_message(cls, name)
        name, use = cls.package
        return (
            None if has_package(name) else f"{name} is not installed, which {use}; pip install 'hyperinverter[faces]'"
        )

    @classmethod
    def read_file(cls, path: Path) -> Any:
        """What `__init__` is given of a file."""
        return read_network(path)

    @classmethod
    def file_hashes(cls) -> dict[str, str]:
        """File -> SHA-256 of each that is here: what its features depend on."""
        paths = [path for name in cls.filenames if (path := place(cls, name)) is not None]
        return {path.name: _file_hash(path, path.stat().st_mtime_ns) for path in paths}

    def freeze(self) -> Self:
        """Call at the end of `__init__`."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def features(self, images: Tensor) -> Features:
        """Features of images [N,3,R,R] in [-1,1], float32; differentiable in the images."""
        raise TypeError(f"{type(self).__name__} must define features(images)")

    def distance(self, a: Features, b: Features) -> Tensor:
        """Distance [N] between two results of `features`; 0 for equal ones."""
        raise TypeError(f"{type(self).__name__} must define distance(a, b)")


class Embedding(Extractor):
    """An extractor whose features are one unit vector [N,D] per image; the distance is 1 - cosine."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return 1 - (a * b).sum(dim=1)


@cache
def _file_hash(path: Path, changed_ns: int) -> str:
    """SHA-256 of a file, read once for each time that it changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(filename: str) -> Path | None:
    """The file in the search folders of pretrained models, else where torchvision or the extra `faces` keep theirs."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / filename
    return find_network_file(filename) or (cached if cached.is_file() else faces_file(filename))


def place(extractor: type[Extractor], filename: str) -> Path | None:
    """A file that an extractor needs, or another with the same weights."""
    others = extractor.also_as if filename == extractor.filenames[0] else ()
    return next(filter(None, map(locate, (filename, *others))), None)


def missing_message(extractor: type[Extractor], filename: str) -> str:
    names = {filename, *(extractor.also_as if filename == extractor.filenames[0] else ())}
    entries = [each for each in catalog().values() if {each.file, each.makes} & names]
    entries.sort(key=lambda each: each.makes is None)  # packages first: they need neither account nor browser
    fetch = [f"`{command_of('download')} {' '.join((each.name, *each.needs))}` fetches it; or get" for each in entries]
    return (
        f"{filename} was not found. It is the network for {extractor.purpose}; {(fetch or ['get'])[0]} it from "
        f"{extractor.source} and put it into pretrained_models/nets/ or into a folder named in the environment "
        f"variable HYPERINVERTER_MODELS"
    )


def read_network(path: Path) -> Any:
    """What a file of network weights holds, read without running code from it; its kind is recognised by content.

    Raises UserError: it is damaged, not safe or no weights; names it, what was found and what to do.
    """
    content = read_published(path).content
    if content is None or isinstance(content, str | int | float | complex):  # text would be taken for a file's name
        raise UserError(f"{path}: holds {type(content).__name__}, no weights; fetch the original file")
    return content


@contextmanager
def errors_named_after(extractor: type[Extractor], paths: Sequence[Path]) -> Iterator[None]:
    """What goes wrong inside is reported as a fault of these files: they hold something else than this network."""
    names = " and ".join(map(str, paths))
    try:
        yield
    except UserError as error:
        if any(str(path) in str(error) for path in paths):
            raise
        raise UserError(f"{names}: {error}") from error
    except DAMAGED as error:
        raise UserError(
            f"{names}: not the network for {extractor.purpose} ({reason_of(error)}); fetch the original file"
        ) from error


def load_exactly(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict whose keys must be the network's own; BatchNorm's step counters alone may be absent.

    Raises UserError: keys or shapes differ; names the first ones.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"these weights are not {what}: they are no tensors by name; fetch the original file")
    own = network.state_dict()
    if fault := misfits(own, state):
        raise UserError(f"these weights are not {what}: {fault}; fetch the original file")
    network.load_state_dict({**own, **state})


def check_size(images: Tensor, extractor: type[Extractor]) -> None:
    """Refuse anything but [N,3,R,R] with R at least the extractor's `smallest_px`."""
    check_images(images, name=extractor.__name__)
    if images.shape[-1] < extractor.smallest_px:
        raise ValueError(too_small(images.shape[-1], extractor))


def too_small(pixels: int, extractor: type[Extractor]) -> str:
    return (
        f"{extractor.purpose} needs images of at least {extractor.smallest_px} px, got {pixels} px; leave it out for "
        f"this domain"
    )
