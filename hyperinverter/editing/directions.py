"""Semantic directions in W and moving an Inversion along one: w + γ·d on every style, Δθ kept.

Source: InterFaceGAN (Shen et al., CVPR 2020); HyperInverter, section 4.3. The published code moves by (factor / 2)·d,
so its factor f is γ = f / 2 here. GANSpace's directions (`ganspace`) set a coordinate on some styles instead.
Letters: N images, L styles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.pretrained.reading import read_published
from hyperinverter.utils.errors import UserError

SUFFIXES = (".safetensors", ".npy", ".pt")


@dataclass
class Direction:
    """A unit vector of W with a meaning.

    Attributes:
        vector: [w_dim], length 1; a strength γ is a distance in W. In W+, given as [1, L, w_dim]: one vector per style,
            whose mean squared length is 1.
        info: where it comes from and how good it is; from `learn_direction` among others `projection_std`, the standard
            deviation of w·d over the photos, with which a strength can be compared.
        generator_hash: the generator in whose W it lies; "" when the file does not say.
    """

    name: str
    vector: Tensor
    info: dict = field(default_factory=dict)
    generator_hash: str = ""

    def __post_init__(self) -> None:
        vector = self.vector.detach().float()
        shape = tuple(vector.shape)
        if vector.ndim not in (1, 2, 3) or (vector.ndim > 1 and shape[0] != 1):
            raise ValueError(
                f"direction {self.name!r} has shape {shape}; expected [w_dim] or [1, w_dim], in W+ [1, L, w_dim]"
            )
        rows = vector if vector.ndim == 3 else vector.reshape(1, 1, -1)
        length = rows.square().sum(dim=2).mean().sqrt()
        if not torch.isfinite(length) or length == 0:
            raise ValueError(f"direction {self.name!r} has length {length:.3g}; expected a finite vector other than 0")
        self.vector = (rows if vector.ndim == 3 else rows.flatten()) / length

    @property
    def w_dim(self) -> int:
        return self.vector.shape[-1]

    def move(self, ws: Tensor, gamma: Tensor) -> Tensor:
        """Codes [N, L, w_dim] by γ [N or 1, 1, 1] further along."""
        return ws + gamma * self.vector.to(ws)

    def content(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and config entries of its file."""
        return {"direction": self.vector}, {}


def edit(inversion: Inversion, direction: Direction, strength: float | Tensor) -> Inversion:
    """Move every image of `inversion` by `strength` along `direction`; Δθ stays.

    Args:
        inversion: N images.
        direction: of the same generator.
        strength: γ, a distance in W (paper: ±1 to ±3), one for all or a tensor [N].
    Raises:
        ValueError: the direction has another w_dim or other styles, or there are not N strengths.
    """
    ws = inversion.ws
    if direction.w_dim != ws.shape[2]:
        raise ValueError(
            f"direction {direction.name!r} has {direction.w_dim} numbers, w has {ws.shape[2]}; "
            f"give a direction of this generator"
        )
    if direction.vector.ndim == 3 and direction.vector.shape[1] != ws.shape[1]:
        raise ValueError(
            f"direction {direction.name!r} is for {direction.vector.shape[1]} styles, w has {ws.shape[1]}; "
            f"give a direction of this generator"
        )
    gamma = torch.as_tensor(strength, dtype=ws.dtype, device=ws.device).reshape(-1, 1, 1)
    if len(gamma) not in (1, len(ws)):
        raise ValueError(f"{len(gamma)} strengths for {len(ws)} images; give one, or one per image")
    return inversion.with_ws(direction.move(ws, gamma))  # [N, L, w_dim]


def in_w(strengths: Sequence[float], unit: str, direction: Direction) -> list[float]:
    """Strengths as distances in W (γ). How far W reaches differs between generators; in `std` they compare.

    Args:
        unit: `w`, strengths are distances already, or `std`, standard deviations of w·d over photos.
    Raises:
        UserError: `std`, and the direction's file does not hold that number.
    """
    if unit == "w":
        return list(strengths)
    spread = direction.info.get("projection_std")
    if not spread:
        raise UserError(
            f"direction {direction.name!r} does not say how far photos spread along it (projection_std), which "
            f"strength_unit=std needs; write strength_unit=w, or learn it with scripts/learn_direction.py"
        )
    return [strength * spread for strength in strengths]


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
    from hyperinverter.editing.ganspace import AbsoluteDirection  # stands on this module

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
    from hyperinverter.editing.ganspace import read_pca

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
