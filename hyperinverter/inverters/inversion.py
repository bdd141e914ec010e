"""`Inversion`, the value that every method returns and that render, edit, interpolation, metrics and the app take.

A latent code per style and, for methods that also change the generator, how: as tokens (Δθ of each target layer is
exactly affine in a token, so 26 tokens of 256 numbers stand for 90 MiB of Δθ) or as dense residuals.
Letters: N images, L styles, D token size; O, I, k output channels, input channels, kernel size of a convolution.
"""

import builtins
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.checkpoint import read_safetensors, recorded
from hyperinverter.inverters.offsets import alike, joined
from hyperinverter.models.residuals import ChannelScales, Residuals
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors
from hyperinverter.utils.state_dicts import is_finite
from hyperinverter.utils.text import counted

INVERSION_FORMAT = "hyperinverter-inversion-1"


@dataclass(repr=False)
class Inversion:
    """N inverted images.

    Attributes:
        ws: latent codes, [N, L, w_dim].
        tokens: target layer -> [N, D], dimensionless; None when the generator is used as it is.
        residuals: parameter name -> [N, *shape of the parameter], such as [N, O, I, k, k], added to the stored
            parameter, or `ChannelScales`, which multiply it; a method gives tokens or these.
        offsets: parameter name of a style's bias -> [N, C], added to the layer's style by edits of single channels.
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
            for name, value in ((name, _numbers(value)) for name, value in (values or {}).items()):
                if value.ndim not in ndim or len(value) != len(self.ws):
                    raise ValueError(f"{what}[{name!r}] has shape {tuple(value.shape)}; expected [{len(self.ws)}, ...]")

    def __repr__(self) -> str:
        """Sizes and origin; the numbers of an Inversion fill pages."""
        how = "the generator as it is"
        if self.tokens is not None:
            how = f"{len(self.tokens)} tokens of {next(iter(self.tokens.values()), self.ws[0]).shape[-1]} numbers"
        elif self.residuals is not None:
            scaled = any(isinstance(value, ChannelScales) for value in self.residuals.values())
            how = f"{len(self.residuals)} " + ("weights scaled per channel" if scaled else "weight residuals")
        made = f"{self.model_name} {self.model_hash}".strip() or "an unknown model"
        count = counted(len(self), "image")
        return f"Inversion({count} by {made}: codes {list(self.ws.shape)}, {how})"

    def __getstate__(self) -> dict[str, Any]:
        """Without model and images, which a copy or a pickle would carry along."""
        return {name: value for name, value in vars(self).items() if name != "images"} | {"model": None}

    @cached_property
    def images(self) -> Tensor:
        """What it shows, [N, 3, R, R], nominally in [-1, 1]; drawn when first asked for, and kept.

        Raises:
            UserError: it came from a file and belongs to no model yet.
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
        if isinstance(index, int):
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

        names = ("tokens", "residuals", "offsets", "prepared")
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
        return replace(self, tokens=None, residuals=None, prepared=None)

    @staticmethod
    def cat(inversions: "Sequence[Inversion]") -> "Inversion":
        """Several Inversions of one model as one."""
        if not inversions:
            raise ValueError("no Inversion to join; give at least one")
        first = inversions[0]
        for other in inversions[1:]:
            first._check_same_kind(other, "joined")

        def join(part: str) -> dict[str, Any] | None:
            dicts = [getattr(inversion, part) for inversion in inversions]
            if dicts[0] is None:
                return None
            return {name: _combined([d[name] for d in dicts], lambda *rows: torch.cat(rows)) for name in dicts[0]}

        return replace(
            first,
            ws=torch.cat([i.ws for i in inversions]),
            tokens=join("tokens"),
            residuals=join("residuals"),
            offsets=joined([one.offsets for one in inversions], list(map(len, inversions)), first.ws),
            prepared=None,
        )

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

        def each(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, Any] | None:
            return None if a is None or b is None else {name: _combined([a[name], b[name]], blend) for name in a}

        return replace(
            first,
            ws=blend(first.ws, last.ws),
            tokens=each(first.tokens, last.tokens),
            residuals=each(first.residuals, last.residuals),
            offsets=each(*alike([first.offsets, last.offsets], [len(first), len(last)], first.ws)),
            prepared=None,
        )

    def mixed(self, weights: Tensor) -> "Inversion":
        """Weighted means of these images: codes, and Δθ, which is affine in tokens.

        Args:
            weights: [n, N], each row with a sum of 1; n images come out.
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
        for part in ("tokens", "residuals"):
            a, b = getattr(self, part), getattr(other, part)
            if (a is None) != (b is None) or (a is not None and set(a) != set(b)):
                raise UserError(f"Inversions with different {part} cannot be {verb}; make both by one method")

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file (under 32 KiB for one image at 1024 px with D = 256).

        w is stored once, [N, w_dim], when all styles are equal; tokens of one size are stacked, [N, layers, D].
        """
        tensors = {}
        if torch.equal(self.ws, self.ws[:, :1].expand_as(self.ws)):
            tensors["w"] = self.ws[:, 0]
        else:
            tensors["ws"] = self.ws
        if self.tokens is not None:
            if len({token.shape for token in self.tokens.values()}) == 1:
                tensors["tokens"] = torch.stack(list(self.tokens.values()), dim=1)  # [N, layers, D]
            else:
                tensors |= {f"tokens.{name}": token for name, token in self.tokens.items()}
        for name, value in (self.residuals or {}).items():
            kind = "scales" if isinstance(value, ChannelScales) else "residuals"
            tensors[f"{kind}.{name}"] = _numbers(value)
        for name, value in (self.offsets or {}).items():
            tensors[f"offsets.{name}"] = value
        metadata = {
            "format": INVERSION_FORMAT,
            "model_name": self.model_name,
            "model_hash": self.model_hash,
            "generator_hash": self.generator_hash,
            "num_ws": str(self.ws.shape[1]),
            "layers": json.dumps(list(self.tokens or ()), separators=(",", ":")),
            "info": json.dumps(self.info, separators=(",", ":")),
        }
        write_tensors(path, {name: value.detach().float() for name, value in tensors.items()}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Inversion":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            UserError: not a safetensors file, not an Inversion, or one with parts that do not belong together.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such Inversion file")
        metadata, tensors = read_safetensors(path, "invert the image again")
        if metadata.get("format") != INVERSION_FORMAT:
            raise UserError(
                f"{path}: a .safetensors file, but not an Inversion; give one that {command_of('invert')} wrote"
            )
        layers = recorded(path, {"layers": "[]", **metadata}, "layers", list)
        info = recorded(path, {"info": "{}", **metadata}, "info", dict)
        try:
            return cls(**_parts(metadata, tensors, layers), info=info)
        except ValueError as error:
            raise UserError(f"{path}: no whole Inversion ({error}); invert the image again") from error


