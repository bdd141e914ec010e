"""`Inversion`, the value that every method returns and that render, edit, interpolation, metrics and the app take.

A latent code per style and, for methods that also change the generator, how: as tokens (Δθ of each target layer is
exactly affine in a token, so 26 tokens of 256 numbers stand for 90 MiB of Δθ) or as dense residuals. Phase III adds a
small residual of the generator's features.
Letters: N images, L styles, D token size; O, I, k output channels, input channels, kernel size of a convolution.
"""

import builtins
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.inverters.inversion_file import read_inversion, write_inversion
from hyperinverter.models.residuals import ChannelScales, FeatureCode, Residuals
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import counted

Offsets = dict[str, Tensor] | None  # of edits of single channels: parameter name of a style's bias -> [N, C]


def with_offsets(residuals: Residuals | None, offsets: Offsets) -> Residuals | None:
    """Residuals with the offsets added to what there is for the same biases."""
    if not offsets:
        return residuals
    there = dict(residuals or {})
    for name, offset in offsets.items():
        there[name] = offset + old if isinstance(old := there.get(name), Tensor) else offset
    return there


@dataclass(repr=False)
class Inversion:
    """N inverted images.

    Attributes:
        ws: latent codes, [N, L, w_dim].
        tokens: target layer -> [N, D], dimensionless; None when the generator is used as it is.
        residuals: parameter name -> [N, *shape of the parameter], such as [N, O, I, k, k], added to the stored
            parameter, or `ChannelScales`, which multiply it; a method gives tokens or these.
        offsets: parameter name of a style's bias -> [N, C], added to the layer's style by edits of single channels.
        features: layer -> residual of its features, by the method phase3; None: there is none.
        model_name: the model that made it, for people.
        model_hash: hash over that model's weights; tokens mean nothing to another model.
        generator_hash: hash of its generator alone; enough to render ws and residuals.
        info: what else the result depends on, for people: method, steps, perceptual network; plain JSON values.
        prepared: the weights that tokens or residuals stand for, from `Inverter.prepare`; `with_ws`, slices and `to`
            keep them, joining, interpolation and files leave them out.
        model: the method that made it, which draws `images`; files and copies leave it out.
    """

    ws: Tensor
    tokens: dict[str, Tensor] | None = None
    residuals: Mapping[str, Tensor | ChannelScales] | None = None
    offsets: dict[str, Tensor] | None = field(default=None, kw_only=True)
    features: dict[str, FeatureCode] | None = field(default=None, kw_only=True)
    model_name: str = ""
    model_hash: str = ""
    generator_hash: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    prepared: Residuals | None = field(default=None, repr=False, compare=False)
    model: Any = field(default=None, repr=False, compare=False)  # an Inverter

    def __post_init__(self) -> None:
        if self.ws.ndim != 3:
            raise ValueError(f"ws has shape {tuple(self.ws.shape)}; expected [N, L, w_dim]")
        if self.tokens is not None and self.residuals is not None:
            raise ValueError("an Inversion has tokens or residuals, not both; decode the tokens and add them up")
        for what, ndim in (("tokens", (2,)), ("residuals", range(1, 6)), ("offsets", (2,))):
            values = getattr(self, what)
            for name, value in (values or {}).items():
                value = value.scales if isinstance(value, ChannelScales) else value
                if value.ndim not in ndim or len(value) != len(self.ws):
                    raise ValueError(f"{what}[{name!r}] has shape {tuple(value.shape)}; expected [{len(self.ws)}, ...]")
        for name, code in (self.features or {}).items():
            if code.numbers.ndim != 4 or len(code.numbers) != len(self.ws) or code.ws.shape != self.ws.shape:
                shapes = f"{tuple(code.numbers.shape)} at codes {tuple(code.ws.shape)}"
                raise ValueError(f"features[{name!r}] has shape {shapes}; expected [{len(self.ws)}, c, p, p] and ws's")

    def __repr__(self) -> str:
        """Sizes and origin; the numbers of an Inversion fill pages."""
        how = "the generator as it is"
        if self.tokens is not None:
            how = f"{len(self.tokens)} tokens of {next(iter(self.tokens.values()), self.ws[0]).shape[-1]} numbers"
        elif self.residuals is not None:
            scaled = any(isinstance(value, ChannelScales) for value in self.residuals.values())
            how = f"{len(self.residuals)} " + ("weights scaled per channel" if scaled else "weight residuals")
        for layer, code in (self.features or {}).items():
            how += f", {code.numbers[0].numel()} numbers at {layer}"
        made = f"{self.model_name} {self.model_hash}".strip() or "an unknown model"
        count = counted(len(self), "image")
        return f"Inversion({count} by {made}: codes {list(self.ws.shape)}, {how})"

    def __getstate__(self) -> dict[str, Any]:
        """Without model and images, which a copy or a pickle would carry along."""
        return {name: value for name, value in vars(self).items() if name != "images"} | {"model": None}

    @cached_property
    def images(self) -> Tensor:
        """What it shows, [N, 3, R, R], nominally in [-1, 1]; drawn when first asked for, and kept.

        Raises UserError: it came from a file and belongs to no model yet.
        """
        if self.model is None:
            raise UserError(
                f"this Inversion came without its model ({self.model_name or 'unknown'}): load that and write "
                f"model.render(inversion)"
            )
        return self.model.render(self)

    def __len__(self) -> int:
        return len(self.ws)

    def __getitem__(self, index: int | slice) -> "Inversion":
        """Image `index` as an Inversion of one, or a slice of several."""
        if not isinstance(index, slice):
            index = operator.index(index)  # NumPy's whole numbers too
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of an Inversion of {len(self)}")
            index = slice(index % len(self), index % len(self) + 1)
        n = len(self)
        # What the images of a batch share has one row for all of them.
        return self._map(lambda tensor: tensor[index] if len(tensor) == n else tensor)

    def __iter__(self) -> "Iterator[Inversion]":
        return (self[i] for i in range(len(self)))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Inversion":
        def one(value: Tensor | tuple) -> Tensor | tuple:
            return type(value)(*map(change, value)) if isinstance(value, tuple) else change(value)

        def each(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
            return None if values is None else {name: one(value) for name, value in values.items()}

        names = ("tokens", "residuals", "offsets", "features", "prepared")
        parts: dict[str, Any] = {name: each(getattr(self, name)) for name in names}
        return replace(self, ws=change(self.ws), **parts)

    @property
    def has_weights(self) -> bool:
        """Whether it changes the generator's weights."""
        return self.tokens is not None or self.residuals is not None

    def to(self, device: torch.device | str) -> "Inversion":
        return self._map(lambda tensor: tensor.to(device))

    def float(self) -> "Inversion":
        """In float32, whatever its method computed in."""
        return self._map(torch.Tensor.float)

    def with_ws(self, ws: Tensor) -> "Inversion":
        """The same images with other codes [N, L, w_dim] and their own Δθ: what an edit is."""
        if ws.shape != self.ws.shape:
            raise ValueError(f"ws has shape {tuple(ws.shape)}; expected {tuple(self.ws.shape)} as in this Inversion")
        return replace(self, ws=ws)

    def with_offset(self, name: str, offset: Tensor) -> "Inversion":
        """The same images with so much more of a layer's style, [N or 1, C]; Δθ stays."""
        offset = offset.expand(len(self), -1)
        there = (self.offsets or {}).get(name)
        return replace(self, offsets={**(self.offsets or {}), name: offset if there is None else there + offset})

    def without_weights(self) -> "Inversion":
        """Codes only, for the generator as it is; for HyperInverter this is the Phase I result."""
        return replace(self, tokens=None, residuals=None, features=None, prepared=None)

    @staticmethod
    def cat(inversions: "Sequence[Inversion]") -> "Inversion":
        """Several Inversions of one model as one."""
        if not inversions:
            raise ValueError("no Inversion to join; give at least one")
        first = inversions[0]
        for other in inversions[1:]:
            first._check_same_kind(other, "joined")
        return first._together(inversions, lambda *rows: torch.cat(rows))

    def interpolate(self, other: "Inversion", t: builtins.float, weights: bool = True) -> "Inversion":
        """The point (1 - t)·self + t·other: t = 0 is this one, t = 1 the other.

        (The published script starts at its second image; here 0 is the first.)

        Args:
            other: as many images as this one has, by the same model.
            t: usually in [0, 1]; outside it extrapolates.
            weights: True interpolates codes and Δθ (interpolating tokens is interpolating weights, since Δθ is affine
                in them and the two factors add up to 1); False: codes only, with the generator as it is.
        Source: HyperInverter, section 4.6.
        """
        if len(self) != len(other):
            raise ValueError(f"interpolating {len(self)} with {len(other)} images; give equally many")
        first, last = (self, other) if weights else (self.without_weights(), other.without_weights())
        first._check_same_kind(last, "interpolated")

        def blend(a: Tensor, b: Tensor) -> Tensor:
            return (1 - t) * a + t * b.to(a.device)

        return first._together([first, last], blend)

    def _together(self, inversions: "Sequence[Inversion]", combine: Callable[..., Tensor]) -> "Inversion":
        """Inversions of one kind, this one first, as one: `combine` takes the tensors of all, in their order."""

        def each(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
            whole = [part for part in parts if part is not None]
            return {name: _combined([part[name] for part in whole], combine) for name in whole[0]} if whole else None

        names = ("tokens", "residuals", "features")
        own: dict[str, Any] = {name: each([getattr(one, name) for one in inversions]) for name in names}
        own["offsets"] = each(_offsets_of(inversions))
        return replace(self, ws=combine(*(one.ws for one in inversions)), **own, prepared=None)

    def mixed(self, weights: Tensor) -> "Inversion":
        """Weighted means of these images: codes, and Δθ, which is affine in tokens.

        `weights`: [n, N], each row with a sum of 1; n images come out.
        """
        if weights.ndim != 2 or weights.shape[1] != len(self):
            raise ValueError(f"weights have shape {tuple(weights.shape)}; expected [n, {len(self)}]")
        plain = replace(self, prepared=None)
        return plain._map(lambda tensor: torch.einsum("nm,m...->n...", weights.to(tensor), tensor))

    def _check_same_kind(self, other: "Inversion", verb: str) -> None:
        if (self.model_hash, self.generator_hash) != (other.model_hash, other.generator_hash):
            raise UserError(
                f"Inversions of two models cannot be {verb}: {self.model_name} {self.model_hash} and "
                f"{other.model_name} {other.model_hash}; invert both images with one model"
            )
        for part in ("tokens", "residuals", "features"):
            a, b = getattr(self, part), getattr(other, part)
            if (a is None) != (b is None) or (a is not None and set(a) != set(b)):
                raise UserError(f"Inversions with different {part} cannot be {verb}; make both by one method")

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file (under 32 KiB for one image at 1024 px with D = 256).

        w is stored once, [N, w_dim], when all styles are equal; tokens of one size are stacked, [N, layers, D]. A
        residual of features takes two bytes for each of its numbers, which are rounded.

        Raises ValueError: the name has another suffix, by which no command would take the file for an Inversion.
        """
        if (name := Path(path)).suffix != ".safetensors" or name.is_dir():
            raise ValueError(f"an Inversion is a file whose name ends in .safetensors; got {name}")
        write_inversion(path, self)

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            UserError: not a safetensors file, not an Inversion, or one with parts that do not belong together.
        """
        return read_inversion(path, cls)


def check_inversion(value: object) -> None:
    """Refuse what is no Inversion, such as a photo. Raises ValueError: says what was given."""
    if not isinstance(value, Inversion):
        what = f"a {type(value).__name__}" if value is not None else "None"
        raise ValueError(f"expected an Inversion, got {what}; write model.invert(photos) and give what it returns")


def _offsets_of(inversions: Sequence[Inversion]) -> list[Offsets]:
    """Offsets of each under the names that any of them has, with zeros where it has none."""
    channels = {name: value.shape[1] for one in inversions for name, value in (one.offsets or {}).items()}
    return [
        {name: (one.offsets or {}).get(name, one.ws.new_zeros(len(one), size)) for name, size in channels.items()}
        or None
        for one in inversions
    ]


def _combined(values: list[Any], combine: Callable[..., Tensor]) -> Any:
    """Tensors, or equal kinds of tuples of them, as one."""
    if len({type(value) for value in values}) > 1:
        raise UserError("Inversions of two kinds cannot be combined; make both by one method and the same settings")
    first = values[0]
    return type(first)(*map(combine, *values)) if isinstance(first, tuple) else combine(*values)


def interpolate(first: Inversion, last: Inversion, steps: int, weights: bool = True) -> list[Inversion]:
    """`steps` Inversions at equal distances from `first` (t = 0) to `last` (t = 1), both included (figure 9).

    Args:
        last: as many, by the same model.
        steps: at least 2.
        weights: True blends w and Δθ; False blends w only and uses the generator as it is.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; write at least 2, the two images themselves")
    return [first.interpolate(last, t, weights) for t in torch.linspace(0, 1, steps, dtype=torch.float64).tolist()]
