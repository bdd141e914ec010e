"""What the package does with a file of each kind, as far as a hostile one can lead it."""

import contextlib
import io
from pathlib import Path

from PIL import Image

from hyperinverter.checkpoint import load_training_state
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import EditConfig
from hyperinverter.data.inspect_image import inspect_image
from hyperinverter.data.sources import open_source
from hyperinverter.directions.files import load_direction
from hyperinverter.editing.learn import read_labels
from hyperinverter.extractors.face_judges import _read_h5
from hyperinverter.inverters import Inversion
from hyperinverter.pretrained.load import load_generator, load_model
from hyperinverter.published import from_published
from hyperinverter.published.reading import read_published
from hyperinverter.reports.paper.ranking import read_votes
from hyperinverter.utils.decode import BadImageError, decode_image, decode_tensor
from hyperinverter.utils.films import Film


def get_ready() -> None:
    """Load the libraries that are loaded on first use: they are no cost of a file."""
    picture, exif = Image.new("RGB", (8, 8)), Image.Exif()
    exif[0x0112] = 6
    for image_format in ("JPEG", "PNG", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, image_format, exif=exif)
        decode_tensor(buffer.getvalue(), "x", 4)


def image(path: Path) -> None:
    decode_image(path.read_bytes(), path.name)


def origin(path: Path) -> None:
    inspect_image(path)


def tensor(path: Path) -> None:
    decode_tensor(path.read_bytes(), path.name, 64)


def archive(path: Path) -> None:
    """Every image; one that is refused is skipped, as the commands do."""
    source = open_source(path)
    for index in range(len(source)):
        with contextlib.suppress(BadImageError):
            source.read(index)


def film(path: Path) -> None:
    for _ in Film.open(path):
        pass


def weights(path: Path) -> None:
    read_published(path)


def w_encoder(path: Path) -> None:
    from_published(path, "w_encoder")


def direction(path: Path) -> None:
    load_direction(path)


def generator(path: Path) -> None:
    load_generator(path)


def model(path: Path) -> None:
    """Of the folder in which the file lies."""
    load_model(path.parent, with_feature_residual=path.stem == "feature_residual")


def inversion(path: Path) -> None:
    Inversion.load(path)


def checkpoint(path: Path) -> None:
    load_training_state(path)


def keras(path: Path) -> None:
    _read_h5(path)


def config(path: Path) -> None:
    load_config(EditConfig, path)


def override(path: Path) -> None:
    load_config(EditConfig, None, [f"strengths={path.read_text()}"])


def votes(path: Path) -> None:
    """For the page that the seed was saved by."""
    key = {"key": "page", "questions": {"editing_0": ["a", "b"]}, "codes": {"a": "e4e", "b": "psp"}, "methods": []}
    read_votes([str(path)], key)


def labels(path: Path) -> None:
    read_labels(path)