def _numbers(value: Tensor | ChannelScales) -> Tensor:
    return value.scales if isinstance(value, ChannelScales) else value


def _combined(values: list[Any], combine: Callable[..., Tensor]) -> Any:
    """Tensors, or equal kinds of tuples of them, as one."""
    if len({type(value) for value in values}) > 1:
        raise UserError("Inversions of two kinds cannot be combined; make both by one method and the same settings")
    first = values[0]
    return type(first)(*map(combine, *values)) if isinstance(first, tuple) else combine(*values)


def _parts(metadata: dict[str, str], tensors: dict[str, Tensor], layers: list) -> dict[str, Any]:
    """The arguments of an Inversion from what its file holds.

    Raises:
        ValueError: something is missing, foreign, of another shape, or not finite.
    """
    residuals: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {"residuals": residuals, "scales": residuals, "offsets": {}, "tokens": {}}
    for name in sorted(set(tensors) - {"w", "ws", "tokens"}):
        kind, _, parameter = name.partition(".")
        found = parts.get(kind, {})
        if kind not in parts or not parameter or parameter in found:
            raise ValueError(f"a tensor {name[:40]!r} is foreign")
        found[parameter] = ChannelScales(tensors[name]) if kind == "scales" else tensors[name]
    if bad := [name for name, tensor in tensors.items() if not (tensor.is_floating_point() and is_finite(tensor))]:
        raise ValueError(f"{bad[0][:40]} holds something else than finite numbers")
    if ("w" in tensors) == ("ws" in tensors):
        raise ValueError("it needs either w or ws")
    ws = tensors.get("ws")
    if ws is None:
        count = metadata.get("num_ws", "")
        if not re.fullmatch(r"[1-9][0-9]?", count) or tensors["w"].ndim != 2:
            raise ValueError(f"num_ws is {count[:10]!r}, w {tuple(tensors['w'].shape)}; expected 1 to 99, [N, w_dim]")
        ws = tensors["w"].unsqueeze(1).expand(-1, int(count), -1)  # [N, L, w_dim] in the memory of [N, w_dim]
    if not ws.numel():
        raise ValueError(f"ws has shape {tuple(ws.shape)}")
    names = [name for name in layers if isinstance(name, str)]
    tokens = {name: parts["tokens"][name] for name in names if name in parts["tokens"]} or None  # in their first order
    if parts["tokens"].keys() != (tokens or {}).keys():
        raise ValueError("tokens of layers that it does not name")
    if (stacked := tensors.get("tokens")) is not None:
        if (
            tokens is not None
            or stacked.ndim != 3
            or len(set(names)) != stacked.shape[1]
            or len(layers) != stacked.shape[1]
        ):
            raise ValueError(f"{len(layers)} names of layers for tokens of shape {tuple(stacked.shape)}")
        tokens = dict(zip(names, stacked.unbind(1), strict=True))
    hashes = {key: metadata.get(key, "") for key in ("model_name", "model_hash", "generator_hash")}
    return {"ws": ws, "tokens": tokens, "residuals": residuals or None, "offsets": parts["offsets"] or None, **hashes}
