"""StyleCLIP's mappers as directions: a small network moves every photo by a step of its own.

Source: StyleCLIP (Patashnik et al., ICCV 2021), section 5: w + 0.1 M(w), M of three parts, for the styles 0 to 3, 4 to
7 and the others (any may be absent: those styles stay), or of one part for all. A part normalises its codes and has
fully connected layers, as StyleGAN2's mapping network has. Written from the paper and from the names and shapes in
released checkpoints: {"state_dict": {"mapper.course_mapping.mapping.1.weight": ..., "decoder....": ...}, "opts": ...}.
Letters: N images, L styles.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.directions.direction import Direction, within
from hyperinverter.published.vectors import ANOTHER_W, Space

STEP = 0.1  # of M(w), where the strength is 1
LR_MULTIPLIER = 0.01  # by which the published layers' weights and biases are stored too large
SLOPE, GAIN = 0.2, sqrt(2)  # of the leaky ReLU behind every layer
EPSILON = 1e-8
MOST_STYLES = 18  # of the generator for which mappers were released; taken where L is not known
SAMPLES = 2000  # mapped to find the mean of a checkpoint's own W
SINGLE = "all"
SPANS = {"course": (0, 4), "medium": (4, 8), "fine": (8, None), SINGLE: (0, None)}  # "course" is the published name
NAME = re.compile(r"(?:mapper\.)?(?:(course|coarse|medium|fine)_)?mapping\.mapping\.(\d+)\.(weight|bias)")
STYLE_SPACE = re.compile(r"(?:mapper\.)?mapper_\d+\.mapping\..*")
DECODER = re.compile(r"decoder\.style\.(\d+)\.(weight|bias)")

Layers = list[tuple[Tensor, Tensor]]  # weight [w_dim, w_dim] and bias [w_dim] of each, as stored


def mapped(layers: Layers, x: Tensor) -> Tensor:
    """One part: x [N, L', w_dim] -> [N, L', w_dim].

    Codes are normalised over their second dimension, as published: over the styles of the part, so that of a code whose
    styles are equal the signs are left. Of [N, w_dim], as the mapping network takes it, that is each code's length.
    """
    x = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPSILON)
    for weight, bias in layers:
        weight = weight.to(x) * (LR_MULTIPLIER / sqrt(weight.shape[1]))
        x = F.leaky_relu(F.linear(x, weight, bias.to(x) * LR_MULTIPLIER), SLOPE) * GAIN
    return x


@dataclass
class MapperDirection(Direction):
    """Moves codes by strength · 0.1 · M(w). A strength of 1 is the published edit, as γ and in standard deviations.

    Attributes:
        vector: M at the mean of W, scaled to length 1, for those who look at it; nothing moves along it.
        parts: of SPANS -> its layers.
    """

    parts: dict[str, Layers] = field(kw_only=True)
    adds_vector = is_one_vector = False

    def move(self, ws: Tensor, gamma: Tensor) -> Tensor:
        return within(self.styles, ws, ws + gamma * STEP * step_of(self.parts, ws))

    def content(self) -> tuple[dict[str, Tensor], dict]:
        tensors: dict[str, Tensor] = {}  # by the published names
        for part, layers in self.parts.items():
            for number, (weight, bias) in enumerate(layers, 1):
                name = f"{'' if part == SINGLE else f'{part}_'}mapping.mapping.{number}"
                tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return tensors, {**super().content()[1], "space": "W+", "norm": None}


def step_of(parts: Mapping[str, Layers], ws: Tensor) -> Tensor:
    """M(w), [N, L, w_dim] -> the same shape; 0 on styles without a part."""
    step = torch.zeros_like(ws)
    for part, layers in parts.items():
        start, end = SPANS[part]
        step[:, start:end] = mapped(layers, ws[:, start:end])
    return step


def is_mapper(content: Any) -> bool:
    """Whether a file's content is a checkpoint of a mapper, of W+ or of StyleSpace."""
    return any(NAME.fullmatch(name) or STYLE_SPACE.fullmatch(name) for name in _state(content))


