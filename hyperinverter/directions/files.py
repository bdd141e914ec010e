"""Directions as files: found by name or path, read without running code, written with the generator they belong to."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from hyperinverter.checkpoint import MODEL_FORMAT, read_model, save_model
from hyperinverter.directions.direction import Direction
from hyperinverter.directions.ganspace import AbsoluteDirection, read_pca
from hyperinverter.directions.mapper import is_mapper, mapper_of
from hyperinverter.directions.style_space import StyleDirection, place_of
from hyperinverter.published.reading import read_published
from hyperinverter.published.vectors import SEFA, Space, as_direction, laid_out
from hyperinverter.releases.direction_files import find_direction
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError, reason_of
from hyperinverter.utils.text import whole_number

WANTED = "give a direction as .npy, .pt or .safetensors"  # in the place of a picture or a text
TEXT_BYTES = 2**24  # a longer text is none of numbers for a direction


def load_direction(
    name_or_path: str | Path,
    model_folder: str | Path | None = None,
    *,
    files: Mapping[str, str] | None = None,
    space: Space | None = None,
    generator_hash: str | None = None,
) -> Direction:
    """A direction by name (from the model folder) or from a file; its vector is scaled to length 1.

    Args:
        name_or_path: a direction's name; a file with one vector in any layout (the published age.pt, a .npy [L, w_dim],
            ...) or a mapper of StyleCLIP; or one of a file with many, FILE#WHICH: of a GANSpace PCA WHICH is a name or
            COMPONENT:START-END (ffhq_pca.pt#lipstick is ffhq_pca.pt#34:10-11, styles 10 to 11, 11 excluded), of SeFa's
            factors a number.
        model_folder: its `directions/NAME.*` are looked through, and of many NAME.safetensors in it.
        files: name -> file relative to the model folder (the domain's `directions` section); wins over the folder.
        space: of the generator: its W and styles, which the direction must fit.
        generator_hash: when given and the file says for which generator it is, the two must agree.
    Raises:
        FileNotFoundError: no such name or file; lists the names there are.
        UserError: unreadable, another size, or another generator's; names both hashes.
    """
    text, files, space = str(name_or_path), dict(files or {}), space or Space()
    path, inside = find_direction(text, model_folder, files)
    try:
        direction = _read(path, space) if inside is None else _read_one_of_many(path, inside, space)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if text in files:
        direction.name = text
    made_for = direction.generator_hash
    if generator_hash and made_for and made_for != generator_hash:
        raise UserError(
            f"{path}: this direction was learned for generator {made_for}, this is generator {generator_hash}: "
            f"learn it again with {command_of('learn_direction')}, or load the model it belongs to"
        )
    return direction


def _read(path: Path, space: Space) -> Direction:
    """What a file of one direction holds, without running code from it.

    Raises ValueError: it holds something else; says what.
    """
    published = read_published(path, wanted=_what_to_give)
    if published.metadata.get("format") != MODEL_FORMAT:
        if is_mapper(published.content):
            return mapper_of(published.content, path.stem, space)
        return Direction(path.stem, as_direction(published.content, space))
    file = read_model(path, "direction")
    about = (file.info, file.requires.get("generator", ""))
    styles = file.config.get("styles")
    if styles is not None:
        styles = tuple(styles) if isinstance(styles, list) else (styles,)
    if is_mapper(file.state):
        made = mapper_of(file.state, path.stem, space)
        return replace(made, info=made.info | file.info, generator_hash=about[1], styles=styles)
    if set(file.state) == {"direction"}:
        if file.config.get("space") == "S":
            vector, where = laid_out(file.state["direction"], space), place_of(file.config)
            return StyleDirection(path.stem, vector, *about, **where)
        return Direction(path.stem, laid_out(file.state["direction"], space), *about, styles)
    if set(file.state) == {"component", "mean"} and {"start", "end"} <= set(file.config):
        state, where = file.state, {key: file.config[key] for key in ("start", "end")}
        direction = AbsoluteDirection(path.stem, state["component"], *about, mean=state["mean"], **where)
        if space.w_dim not in (None, direction.w_dim):
            raise ValueError(f"is a direction of a W of {direction.w_dim} numbers, this generator's has {space.w_dim}")
        return direction
    raise ValueError(f"holds tensors {sorted(file.state)}; expected one named 'direction'")


def _what_to_give(path: Path) -> str:
    """In the place of a picture or a text; where the text holds numbers, how they become a direction."""
    data = path.read_bytes() if path.stat().st_size <= TEXT_BYTES else b""
    if data.lstrip()[:1] in (b"[", b"{"):
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            return f"as JSON it is damaged ({reason_of(error)}): write it again, or {WANTED}"
        key = f"[{next(iter(content))!r}]" if isinstance(content, dict) and content else ""
        read = f"json.load(open({path.name!r})){key}"
    else:
        try:
            [float(word) for word in data.replace(b",", b" ").split()]
        except ValueError:
            return WANTED
        read = f"numpy.loadtxt({path.name!r}{', delimiter=' + repr(',') if b',' in data else ''})"
    return f"{WANTED}; its numbers become one by numpy.save({path.stem + '.npy'!r}, {read})"


def _read_one_of_many(path: Path, inside: str, space: Space) -> Direction:
    """A direction of a PCA, or a column of SeFa's factors."""
    content = read_published(path).content
    factors = content.get(SEFA) if isinstance(content, dict) else None
    if not isinstance(factors, Tensor) or factors.ndim != 2:
        return read_pca(path, space).named(inside)
    number = whole_number(inside)
    if number is None or number >= factors.shape[1]:
        raise ValueError(f"holds {factors.shape[1]} directions of SeFa; write a number below that behind #")
    info = {"method": "SeFa: a factor of the styles' matrices", "source": path.name, "component": number}
    return Direction(f"sefa_{number}", laid_out(factors[:, number], space), info)


def save_direction(direction: Direction, path: str | Path, *, domain: str = "", resolution: int | None = None) -> str:
    """Write a direction as a model file of kind "direction"; returns its hash."""
    state, more = direction.content()
    config = {"domain": domain, "resolution": resolution, "w_dim": direction.w_dim, "name": direction.name, **more}
    requires = {"generator": direction.generator_hash} if direction.generator_hash else {}
    return save_model(path, state, kind="direction", config=config, requires=requires, info=direction.info)
