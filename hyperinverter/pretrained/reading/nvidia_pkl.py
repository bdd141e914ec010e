"""NVIDIA's network pickles (StyleGAN2-ADA, converted StyleGAN2, StyleGAN3's container) without running their code."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class NetworkStub:
    """A network of an NVIDIA pickle: what it was built with and its tensors; nothing of its code.

    Attributes:
        class_name: "Generator", "Discriminator", ...
        init_kwargs: the keyword arguments it was built with, plain types.
        state: key -> tensor, as its `state_dict()` would give them.
        init_args: positional arguments, nearly always empty.
    """

    class_name: str
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]
    init_args: list[Any] = field(default_factory=list)
