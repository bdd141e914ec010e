"""inspect-image: what pictures and films say of their origin."""

import io
import shlex
from pathlib import Path

from PIL import Image

from hyperinverter.config.model_schema import InspectConfig
from hyperinverter.utils.decode import BRANDS, FORMATS
from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.files import ordinary_bytes
from hyperinverter.utils.provenance import TYPES, Origin, origin_in, origin_of_film
from hyperinverter.utils.text import expanded, printable

KNOWN = [name for name in FORMATS if name not in BRANDS]  # those need decoders that may be absent
FILMS = (".mp4", ".mov", ".m4v")


def inspect_images(config: InspectConfig) -> dict[str, Origin]:
    """Print a line for each file, and return what they say.

    Raises UserError: no file was named, or some are not there or neither picture nor film: told after all the others.
    """
    if not config.files:
        raise UserError("no file was given; name pictures or films")
    origins, faults = {}, []
    for name in config.files:
        try:
            kind, origins[name] = inspect_image(expanded(name))
        except (UserError, FileNotFoundError) as error:
            faults.append(str(error))
        else:
            print(f"{printable(name)}: {kind}; {told(origins[name])}")
    if faults:
        raise UserError("\n".join(faults))
    return origins


def dry_run(config: InspectConfig) -> str:
    return f"{len(config.files)} files would be looked at, and nothing written"


def inspect_image(path: Path) -> tuple[str, Origin]:
    """Format and size in words, and what the file says of its origin.

    Raises FileNotFoundError: no such file. UserError: it is a folder, or neither picture nor film.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the pictures and films in it, as in {shlex.quote(str(path))}/*")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix.lower() in FILMS:
            return "film", origin_of_film(path)
        data = ordinary_bytes(path)
        with Image.open(io.BytesIO(data), formats=KNOWN) as image:  # reads no pixels
            return f"{image.format}, {image.width} x {image.height} px", origin_in(image, data)
    except ImportError as error:
        raise UserError(f"{path}: films need PyAV: pip install 'hyperinverter[video]'") from error
    except (OSError, *DAMAGED, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: neither a picture nor a film that can be read ({reason_of(error)})") from error


def told(origin: Origin) -> str:
    """An origin as a sentence."""
    signed = "; it carries Content Credentials (C2PA), which are not checked here" if origin.is_signed else ""
    if origin.kind is None:
        return f"says nothing of its origin, which proves nothing{signed}"
    by = f", by {printable(origin.tool)}" if origin.tool else ""
    return f"says: {TYPES.get(origin.kind, 'a kind that is not known here')} ({origin.kind}){by}{signed}"
