"""What `edit` draws of every photo: places along one direction, or several directions at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hyperinverter.config.model_schema import VideoConfig
from hyperinverter.config.schema import EditConfig
from hyperinverter.directions.direction import Direction, edit, style_range
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.utils.errors import UserError


@dataclass(frozen=True)
class Change:
    """One sheet's way of changing photos.

    Attributes:
        places: how far its pictures are, in units of `steps`.
        steps: directions, and how far along each (γ, a distance in W) is 1.
        unit: behind the places in headings.
        styles: that move, the end excluded; None: all.
    """

    name: str
    places: list[float]
    steps: list[tuple[Direction, float]]
    unit: str = ""
    styles: tuple[int, int] | None = None

    def at(self, inversion: Inversion, place: float) -> Inversion:
        """The photo so far along the direction."""
        ((direction, gamma),) = self.steps
        return edit(inversion, direction, gamma * place, self.styles)

    def title(self, place: float) -> str:
        return f"{self.name} {place:+g}{self.unit}"

    def stem(self, place: float) -> str:
        """End of a picture's name."""
        return f"_{place:+g}"

    def film(self, frames: int) -> list[float]:
        """Places of a film's frames; as many as there are pictures where `frames` is 0."""
        low, high = min(self.places), max(self.places)
        return torch.linspace(low, high, frames).tolist() if frames else sorted(self.places)

    def moves(self) -> dict[str, tuple[Direction, list[float]]]:
        """Name -> direction, and how far its pictures are along it, in W."""
        return {each.name: (each, [gamma * place for place in self.places]) for each, gamma in self.steps}


@dataclass(frozen=True)
class Together(Change):
    """Several directions at once; places are parts of the whole change."""

    def at(self, inversion: Inversion, place: float) -> Inversion:
        whole = inversion
        for direction, gamma in self.steps:
            whole = edit(whole, direction, gamma, self.styles)
        moved = inversion.with_ws(torch.lerp(inversion.ws, whole.ws, place))
        for name, offset in (whole.offsets or {}).items():
            there = (inversion.offsets or {}).get(name, torch.zeros_like(offset))
            moved = moved.with_offset(name, place * (offset - there))
        return moved

    def title(self, place: float) -> str:
        return self.name

    def stem(self, place: float) -> str:
        return ""

    def film(self, frames: int) -> list[float]:
        return torch.linspace(0, 1, frames or 2).tolist()


def changes_of(config: EditConfig, inverter: Inverter) -> list[Change]:
    """One for every direction of `config`, or one for all its `edits`.

    Raises:
        FileNotFoundError: no such direction.
        UserError: one that is named twice or of another generator, or styles that are not there.
    """
    if config.edits:
        return [all_at_once(config, inverter)]
    steps = _steps(config, inverter, dict.fromkeys(config.directions, 1.0))
    if len(steps) < len(config.directions):
        names = ", ".join(config.directions)
        raise UserError(f"directions: {names}: a name is given twice; leave one out or rename its file")
    unit = " sd" if config.strength_unit == "std" else ""
    styles = _styles(config, inverter)
    return [Change(step[0].name, list(config.strengths), [step], unit, styles) for step in steps]


def all_at_once(config: EditConfig | VideoConfig, inverter: Inverter) -> Together:
    """All `edits` of `config`; errors as of `changes_of`."""
    steps = _steps(config, inverter, config.edits)
    parts = [f"{each.name}{wanted:+g}" for (each, _), wanted in zip(steps, config.edits.values(), strict=True)]
    return Together("_".join(parts), [1.0], steps, styles=_styles(config, inverter))


def _styles(config: EditConfig | VideoConfig, inverter: Inverter) -> tuple[int, int] | None:
    return style_range(config.styles, inverter.generator.num_ws) if config.styles else None


def _steps(
    config: EditConfig | VideoConfig, inverter: Inverter, strengths: Mapping[str, float]
) -> list[tuple[Direction, float]]:
    """Directions, and γ of those strengths."""
    mine, settings = inverter.domain.name, config.domain.name
    try:  # a model of another domain has directions of its own
        files = config.domain.directions if mine == settings else None
        result = inverter.moves(strengths, config.strength_unit, files)
    except FileNotFoundError as error:
        if mine == settings:
            raise
        raise FileNotFoundError(
            f"{error}. The model is of domain {mine}, the settings are for {settings}: give the --config of {mine} too"
        ) from error
    names = [direction.name for direction, _ in result]
    if len(set(names)) < len(names):
        raise UserError(f"directions: {', '.join(names)}: a name is given twice; leave one out or rename its file")
    return [(direction, float(gamma)) for direction, gamma in result]
