"""Files of Inversions: .safetensors with codes, and how each image changes the generator in its shortest form.

Letters: N images, L styles, D token size.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hyperinverter.checkpoint import read_safetensors, recorded
from hyperinverter.models.residuals import ChannelScales, FeatureCode
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors
from hyperinverter.utils.state_dicts import is_finite

T = TypeVar("T")
INVERSION_FORMAT = "hyperinverter-inversion-1"


def write_inversion(path: str | Path, inversion: Any) -> None:
    """See `Inversion.save`; it takes an Inversion, whose file imports this one."""
    ws = _shortest(inversion.ws)
    tensors = {"w" if ws.ndim == 2 else "ws": ws}
    for name, code in (inversion.features or {}).items():
        tensors |= {f"features.{name}": code.numbers.half(), f"features_at.{name}": _shortest(code.ws)}
    if inversion.tokens is not None:
        if len({token.shape for token in inversion.tokens.values()}) == 1:
            tensors["tokens"] = torch.stack(list(inversion.tokens.values()), dim=1)  # [N, layers, D]
        else:
            tensors |= {f"tokens.{name}": token for name, token in inversion.tokens.items()}
    for name, value in (inversion.residuals or {}).items():
        if isinstance(value, ChannelScales):
            tensors[f"scales.{name}"] = value.scales
        else:
            tensors[f"residuals.{name}"] = value
    for name, value in (inversion.offsets or {}).items():
        tensors[f"offsets.{name}"] = value
    metadata = {
        "format": INVERSION_FORMAT,
        "model_name": inversion.model_name,
        "model_hash": inversion.model_hash,
        "generator_hash": inversion.generator_hash,
        "num_ws": str(inversion.ws.shape[1]),
        "layers": json.dumps(list(inversion.tokens or ()), separators=(",", ":")),
        "info": json.dumps(inversion.info, separators=(",", ":")),
    }
    stored = {
        name: value.detach() if name.startswith("features.") else value.detach().float()
        for name, value in tensors.items()
    }
    write_tensors(path, stored, metadata)


def read_inversion(path: str | Path, make: Callable[..., T]) -> T:
    """See `Inversion.load`; `make` takes the arguments of an Inversion."""
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
        return make(**_parts(metadata, tensors, layers), info=info)
    except ValueError as error:
        raise UserError(f"{path}: no whole Inversion ({error}); invert the image again") from error


def _shortest(ws: Tensor) -> Tensor:
    """Codes [N, L, w_dim]; as [N, w_dim] when all styles are equal."""
    return ws[:, 0] if torch.equal(ws, ws[:, :1].expand_as(ws)) else ws


def _parts(metadata: dict[str, str], tensors: dict[str, Tensor], layers: list) -> dict[str, Any]:
    """The arguments of an Inversion from what its file holds.

    Raises ValueError: something is missing, foreign, of another shape, or not finite.
    """
    residuals: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {"residuals": residuals, "scales": residuals}
    parts |= {kind: {} for kind in ("offsets", "tokens", "features", "features_at")}
    for name in sorted(set(tensors) - {"w", "ws", "tokens"}):
        kind, _, parameter = name.partition(".")
        result = parts.get(kind, {})
        if kind not in parts or not parameter or parameter in result:
            raise ValueError(f"a tensor {name[:40]!r} is foreign")
        result[parameter] = ChannelScales(tensors[name]) if kind == "scales" else tensors[name]
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
    if ws.ndim != 3 or not ws.numel():
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
    numbers, places = parts["features"], parts["features_at"]
    if numbers.keys() != places.keys():
        raise ValueError("a residual of features needs the codes that it was predicted at")
    places = {name: at.unsqueeze(1).expand(-1, ws.shape[1], -1) if at.ndim == 2 else at for name, at in places.items()}
    features = {name: FeatureCode(numbers[name].float(), places[name]) for name in numbers}
    hashes = {key: metadata.get(key, "") for key in ("model_name", "model_hash", "generator_hash")}
    more = {"residuals": residuals, "offsets": parts["offsets"], "features": features}
    return {"ws": ws, "tokens": tokens, **{name: value or None for name, value in more.items()}, **hashes}
