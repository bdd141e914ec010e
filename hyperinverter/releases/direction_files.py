"""Where the files of directions are looked for; without PyTorch, so that a wrong name is told before it is loaded."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from hyperinverter.config.load import list_configs, list_domains, load_domain
from hyperinverter.config.model_schema import VideoConfig
from hyperinverter.config.schema import EditConfig
from hyperinverter.pretrained.files import find_model_folder
from hyperinverter.releases.catalog import VECTORS, catalog
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.text import expanded

# of files that have a name in a model folder; a path may have any
SUFFIXES = (".safetensors", ".npy", ".pt", ".npz", ".pkl")
PCA_FILE = "{name}.safetensors"  # directly in a model folder
STYLE_MARK = "style:"  # before the name of a style's channel, in the place of a direction's name


def check_directions(config: EditConfig | VideoConfig) -> None:
    """Refuse names of directions that are not there.

    Where parts of the domain are files of their own, which lie anywhere, it is left to `load_direction`.

    Raises FileNotFoundError: no such direction; lists those there are.
    """
    weights = config.domain.weights
    if config.model is None and any(file for part, file in vars(weights).items() if part != "folder"):
        return
    try:
        folder = find_model_folder(config.model or weights.folder or config.domain.name)
    except FileNotFoundError:  # it is made where it is loaded, or its absence told
        return
    for name in config.edits or getattr(config, "directions", {}):
        if name.startswith(STYLE_MARK):
            continue
        try:
            find_direction(name, folder, config.domain.directions)
        except FileNotFoundError as error:
            # the model may be of another domain that names it, as its files will say
            of_another = any(name in directions_of_domain(known, folder) for known in list_domains())
            if config.model is None or not of_another:
                raise FileNotFoundError(f"{error}{_recipe(config, name, folder)}") from error


def _recipe(config: EditConfig | VideoConfig, name: str, model_folder: Path) -> str:
    """For a refusal: the settings with directions of that model, where `name` is none that was misspelt."""
    own = model_folder.name
    is_misspelt = get_close_matches(name, available_directions(model_folder), cutoff=0.7)  # smlie; no spire is a smile
    if config.edits or is_misspelt or own not in list_configs("configs/edit"):
        return ""
    return f"; --config configs/edit/{own}.yaml has those of this model"


def available_directions(model_folder: str | Path | None) -> list[str]:
    """Names of the directions that a model folder brings along."""
    folder = Path(model_folder) / "directions" if model_folder else None
    if folder is None or not folder.is_dir():
        return []
    return sorted({file.stem for file in folder.iterdir() if file.suffix in SUFFIXES})


def directions_of_domain(name: str, model_folder: Path) -> dict[str, str]:
    """Direction -> file, of the known domain of this name, as far as the model folder has these files."""
    if name not in list_domains():
        return {}
    files = load_domain(name).directions
    return {direction: file for direction, file in files.items() if _of_domain(file, model_folder).is_file()}


def find_direction(text: str, model_folder: str | Path | None, files: Mapping[str, str]) -> tuple[Path, str | None]:
    """The file of a direction, and what stands behind # for one that holds many; arguments as of `load_direction`.

    Raises FileNotFoundError: no such name or file; lists the names there are.
    """
    place, inside = _split(files.get(text, text))
    path = expanded(place)
    beside = [] if model_folder is None else [Path(model_folder)]
    if text in files:
        candidates = [_of_domain(files[text], model_folder)]
    elif inside is not None:  # a file by its path, by its name in the model folder, or as it was downloaded
        downloaded = [each.find() for each in catalog().values() if each.kind == "pca" and place == each.file]
        candidates = [path, *(folder / PCA_FILE.format(name=place) for folder in beside), *filter(None, downloaded)]
    else:
        named = [folder / "directions" / f"{place}{suffix}" for folder in beside for suffix in SUFFIXES]
        candidates = [*named, path] if len(path.parts) == 1 and not path.suffix else [path, *named]
    result = next((candidate for candidate in candidates if candidate.is_file()), None)
    if result is not None:
        return result, inside
    of_domain = [name for name, file in files.items() if _of_domain(file, model_folder).is_file()]
    names = sorted({*available_directions(model_folder), *of_domain})
    what = f"{candidates[0]}: no such direction file"
    if not path.suffix and len(path.parts) == 1 and text not in files:
        where = f"{model_folder}/directions" if model_folder else "no model folder was given"
        what = f"no direction {place!r} ({where})"
    stem = path.stem if text in files else place
    published = [each.name for each in catalog().values() if each.kind in VECTORS and stem == Path(each.file).stem]
    fetch = f"{command_of('download')} {published[0]}; or " if published else ""
    raise FileNotFoundError(
        f"{what}; there are: {', '.join(names) or 'none'}. Give one of these, or a file ({', '.join(SUFFIXES)}); "
        f"{fetch}learn one with {command_of('learn_direction')}"
    )


def _of_domain(file: str, model_folder: str | Path | None) -> Path:
    """Where a domain's direction lies: in the model folder, where there is one."""
    path = expanded(_split(file)[0])
    return path if path.is_absolute() or model_folder is None else Path(model_folder) / path


def _split(place: str) -> tuple[str, str | None]:
    """A file, and what stands behind # for one that holds many directions."""
    file, mark, inside = place.partition("#")
    return (file, inside) if mark and not expanded(place).is_file() else (place, None)
