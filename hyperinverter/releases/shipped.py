"""What the repository itself carries, models and small networks: files, SHA-256, terms, origin (shipped.yaml)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from hyperinverter.config.yaml_text import read_yaml
from hyperinverter.releases.catalog import released_models
from hyperinverter.releases.obtain import GENERATOR
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_text
from hyperinverter.utils.text import counted

LIST = Path(__file__).with_name("shipped.yaml")
NETWORKS = "nets"  # the folder of small networks, which holds downloads too


@dataclass(frozen=True)
class ShippedModel:
    """One model folder, or the folder of small networks; `files` is path in the folder -> SHA-256."""

    name: str
    source: str
    licence: str
    files: dict[str, str]


def shipped_models(path: Path = LIST) -> dict[str, ShippedModel]:
    """Name -> model, as the list has it."""
    content = read_yaml(path, path.name)
    if content.faults:
        raise ValueError(str(content.faults[0]))
    return {name: ShippedModel(name=name, **fields) for name, fields in content.values.items()}


def record_shipped(name: str, folder: Path, path: Path = LIST) -> None:
    """Put the SHA-256 of a folder's weights into the list, in place of the model's earlier ones.

    Raises UserError: no such model is in the list, or the folder holds no weights.
    """
    models = shipped_models(path)
    hashes = _hashes(_known(name, models), folder)
    if not hashes:
        raise UserError(f"{folder}: holds no .safetensors files; give output=FOLDER, the shipped model's folder")
    lines = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for model in models.values():
        files = hashes if model.name == name else model.files
        lines += [f"{model.name}:", f"  source: {model.source}", f"  licence: {model.licence}", "  files:"]
        lines += [f"    {file}: {digest}" for file, digest in sorted(files.items())]
    write_text(path, "\n".join(lines) + "\n")
    print(f"{path.name}: SHA-256 of {counted(len(hashes), 'file')} of {name}")


def _known(name: str, models: dict[str, ShippedModel]) -> ShippedModel:
    if name not in models:
        raise UserError(f"no model {name!r} is shipped; shipped are {', '.join(models)} ({LIST.name})")
    return models[name]


def _hashes(model: ShippedModel, folder: Path) -> dict[str, str]:
    """Of the files that are carried: no network that was fetched, and no generator that others release."""
    if model.name == NETWORKS:
        files = [folder / name for name in model.files if (folder / name).is_file()]
    else:
        files = sorted(folder.rglob("*.safetensors"))
        files = [file for file in files if model.name not in released_models() or file != folder / GENERATOR]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
