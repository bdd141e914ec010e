"""Directions as files: found by name or path, read without running code, written with the generator they belong to."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.ganspace import AbsoluteDirection, read_pca
from hyperinverter.pretrained.reading import read_published
from hyperinverter.utils.errors import UserError

SUFFIXES = (".safetensors", ".npy", ".pt")


def available_directions(model_folder: str | Path | None) -> list[str]:
    """Names of the directions that a model folder brings along."""
    folder = Path(model_folder) / "directions" if model_folder else None
    if folder is None or not folder.is_dir():
        return []
    return sorted({file.stem for file in folder.iterdir() if file.suffix in SUFFIXES})


def load_direction(
    name_or_path: str | Path,
    model_folder: str | Path | None = None,
    *,
    files: Mapping[str, str] | None = None,
    w_dim: int | None = None,
    generator_hash: str | None = None,
) -> Direction:
    """A direction by name (from the model folder) or from a file; its vector is scaled to length 1.

    Args:
        name_or_path: a direction's name; a .safetensors, .npy or .pt file with one vector [w_dim] or [1, w_dim] (the
            published age.pt), in W+ [1, L, w_dim]; or one direction of a GANSpace PCA, FILE#NAME or
            FILE#COMPONENT:START-END: ffhq_pca.pt#lipstick is ffhq_pca.pt#34:10-11 (styles 10 to 11, 11 excluded).
        model_folder: its `directions/NAME.*` are looked through.
        files: name -> file relative to the model folder (the domain's `directions` section); wins over the folder.
        w_dim: when given, the vector must have this many numbers.
        generator_hash: when given and the file says for which generator it is, the two must agree.
    Raises:
        FileNotFoundError: no such name or file; lists the names there are.
        UserError: unreadable, another size, or another generator's; names both hashes.
    """
    text, files = str(name_or_path), dict(files or {})
    place, inside = _split(files.get(text, text))
    path = Path(place).expanduser()
    if text in files:
        path = path if path.is_absolute() or model_folder is None else Path(model_folder) / path
    elif path.suffix not in SUFFIXES:
        path = _in_folder(place, model_folder, files)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such direction file; give an existing one ({', '.join(SUFFIXES)}) or the name of one of: "
            f"{', '.join(available_directions(model_folder)) or 'none'}; scripts/learn_direction.py makes them"
        )
    direction = _read(path) if inside is None else _read_pca_direction(path, inside)
    if text in files:
        direction.name = text
    if w_dim is not None and direction.w_dim != w_dim:
        raise UserError(
            f"{path}: direction has {direction.w_dim} numbers, this model's w has {w_dim}; "
            f"give a direction that was learned for this generator"
        )
    made_for = direction.generator_hash
    if generator_hash and made_for and made_for != generator_hash:
        raise UserError(
            f"{path}: this direction was learned for generator {made_for}, this is generator {generator_hash}: "
            f"learn it again with scripts/learn_direction.py, or load the model it belongs to"
        )
    return direction


def _split(place: str) -> tuple[str, str | None]:
    """A file, and what stands behind # for one that holds many directions."""
    file, mark, inside = place.partition("#")
    return (file, inside) if mark and not Path(place).expanduser().is_file() else (place, None)


def _in_folder(name: str, model_folder: str | Path | None, files: Mapping[str, str]) -> Path:
    names = sorted({*available_directions(model_folder), *files})
    if model_folder is not None and name in names:
        for suffix in SUFFIXES:
            candidate = Path(model_folder) / "directions" / f"{name}{suffix}"
            if candidate.is_file():
                return candidate
    where = f"{model_folder}/directions" if model_folder else "no model folder was given"
    raise FileNotFoundError(
        f"no direction {name!r} ({where}); there are: {', '.join(names) or 'none'}. Give one of these, a file "
        f"({', '.join(SUFFIXES)}), or learn one with scripts/learn_direction.py"
    )


def _read(path: Path) -> Direction:
    """What a file of one direction holds, without running code from it."""
    try:
        if path.suffix == ".safetensors":
            file = read_model(path, "direction")
            about = (file.info, file.requires.get("generator", ""))
            if set(file.state) == {"direction"}:
                return Direction(path.stem, file.state["direction"], *about)
            if set(file.state) == {"component", "mean"} and {"start", "end"} <= set(file.config):
                state, where = file.state, {key: file.config[key] for key in ("start", "end")}
                return AbsoluteDirection(path.stem, state["component"], *about, mean=state["mean"], **where)
            raise UserError(f"{path}: holds tensors {sorted(file.state)}; expected one named 'direction'")
        content = read_published(path).content
        if isinstance(content, dict) and {"mean", "comp", "std"} <= set(content):
            raise UserError(f"{path}: holds a PCA with many directions; name one, such as {path.name}#34:10-11")
        if not isinstance(content, Tensor):
            raise UserError(f"{path}: holds {type(content).__name__}; expected one tensor [w_dim] or [1, w_dim]")
        return Direction(path.stem, content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _read_pca_direction(path: Path, inside: str) -> Direction:
    try:
        return read_pca(path).named(inside)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def save_direction(direction: Direction, path: str | Path, *, domain: str = "", resolution: int | None = None) -> str:
    """Write a direction as a model file of kind "direction"; returns its hash."""
    state, more = direction.content()
    config = {"domain": domain, "resolution": resolution, "w_dim": direction.w_dim, "name": direction.name, **more}
    requires = {"generator": direction.generator_hash} if direction.generator_hash else {}
    return save_model(path, state, kind="direction", config=config, requires=requires, info=direction.info)
