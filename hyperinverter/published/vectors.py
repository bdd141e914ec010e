"""Directions and PCAs of W in the files that people have: every layout of a vector read as one of two.

Files of no network: one vector of W or one per style (InterFaceGAN and its editors), mean, components and deviations of
a PCA (GANSpace), the factors of SeFa. Letters: L styles, K components.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.models.stylegan2 import Generator
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.safetensors_io import write_tensors
from hyperinverter.utils.state_dicts import outline

PCA = ("mean", "comp", "std")  # of the published ffhq_pca.pt
CACHE = ("lat_mean", "lat_comp", "lat_stdev")  # of the .npz that GANSpace itself writes
SEFA = "eigvec"  # of the factor.pt that closed-form factorisation writes: [w_dim, K], one direction per column
ANOTHER_W = 0.1  # squared distance from w_avg to a PCA's mean, in its variance: 0.0002 on its own W, 1.5 on another


@dataclass(frozen=True)
class Space:
    """The W of a generator; what is None is not known and not asked for."""

    num_ws: int | None = None
    w_dim: int | None = None
    w_avg: Tensor | None = None  # [w_dim]

    @classmethod
    def of(cls, generator: Generator) -> "Space":
        mean = getattr(generator.mapping, "w_avg", None)
        return cls(generator.num_ws, generator.w_dim, mean if mean is not None and mean.any() else None)

    @property
    def text(self) -> str:
        """The two readings of a direction."""
        w_dim, num_ws = self.w_dim or "w_dim", self.num_ws or "L"
        return f"{w_dim} numbers (one vector for all styles) or {num_ws} x {w_dim} (one vector per style)"


def as_direction(content: Any, space: Space) -> Tensor:
    """The direction that a file holds: [w_dim], or [1, L, w_dim] where the styles differ.

    Args:
        content: a tensor [w_dim], [L, w_dim], or flattened to L*w_dim, with any dimensions of 1 before or between; or a
            mapping with one such tensor.
        space: of the generator. Without it a flattened direction of W+ counts as one of W.
    Raises:
        ValueError: it is something else, which is named, or has another size; says both readings.
    """
    if isinstance(content, Mapping):
        content = _only(content)
    if not isinstance(content, Tensor):
        raise ValueError(f"holds {outline(content)}; expected one tensor of {space.text}")
    return laid_out(content, space)


def laid_out(vector: Tensor, space: Space) -> Tensor:
    """See `as_direction`; of equal styles one is kept."""
    if vector.is_complex():
        raise ValueError("holds complex numbers; a direction has real ones")
    rows = vector.detach().float().squeeze()
    num_ws, w_dim = space.num_ws, space.w_dim
    if rows.ndim <= 1:
        rows = rows.reshape(-1, w_dim) if w_dim and rows.numel() % w_dim == 0 else rows.reshape(1, -1)
    if rows.ndim != 2 or (w_dim or rows.shape[1]) != rows.shape[1] or len(rows) not in (1, num_ws or len(rows)):
        reading = "; ".join(_readings(vector.squeeze().shape, rows))
        raise ValueError(
            f"has shape {tuple(vector.shape)}{reading and f', {reading}'}; this generator takes {space.text}"
        )
    return rows[0] if bool((rows == rows[0]).all()) else rows[None]


def _readings(shape: Sequence[int], rows: Tensor) -> Iterator[str]:
    """For a refusal: what a vector of another size could be."""
    if len(shape) <= 1:
        yield f"as one vector of a W of {rows.numel()} numbers"
    if rows.ndim == 2 and len(rows) > 1:
        styles, numbers = rows.shape
        is_usual = styles % 2 == 0 and 4 <= styles <= 20
        made_for = f" (a generator of {2 ** (styles // 2 + 1)} px)" if is_usual else ""
        yield f"as {styles} styles of {numbers} numbers{made_for}"


def _only(content: Mapping[str, Any]) -> Any:
    """The one tensor of a mapping.

    Raises ValueError: there is none, or there are several; PCAs and factors are named, with how to take one of theirs.
    """
    if is_pca(content):
        raise ValueError("holds a PCA with many directions; name one behind the file, as FILE#34:10-11")
    if SEFA in content:
        raise ValueError("holds SeFa's factors, one direction per column; name one behind the file, as FILE#0")
    if "act_comp" in content:
        raise ValueError("holds a cache of GANSpace without components of the latent space (lat_comp)")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) != 1:
        raise ValueError(f"holds {outline(content)}; expected one tensor, a direction")
    return next(iter(tensors.values()))


def is_pca(content: Any) -> bool:
    """Whether a file's content is a PCA with many directions."""
    return isinstance(content, Mapping) and any(
        all(isinstance(content.get(name), Tensor) for name in names) for names in (PCA, CACHE)
    )


def pca_of(content: Any, space: Space) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [w_dim], components [K, w_dim] and standard deviations [K] of a PCA.

    Args:
        content: as published (mean, comp, std), or the cache that GANSpace writes (lat_mean, lat_comp, lat_stdev).
        space: of the generator that it must be of.
    Raises:
        ValueError: it is no PCA, of another W, or not finite.
    """
    if not is_pca(content):
        raise ValueError(f"holds {outline(content)}; expected the tensors mean, comp and std of a PCA of W")
    names = PCA if all(name in content for name in PCA) else CACHE
    mean, components, stds = (content[name].detach().float() for name in names)
    message = ", ".join(f"{name} {tuple(content[name].shape)}" for name in names)
    mean, stds = mean.flatten(), stds.flatten()
    count, w_dim = len(stds), len(mean)
    if count == 0 or components.shape not in ((count, w_dim), (count, 1, w_dim)):
        raise ValueError(f"a PCA with {message}; expected mean [1, w_dim], comp [K, 1, w_dim], std [K]")
    if not (torch.isfinite(stds).all() and stds.all()):
        raise ValueError("a PCA with a standard deviation that is 0 or not finite")
    if space.w_dim not in (None, w_dim):
        raise ValueError(f"a PCA of a W of {w_dim} numbers, this generator's W has {space.w_dim}")
    if space.w_avg is not None:
        distance = (space.w_avg.detach().float().cpu() - mean).square().sum() / stds.square().sum()
        if distance > ANOTHER_W:
            raise ValueError(
                f"a PCA of another generator's W: its mean is {distance.sqrt():.2f} standard deviations away from "
                f"this generator's w_avg (its own: 0.02); give the PCA of this generator, or make one with "
                f"{command_of('find_directions')}"
            )
    return mean, components.reshape(count, w_dim), stds


def write_pca(path: str | Path, mean: Tensor, components: Tensor, stds: Tensor, generator_hash: str) -> None:
    """A .safetensors file under the published names and in the published shapes, with the generator it belongs to."""
    tensors = {"mean": mean[None], "comp": components[:, None], "std": stds}
    write_tensors(path, tensors, {"generator": generator_hash})
