"""pSp: an encoder gives one code per style, and the generator is used as it is.

Source: Encoding in Style (Richardson et al., CVPR 2021, arXiv:2008.00951).
"""

from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.hyperstyle import HyperStyle
from hyperinverter.models.wplus.model import WPlusModel
from hyperinverter.pretrained.methods import LoadedMethod, load_method
from hyperinverter.releases.obtain import obtain


class PspInverter(Inverter):
    """Codes of a released encoder, from <name>.safetensors of a model folder; other published methods build on it."""

    name, title = "psp", "pSp"
    parts = ("generator", "psp")
    network: WPlusModel | HyperStyle

    def __init__(self, model: LoadedMethod) -> None:
        assert model.method is not None
        self.network = model.method.eval().requires_grad_(False)
        self.generator = model.generator
        self.domain, self.folder = model.domain, model.folder
        self.model_name, self.model_hash = model.name, model.hash
        self.generator_hash = model.hashes["generator"]

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        return cls(load_method(obtain(source, cls.name), cls.name))

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)  # the generator is its decoder
        return self

    @property
    def input_shape(self) -> tuple[int, int]:
        """The encoder's: the published methods resize a photo to it, not to the generator's resolution first."""
        return cast(WPlusModel, self.network).encoder.input_shape

    def _invert(self, images: Tensor) -> Inversion:
        return self._inversion(self.network(images))

    def _inversion(self, ws: Tensor, residuals: dict[str, Tensor] | None = None) -> Inversion:
        return Inversion(
            ws=ws[:, : self.generator.num_ws].contiguous(),  # an encoder may give more codes than there are styles
            residuals=residuals,
            model_name=self.model_name,
            model_hash=self.model_hash,
            generator_hash=self.generator_hash,
        )
