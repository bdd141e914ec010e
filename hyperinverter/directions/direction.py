"""Semantic directions in W and moving an Inversion along one: w + γ·d on every style, Δθ kept.

Source: InterFaceGAN (Shen et al., CVPR 2020); HyperInverter, section 4.3. The published code moves by (factor / 2)·d,
so its factor f is γ = f / 2 here. GANSpace's directions (`ganspace`) set a coordinate on some styles instead.
Letters: N images, L styles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, ClassVar, Protocol, Self, TypeVar

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


SPAN = "expected START and END, 0 <= START < END"
SIGN = "positive strengths give more of what the name says"
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
        styles: the first one that moves and the one behind the last; None: all.
        adds_vector: whether codes move by `vector`.
        is_one_vector: whether `vector` says where it leads; not where every photo moves its own way.
    """

    name: str
    vector: Tensor
    info: dict = field(default_factory=dict)
    generator_hash: str = ""
    styles: tuple[int, int] | None = None
    adds_vector: ClassVar[bool] = True
    is_one_vector: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            vector = laid_out(self.vector, Space())
        except ValueError as error:
            raise ValueError(f"direction {self.name!r} {error}") from error
        length = vector.square().sum(dim=-1).mean().sqrt()
        if not torch.isfinite(length) or length == 0:
            raise ValueError(f"direction {self.name!r} has length {length:.3g}; expected a finite vector other than 0")
        self.vector = vector / length
        if self.styles is not None and not is_span(self.styles):
            raise ValueError(f"direction {self.name!r} says that it moves the styles {self.styles}; {SPAN}")
        check_numbers(self.name, self.info)

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
        return self.adds_vector and self.vector.ndim == 1 and self.styles is None

    def move(self, ws: Tensor, gamma: Tensor) -> Tensor:
        """Codes [N, L, w_dim] by γ [N or 1, 1, 1] further along."""
        return within(self.styles, ws, ws + gamma * self.vector.to(ws))

    def apply(self, inversion: Edited, gamma: Tensor, styles: tuple[int, int] | None) -> Edited:
        """The images by γ [N or 1, 1, 1] further along, on some styles of W or all."""
        ws = inversion.ws
        return inversion.with_ws(within(styles, ws, self.move(ws, gamma)))  # [N, L, w_dim]

    def content(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and config entries of its file."""
        space = "W" if self.vector.ndim == 1 else "W+"
        styles = {} if self.styles is None else {"styles": list(self.styles)}
        return {"direction": self.vector}, {"space": space, "norm": 1.0, "sign": SIGN, **styles}


def edit(
    inversion: Edited, direction: Direction, strength: float | Tensor, styles: tuple[int, int] | None = None
) -> Edited:
    """Move every image of `inversion` by `strength` along `direction`; Δθ stays.

    Args:
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
    if direction.styles is not None and direction.styles[1] > ws.shape[1]:
        raise ValueError(f"direction {direction.name!r} moves styles {direction.styles}; there are {ws.shape[1]} here")
    return direction.apply(inversion, gamma, styles)


def check_numbers(name: str, info: dict) -> None:
    """Refuse an `info`, of a file of any origin, in which a number that is reckoned with is something else."""
    for key in ("projection_std", "published_strength_in_std"):
        value = info.get(key, 0.0)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
            raise ValueError(f"direction {name!r} says that its {key} is {str(value)[:40]!r}; expected a number")


def is_span(styles: Sequence[Any]) -> bool:
    """Whether a first style and the one behind the last are whole numbers that say so; files may be of any origin."""
    whole = all(isinstance(each, int) and not isinstance(each, bool) for each in styles)
    return whole and len(styles) == 2 and 0 <= styles[0] < styles[1]


def within(styles: tuple[int, int] | None, ws: Tensor, moved: Tensor) -> Tensor:
    """The moved codes [N, L, w_dim] on these styles, those of `ws` on the others."""
    if styles is None:
        return moved
    start, end = styles
    return torch.cat([ws[:, :start], moved[:, start:end], ws[:, end:]], dim=1)


def project_out(direction: Direction, others: Sequence[Direction]) -> Direction:
    """The direction without what it has in common with others, so that it leaves them alone (as far as W is linear).

    Source: InterFaceGAN (Shen et al., CVPR 2020), section 3.3; for several, what is left beside all that they span.

    Raises ValueError: nothing is left, they differ in w_dim or styles, or one moves every photo its own way.
    """
    everyone = (direction, *others)
    for each in everyone:
        check_one_vector(each)
    counts = [1 if each.num_ws is None else each.num_ws for each in everyone]
    num_ws = max(counts)
    if len({each.w_dim for each in everyone}) > 1 or any(count not in (1, num_ws) for count in counts):
        raise ValueError(f"direction {direction.name!r} and those to leave out are of different W")

    def flat(each: Direction) -> Tensor:
        return each.vector.reshape(-1, each.w_dim).expand(num_ws, -1).flatten().double()

    span = torch.stack([flat(each) for each in others], dim=1)  # of less rank where one of them is named twice
    vector = flat(direction)
    left = vector - span @ (torch.linalg.pinv(span) @ vector)
    if left.norm() < 1e-3 * vector.norm():
        raise ValueError(f"direction {direction.name!r} is made of {', '.join(each.name for each in others)} alone")
    info = {key: value for key, value in direction.info.items() if not key.startswith("projection_")}
    info |= {"without": [each.name for each in others], "cosine_to_before": float(left.norm() / vector.norm())}
    vector = left.float().reshape(num_ws, -1)
    return replace(direction, vector=vector[0] if num_ws == 1 else vector[None], info=info)


def check_one_vector(direction: Direction) -> None:
    """Raises ValueError: it moves every photo its own way, so that there is no vector to leave out."""
    if not direction.is_one_vector:
        raise ValueError(
            f"direction {direction.name!r} moves every photo its own way; it cannot be left out of another"
        )


def style_range(text: str, num_ws: int) -> tuple[int, int]:
    """START-END as two numbers, END excluded. Raises UserError: it is no range of L styles."""
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
