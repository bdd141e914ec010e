"""Where model folders and small networks are looked for; every refusal says where that was and what to run."""

import os
import shlex
from difflib import get_close_matches
from pathlib import Path

from hyperinverter.config.names import PUBLISHED_METHODS
from hyperinverter.config.schema import DomainConfig
from hyperinverter.utils.checkout import IS_INSTALLED, REPOSITORY, command_of, download_root
from hyperinverter.utils.text import expanded

PARTS = ("generator", "discriminator", "w_encoder", "hyperinverter")
MORE_PARTS = ("feature_residual",)  # that a model folder may have beside them
OF_GENERATOR, PCA = ("early_head*.safetensors", "directions/*.safetensors"), "pca.safetensors"  # and these
# the trainer that writes each part, for error messages
MADE_BY = {
    "generator": "stylegan2",
    "discriminator": "stylegan2",
    "w_encoder": "phase1",
    "hyperinverter": "phase2",
    "feature_residual": "phase3",
    **dict.fromkeys(PUBLISHED_METHODS, "encoder"),
}


def search_folders() -> list[Path]:
    """Folders in which models and small networks are looked for, first match wins.

    The environment variable HYPERINVERTER_MODELS (several folders separated as in PATH), then `pretrained_models` of
    the repository, then that of the current folder. An installed package has a user's downloads before its own models:
    a model of which a part was downloaded is whole there.
    """
    entries = os.environ.get("HYPERINVERTER_MODELS", "").split(os.pathsep)
    named = [expanded(entry) for entry in entries if entry]
    folders = [
        *named,
        *([download_root()] if IS_INSTALLED else []),
        REPOSITORY / "pretrained_models",
        Path.cwd() / "pretrained_models",
    ]
    return list(dict.fromkeys(folders))


def early_head_file(px: int, resolution: int) -> str:
    """Name of the file, beside a generator of that resolution, of its early head of px pixels."""
    return "early_head.safetensors" if px == resolution // 4 else f"early_head_{px}.safetensors"


def early_heads_beside(generator: Path, resolution: int) -> dict[int, Path]:
    """Side in px -> file of every early head in the folder of a generator's file."""
    sizes = (2**i for i in range(2, resolution.bit_length() - 1))
    files = {px: generator.with_name(early_head_file(px, resolution)) for px in sizes}
    return {px: path for px, path in files.items() if path.is_file()}


def available_models() -> dict[str, Path]:
    """Name -> folder of every model folder in the search folders (one with at least a generator)."""
    result: dict[str, Path] = {}
    for root in search_folders():
        for file in sorted(root.glob("*/generator.safetensors")):
            result.setdefault(file.parent.name, file.parent)
    return result


def check_named(source: object) -> None:
    """Refuse what names no model, such as None, or the text of an unset variable. Raises ValueError: says what does."""
    if not isinstance(source, str | os.PathLike) or not str(source).strip():
        names = ", ".join(available_models()) or "none here"
        raise ValueError(f"the model is {source!r}; give its name ({names}) or the path of its folder")