def mapper_of(content: Any, name: str, space: Space) -> MapperDirection:
    """The direction that a released checkpoint, or the state of this project's file, holds.

    Args:
        space: of the generator; where the checkpoint has its own mapping network, the two must be of one W.
    Raises:
        ValueError: it is a mapper of StyleSpace, has layers of other shapes, or is of another generator.
    """
    state = _state(content)
    if any(STYLE_SPACE.fullmatch(each) for each in state):
        raise ValueError("holds a StyleCLIP mapper of StyleSpace; give one that was trained on W+")
    tensors = {
        ((match[1] or SINGLE).replace("coarse", "course"), int(match[2]), match[3]): state[match[0]]
        for match in map(NAME.fullmatch, state)
        if match
    }
    parts = {part: _layers(tensors, part) for part in SPANS if any(part == each for each, _, _ in tensors)}
    sizes = {part: layers[0][1].numel() for part, layers in parts.items()}
    if len(set(sizes.values())) > 1 or (SINGLE in parts and len(parts) > 1):
        raise ValueError(f"holds a StyleCLIP mapper whose parts do not belong together, {sizes}; fetch it again")
    w_dim = next(iter(sizes.values()))
    if space.w_dim not in (None, w_dim):
        raise ValueError(f"holds a StyleCLIP mapper of a W of {w_dim} numbers, this generator's has {space.w_dim}")
    decoder = {("style", int(match[1]), match[2]): state[match[0]] for match in map(DECODER.fullmatch, state) if match}
    if decoder and space.w_avg is not None:
        _check_same_w(_layers(decoder, "style"), space.w_avg)
    mean = torch.zeros(w_dim) if space.w_avg is None else space.w_avg.detach().float().cpu()
    vector = step_of(parts, mean.expand(1, space.num_ws or MOST_STYLES, w_dim)).mean(dim=(0, 1))
    if not torch.isfinite(vector).all():
        raise ValueError("holds a StyleCLIP mapper with numbers that are not finite; fetch it again")
    opts = content.get("opts")
    text = opts.get("description") if isinstance(opts, Mapping) else None
    info = {"method": "StyleCLIP mapper", "projection_std": 1.0}
    info |= {"text": text[:200]} if isinstance(text, str) else {}
    return MapperDirection(name, vector if vector.any() else torch.ones(w_dim), info, parts=parts)


def _state(content: Any) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    return {str(name): value for name, value in state.items()} if isinstance(state, Mapping) else {}


def _layers(tensors: Mapping[tuple[str, int, str], Any], part: str) -> Layers:
    layers: Layers = []
    for number in sorted({number for each, number, _ in tensors if each == part}):
        weight: Any = tensors.get((part, number, "weight"))
        bias: Any = tensors.get((part, number, "bias"))
        pair = [tuple(each.shape) if isinstance(each, Tensor) else None for each in (weight, bias)]
        size = layers[0][1].numel() if layers else (pair[1] or (0,))[0]
        whole = isinstance(weight, Tensor) and isinstance(bias, Tensor)
        if not whole or pair != [(size, size), (size,)] or not weight.is_floating_point() & bias.is_floating_point():
            raise ValueError(
                f"holds a StyleCLIP mapper whose layer {number} ({part}) has weight and bias of shapes {pair[0]} and "
                f"{pair[1]}; expected [w_dim, w_dim] and [w_dim], the same for all: fetch it again"
            )
        layers.append((weight.detach().float(), bias.detach().float()))
    return layers


def _check_same_w(mapping: Layers, w_avg: Tensor) -> None:
    """Refuse a checkpoint whose own generator has another W than the one with this mean."""
    w_dim = mapping[0][1].numel()
    if w_dim != w_avg.numel():
        raise ValueError(f"holds a StyleCLIP mapper of a W of {w_dim} numbers, this generator's has {w_avg.numel()}")
    w = mapped(mapping, torch.randn(SAMPLES, w_dim, generator=torch.Generator().manual_seed(0)))
    distance = (w.mean(0) - w_avg.detach().float().cpu()).square().sum() / w.var(0).sum()
    if not distance < ANOTHER_W:
        raise ValueError(
            f"holds a StyleCLIP mapper of another generator: the mean of its W is {distance.sqrt():.2f} standard "
            f"deviations away from this generator's w_avg; load the generator for which it was trained"
        )
