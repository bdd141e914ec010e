"""The paper's method: Phase I code w, then Phase II tokens that say how to change the generator for this image.

Source: HyperInverter, Dinh et al., CVPR 2022 (arXiv:2112.00719), section 3.
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.pretrained.load import LoadedModel
from hyperinverter.pretrained.ready import load_model


class HyperInverterInverter(Inverter):
    """Both phases; an Inversion is (ws, tokens)."""

    name = "hyperinverter"

    def __init__(self, model: LoadedModel) -> None:
        if model.network is None:
            raise ValueError("the model was loaded without its hypernetworks; load it with with_hyperinverter=True")
        self.network = model.network.eval().requires_grad_(False)
        self.generator = model.generator
        self.domain, self.folder = model.domain, model.folder
        self.model_name, self.model_hash = model.name, model.hash
        self.generator_hash = model.hashes["generator"]

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        return cls(load_model(source))

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        return self

    def _invert(self, images: Tensor) -> Inversion:
        output = self.network.invert(images)
        return Inversion(
            ws=output.ws,
            tokens=output.tokens,
            model_name=self.model_name,
            model_hash=self.model_hash,
            generator_hash=self.generator_hash,
        )

    def _render(self, inversion: Inversion) -> Tensor:
        if inversion.tokens is None:
            return super()._render(inversion)
        return self.network.render(inversion.ws, inversion.tokens)