def find_model_folder(name_or_path: str | Path) -> Path:
    """The folder of a model given by path, or by name in the search folders.

    Raises:
        FileNotFoundError: neither; lists the folders searched and the models found there.
        ValueError: it is no text or path, or empty.
    """
    check_named(name_or_path)
    text = str(name_or_path)
    path = expanded(name_or_path)
    is_plain_name = len(path.parts) == 1 and text not in (".", "..")
    # A plain name beats a folder of that name in the current one (of photos, say) unless that is a model folder.
    if path.is_dir() and (not is_plain_name or (path / "generator.safetensors").is_file()):
        return path
    if path.is_file():
        raise FileNotFoundError(f"{path}: {_not_a_folder(path)}")
    looked = [str(path)]
    if not path.is_absolute():
        result = [root / path for root in search_folders() if (root / path).is_dir()]
        if result:  # a folder of photos may have a model's name
            return next((folder for folder in result if any(folder.glob("*.safetensors"))), result[0])
        looked += [str(root / path) for root in search_folders()]
    if path.is_dir():
        return path
    names = ", ".join(available_models()) or "none"
    close = get_close_matches(text, available_models(), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise FileNotFoundError(
        f"no model {text!r}; {hint}looked for the folder at: {', '.join(dict.fromkeys(looked))}. "
        f"Models found: {names}. Give one of these or a path, or name the folder that holds your models in "
        f"HYPERINVERTER_MODELS"
    )


def _not_a_folder(path: Path) -> str:
    """For a refusal: what to give in place of a file."""
    from hyperinverter.utils.decode import IMAGE_SUFFIXES  # brings a decoder along, which loading does not need

    if path.suffix == ".safetensors":
        return f"is a file; give the model folder that holds it ({path.parent})"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "is an image; give the name of a model, or the path of its folder"
    name = path.name.partition(".")[0] or "model"
    folder = next(iter(search_folders())) / name
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return (
        f"is a file of weights as they were published; convert it once with\n"
        f"  {command_of('convert')} {shlex.quote(str(path))} {shlex.quote(str(folder))}\n"
        f"and give {folder} here in its place"
    )


def find_network_file(filename: str) -> Path | None:
    """A small frozen network (LPIPS, MobileFaceNet, ...) in the search folders or their `nets/`; None when absent."""
    for root in search_folders():
        for candidate in (root / filename, root / "nets" / filename):
            if candidate.is_file():
                return candidate
    return None


def part_file(source: str | Path, part: str, domain_name: str | None = None) -> Path:
    """`source` is the .safetensors file itself, or a model folder (name or path) that holds `part`.safetensors."""
    check_named(source)
    path = expanded(source)
    if path.suffix == ".safetensors":
        if path.is_file():
            return path
        raise FileNotFoundError(f"{path}: no such file; give an existing {part} file or the model folder")
    folder = find_model_folder(source)
    file = folder / f"{part}.safetensors"
    if not file.is_file():
        from hyperinverter.published.reading.files import unpacked  # brings torch along

        if message := unpacked(folder):
            raise FileNotFoundError(f"{folder}: {message}")
        if (folder / "model" / file.name).is_file():
            raise FileNotFoundError(f"{folder}: is a trainer's folder; its model is in {folder / 'model'}: give that")
        command = command_for(part, domain_name or folder.name, folder)
        alone = part == "hyperinverter" and (folder / "w_encoder.safetensors").is_file()
        or_phase1 = ' (Phase I alone is there: method=w_encoder, in Python load(NAME, "w_encoder"))' if alone else ""
        convert = f"{command_of('convert')} FILE {shlex.quote(str(file))}"
        or_released = f"; or convert a released checkpoint: {convert}" if part in PUBLISHED_METHODS else ""
        raise FileNotFoundError(f"{folder}: has no {file.name}{or_phase1}; make it with: {command}{or_released}")
    return file


def command_for(part: str, domain_name: str, folder: Path | None = None) -> str:
    """The command that makes a part, from what `folder` holds; it names the domain's config where there is one."""
    config = f"configs/{MADE_BY[part]}/{domain_name}.yaml"
    given = f"--config {config}" if (REPOSITORY / config).is_file() else "domain=DOMAIN.yaml"
    is_start = folder is not None and MADE_BY[part] != "stylegan2"
    start = f" {shlex.quote(f'domain.weights.folder={folder}')}" if is_start else ""
    method = f" method={part}" if part in PUBLISHED_METHODS else ""
    return f"{command_of('train_' + MADE_BY[part])} {given}{method}{start}"


def _where_weights_may_be(domain_name: str, part: str) -> str:
    """Of a domain without a model folder of its name: its trainers' run folders that hold the part, or the command."""
    trainers = [part] if part in PUBLISHED_METHODS else dict.fromkeys(MADE_BY[each] for each in (*PARTS, *MORE_PARTS))
    runs = [Path("outputs") / f"{trainer}_{domain_name}" / "model" for trainer in trainers]
    there = [run for run in runs if (run / f"{part}.safetensors").is_file()]
    if there:
        return f"Domain {domain_name} was trained here: write domain.weights.folder={there[-1]}"
    run = part if part in PUBLISHED_METHODS else MADE_BY[part]
    return (
        f"Weights of domain {domain_name} that lie elsewhere are named by domain.weights.folder=FOLDER (a trainer's "
        f"are in outputs/{run}_{domain_name}/model); none yet: {command_for(part, domain_name)}"
    )


def weights_file(source: str | Path | DomainConfig, part: str) -> Path:
    """The file of one part: of a domain `weights.<part>`, when named there, else `<part>.safetensors` in its folder.

    Args:
        source: a DomainConfig, or a model folder or file as of `part_file`.
    Raises:
        ValueError: `part` is neither one of PARTS, nor of MORE_PARTS, nor of PUBLISHED_METHODS.
        FileNotFoundError: it is not there; says where it was looked for and which command makes it.
    """
    if part not in (known := (*PARTS, *MORE_PARTS, *PUBLISHED_METHODS)):
        raise ValueError(f"part is {part!r}; write one of {', '.join(known)}")
    if not isinstance(source, DomainConfig):
        return part_file(source, part)
    domain, folder = source, source.weights.folder or source.name
    named = getattr(domain.weights, part)
    if named is None:
        try:
            return part_file(folder, part, domain.name)
        except FileNotFoundError as error:
            if domain.weights.folder is not None:
                raise
            raise FileNotFoundError(f"{error}. {_where_weights_may_be(domain.name, part)}") from None
    path = expanded(named)
    if path.is_file():
        return path
    inside = find_model_folder(folder) / path if not path.is_absolute() and domain.weights.folder else path
    if inside.is_file():
        return inside
    raise FileNotFoundError(f"domain.weights.{part}: {path}: no such file; name an existing one, or leave it out")
