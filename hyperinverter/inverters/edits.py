"""Edits of what a method inverted, along directions of its generator's W."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor

from hyperinverter.config.rules import strength_fault
from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.utils.errors import UserError

if TYPE_CHECKING:  # loaded where directions are looked for
    from hyperinverter.directions import Direction


class Edits:
    """What lets a method's Inversions be edited. The class beside it gives the fields, and `_check`."""

    generator: Generator
    domain: DomainConfig
    folder: Path
    generator_hash: str
    if TYPE_CHECKING:

        def _check(self, inversion: Inversion, allow_other_model: bool) -> None: ...

    @property
    def directions(self) -> list[str]:
        """Names of the edits that the model brings along, as `edit` takes them."""
        from hyperinverter.releases.direction_files import available_directions

        files = {name: file.partition("#")[0] for name, file in self._files().items()}  # FILE#WHICH: one of many
        named = [name for name, file in files.items() if (self.folder / file).is_file()]
        return sorted({*named, *available_directions(self.folder)})

    def _files(self) -> Mapping[str, str]:
        """Direction -> file, of the config, or of the domain that the model's files name."""
        from hyperinverter.releases.direction_files import directions_of_domain

        return self.domain.directions or directions_of_domain(self.domain.name, self.folder)

    def direction(self, name: str | Path, files: Mapping[str, str] | None = None) -> "Direction":
        """A direction of this model's W, by name or from a file; see `directions.load_direction`.

        style:LAYER:CHANNEL is one channel of a layer's style, see `directions.style_space`.
        """
        from hyperinverter.directions import load_direction
        from hyperinverter.directions.style_space import style_direction
        from hyperinverter.published.vectors import Space
        from hyperinverter.releases.direction_files import STYLE_MARK

        if str(name).startswith(STYLE_MARK):
            try:
                return style_direction(str(name), self.generator, self.generator_hash)
            except ValueError as error:
                raise UserError(str(error)) from error
        return load_direction(
            name,
            self.folder,
            files=self._files() if files is None else files,
            space=Space.of(self.generator),
            generator_hash=self.generator_hash,
        )

    def in_w(self, strengths: Sequence[float], unit: str, direction: "Direction") -> list[float]:
        """Strengths as distances in W; see `directions.in_w`. A spread that the file does not hold is measured here."""
        from hyperinverter.directions.direction import in_w
        from hyperinverter.releases.writing import spread_along

        if unit == "std" and not direction.info.get("projection_std"):  # of others' files
            direction.info |= spread_along(self.generator, direction.vector)
        return in_w(strengths, unit, direction)

    def edit(
        self,
        inversion: Inversion,
        strengths: Mapping[str | Path, float | Tensor] | None = None,
        /,
        *,
        unit: str = "std",
        styles: tuple[int, int] | None = None,
        **named: float | Tensor,
    ) -> Inversion:
        """The same photos edited; Δθ stays.

            model.edit(inversion, smile=2, age=-1).images

        Args:
            inversion: by this model; for many edits of it give `prepare(inversion)`.
            strengths: as `named`, for directions whose names are no words of Python: a file, `pca#34:10-11`.
            unit: `std`, standard deviations over photos; or `w`, distances in W (the paper's ±1 to ±3).
            styles: the first one that moves and the one behind the last, 0 the coarsest; None: all.
            named: direction -> strength, one for all photos or a tensor [N]; several add up.
        Raises:
            FileNotFoundError: no such direction; lists those there are.
            UserError: another model made the Inversion, or a direction is another generator's or has no `std`.
            ValueError: no direction, another unit, or a strength that is no number or beyond any sense.
        """
        from hyperinverter.directions import edit

        self._check(inversion, allow_other_model=False)
        wanted: dict[str | Path, float | Tensor] = dict([*(strengths or {}).items(), *named.items()])
        if not wanted:
            there = ", ".join(self.directions) or "none"
            raise ValueError(f"no direction is given; write, say, edit(inversion, smile=2). There are: {there}")
        if unit not in ("std", "w"):
            raise ValueError(f"unit is {unit!r}; write std or w")
        for direction, gamma in self.moves(wanted, unit):
            inversion = edit(inversion, direction, gamma, styles)
        return replace(inversion, model=self)

    def moves(
        self,
        strengths: Mapping[str, float] | Mapping[str | Path, float | Tensor],
        unit: str = "std",
        files: Mapping[str, str] | None = None,
    ) -> "list[tuple[Direction, float | Tensor]]":
        """Directions, and how far to go along each in W; arguments and errors as of `edit` and `direction`."""
        result: list[tuple[Direction, float | Tensor]] = []
        for name, strength in strengths.items():
            if isinstance(strength, Real) and not isinstance(strength, bool):
                strength = float(strength)  # NumPy's numbers too
            elif not isinstance(strength, Tensor):
                raise ValueError(f"{name} is {strength!r}; write a number, or a tensor with one per photo")
            each = strength.flatten().tolist() if isinstance(strength, Tensor) else [strength]
            if fault := next(filter(None, map(strength_fault, each)), None):
                raise ValueError(f"{name} {fault}")
            direction = self.direction(name, files)
            (gamma,) = self.in_w([cast(float, strength)], unit, direction)  # a tensor is scaled as a number is
            result.append((direction, gamma))
        return result
