"""Semantic directions in W and moving an Inversion along one: w + γ·d on every style, Δθ kept.

Source: InterFaceGAN (Shen et al., CVPR 2020); HyperInverter, section 4.3. The published code moves by (factor / 2)·d,
so its factor f is γ = f / 2 here. GANSpace's directions (`ganspace`) set a coordinate on some styles instead.
Letters: N images, L styles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from hyperinverter.published.vectors import Space, laid_out
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import whole_number


class Codes(Protocol):
    """What can be edited: an Inversion, or anything else with codes [N, L, w_dim]."""

    ws: Tensor

    def with_ws(self, ws: Tensor) -> Self: ...


Edited = TypeVar("Edited", bound=Codes)


@dataclass
class Direction:
    """A unit vector of W with a meaning.

    Attributes:
        vector: [w_dim], length 1; a strength γ is a distance in W. Where the styles differ (W+) [1, L, w_dim], whose
            mean squared length is 1. Given in any layout that distinguishes the two, of length other than 0.
        info: where it comes from and how good it is; from `learn_direction` among others `projection_std`, the standard
            deviation of w·d over the photos, with which a strength can be compared.
        generator_hash: the generator in whose W it lies; "" when the file does not say.
    """

    name: str
    vector: Tensor
    info: dict = field(default_factory=dict)
    generator_hash: str = ""

    def __post_init__(self) -> None:
        try:
            vector = laid_out(self.vector, Space())
        except ValueError as error:
            raise ValueError(f"direction {self.name!r} {error}") from error
        length = vector.square().sum(dim=-1).mean().sqrt()
        if not torch.isfinite(length) or length == 0:
            raise ValueError(f"direction {self.name!r} has length {length:.3g}; expected a finite vector other than 0")
        self.vector = vector / length

    @property
    def w_dim(self) -> int:
        return self.vector.shape[-1]

    @property
    def num_ws(self) -> int | None:
        """L of a direction that has a vector per style; None for one vector that serves any number."""
        return self.vector.shape[1] if self.vector.ndim == 3 else None

    @property
    def is_step_in_w(self) -> bool:
        """Whether it adds one vector to w, the same on every style."""
        return self.vector.ndim == 1

    def move(self, ws: Tensor, gamma: Tensor) -> Tensor:
        """Codes [N, L, w_dim] by γ [N or 1, 1, 1] further along."""
        return ws + gamma * self.vector.to(ws)

    def content(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and config entries of its file."""
        return {"direction": self.vector}, {}


def edit(
    inversion: Edited, direction: Direction, strength: float | Tensor, styles: tuple[int, int] | None = None
) -> Edited:
    """Move every image of `inversion` by `strength` along `direction`; Δθ stays.

    Args:
        inversion: N images.
        direction: of the same generator.
        strength: γ, a distance in W (paper: ±1 to ±3), one for all or a tensor [N].
        styles: the first one that moves and the one behind the last; None: all.
    Raises:
        ValueError: the direction has another w_dim or other styles, or there are not N strengths.
    """
    ws = inversion.ws
    space = Space(*ws.shape[1:])
    if direction.w_dim != space.w_dim or direction.num_ws not in (None, space.num_ws):
        result = "x".join(map(str, direction.vector.squeeze().shape))
        raise ValueError(f"direction {direction.name!r} has {result} numbers; the codes here take {space.text}")
    gamma = torch.as_tensor(strength, dtype=ws.dtype, device=ws.device).reshape(-1, 1, 1)
    if len(gamma) not in (1, len(ws)):
        raise ValueError(f"{len(gamma)} strengths for {len(ws)} images; give one, or one per image")
    moved = direction.move(ws, gamma)  # [N, L, w_dim]
    if styles is not None:
        start, end = styles
        moved = torch.cat([ws[:, :start], moved[:, start:end], ws[:, end:]], dim=1)
    return inversion.with_ws(moved)


def style_range(text: str, num_ws: int) -> tuple[int, int]:
    """START-END as two numbers, END excluded.

    Raises:
        UserError: it is no range of L styles.
    """
    start, _, end = text.partition("-")
    first, behind = whole_number(start), whole_number(end)
    if first is None or behind is None or not first < behind <= num_ws:
        raise UserError(
            f"styles: {text!r} is no range of this generator's {num_ws} styles; write START-END, as 0-{num_ws}"
        )
    return first, behind


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
            f"strength_unit=std needs; write strength_unit=w (in Python unit='w'), or learn it with "
            f"{command_of('learn_direction')}"
        )
    return [strength * spread for strength in strengths]
