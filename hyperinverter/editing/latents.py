"""Codes that other methods saved, as Inversions of the generator at hand: latents.pt, .npy, .npz, .pkl, .safetensors.

pSp, e4e, ReStyle, PTI and StyleGAN2's projector write tensors, or mappings of photos' names to them. No such file says
of which generator its codes are.
Letters: N images, L styles.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.data.other_files import NUMBERS
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.published.container import foreign, plain_names
from hyperinverter.published.reading import read_published
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import read_head


def is_latents(path: Path) -> bool:
    """Whether a file may hold codes of others; a .safetensors file that is damaged or ours is left to `Inversion`."""
    if path.suffix.lower() not in NUMBERS or not path.is_file():
        return False
    if path.suffix.lower() != ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            return not read_head(file).metadata.get("format", "").startswith("hyperinverter-")
    except (ValueError, OSError):
        return False


def read_latents(path: Path, inverter: Inverter) -> dict[str, Inversion]:
    """What to call each code -> its Inversion, of one image.

    [N, L, w_dim] and [L, w_dim] are read as W+, other [..., w_dim] as one code of W each, [..., L*w_dim] as W+ without
    its last dimension; a mapping gives its names, and of a list of codes its last one (ReStyle's steps) is taken.

    Raises UserError: it holds something else, or codes of another size.
    """
    content = plain_names(read_published(path).content)
    message = foreign(content) if isinstance(content, dict) else None
    if message:
        raise UserError(f"{path}: is {message}; give a photo, or codes")
    num_ws, w_dim = inverter.generator.num_ws, inverter.generator.w_dim
    result = {}
    for name, tensor in _tensors(content, path.stem):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite; write the codes again")
        codes = _laid_out(tensor, num_ws, w_dim)
        if codes is None:
            raise UserError(
                f"{path}: holds weights or other numbers{f' ({name}: {list(tensor.shape)})' if name else ''}, neither "
                f"a photo nor codes of this generator, which has {num_ws} styles of {w_dim} numbers; give a photo, or "
                f"codes [N, {num_ws}, {w_dim}] of W+ or [N, {w_dim}] of W"
            )
        for number, ws in enumerate(codes):
            one = Inversion(ws[None], model_name=path.name, generator_hash=inverter.generator_hash)
            result[name if len(codes) == 1 else f"{name}_{number:03d}"] = one
    if not result:
        raise UserError(f"{path}: holds weights or other numbers, neither a photo nor codes; give a photo, or codes")
    return result


def _tensors(content: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, by the name of its photo; one entry alone is called as the file is."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, name if len(content) == 1 else str(key))
    elif isinstance(content, list | tuple) and content:
        yield from _tensors(content[-1], name)
    elif isinstance(content, Tensor):
        yield name, content
    else:
        yield name, torch.zeros(0)


def _laid_out(tensor: Tensor, num_ws: int, w_dim: int) -> Tensor | None:
    """[N, L, w_dim]; None where it has no such size."""
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    tensor = tensor.detach().float()
    if tensor.shape[-2:] == (num_ws, w_dim) or tensor.shape[-1:] == (num_ws * w_dim,):
        return tensor.reshape(-1, num_ws, w_dim)
    if tensor.shape[-1:] == (w_dim,):
        return tensor.reshape(-1, 1, w_dim).expand(-1, num_ws, -1)
    return None
