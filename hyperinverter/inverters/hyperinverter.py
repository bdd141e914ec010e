"""The paper's method: Phase I code w, then Phase II tokens that say how to change the generator for this image.

Source: HyperInverter, Dinh et al., CVPR 2022 (arXiv:2112.00719), section 3.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.residuals import Residuals
from hyperinverter.pretrained.load import LoadedModel, load_model
from hyperinverter.releases.obtain import obtain
from hyperinverter.utils.device import HALF_TYPES, store_in, to_device


class HyperInverter(Inverter):
    """Both phases; an Inversion is (ws, tokens)."""

    name, title, code_title = "hyperinverter", "Phase II", "Phase I"
    parts: ClassVar[tuple[str, ...]] = ("generator", "w_encoder", "hyperinverter")
    refines: ClassVar[tuple[str, ...]] = ("tokens", "w")

    def __init__(self, model: LoadedModel) -> None:
        if model.network is None:
            raise ValueError("the model was loaded without its hypernetworks; load it with with_hyperinverter=True")
        super().__init__(model)
        self.network = model.network.eval().requires_grad_(False)

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        return cls(load_model(obtain(source, "hyperinverter")))

    def to(self, device: torch.device | str) -> Self:
        to_device(self.network, torch.device(device))
        self.network.prepare()
        return self

    def accelerate(self, precision: str = "fp32", compile: bool = False) -> Self:
        super().accelerate(precision, compile)
        if precision != "fp32":
            for part in (self.network.w_encoder, self.network.layerwise_encoder, self.network.hypernetwork):
                store_in(part, HALF_TYPES[precision])
        return self

    def _compile(self) -> None:
        super()._compile()
        network = self.network
        network.w_encoder.compile()
        network.layerwise_encoder.compile()
        hypernetwork: Any = network.hypernetwork  # whose methods are replaced
        hypernetwork.tokens = torch.compile(hypernetwork.tokens)
        hypernetwork.decode = torch.compile(hypernetwork.decode)

    def _invert(self, images: Tensor) -> Inversion:
        output = self.network.invert(images)
        ws, tokens = output.ws, output.tokens
        if self.refiner is not None:
            ws, tokens = self.refiner(self._draw, images, ws, tokens, self.generator)
        return self._inversion(ws, tokens=tokens)

    def _draw(self, ws: Tensor, tokens: dict[str, Tensor], resolution: int) -> Tensor:
        return self.network.synthesise(ws, self.network.hypernetwork.decode(tokens), resolution=resolution)

    def _residuals(self, inversion: Inversion) -> Residuals | None:
        if inversion.tokens is None:
            return super()._residuals(inversion) or self.network.own_kernels
        return self.network.hypernetwork.decode(inversion.tokens)
