"""Phase I alone: E1 gives one w per image and the generator is used as it is (Dinh et al., CVPR 2022, section 3.1)."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.residuals import ChannelScales
from hyperinverter.models.target_layers import target_layers
from hyperinverter.pretrained.load import LoadedModel, load_model
from hyperinverter.releases.obtain import obtain
from hyperinverter.utils.device import to_device


class WEncoderInverter(Inverter):
    """w = E1(image) + w_avg, repeated to every style."""

    name, title = "w_encoder", "Phase I"
    parts = ("generator", "w_encoder")
    refines = ("scales", "w")

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        assert model.w_encoder is not None
        self.w_encoder = model.w_encoder.eval().requires_grad_(False)
        config = self.domain.hypernetwork
        layers = target_layers(self.generator, config.target_set, config.left_out)
        self._targets = {layer.name: layer for layer in layers if layer.is_convolution}

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        return cls(load_model(obtain(source, "w_encoder"), with_hyperinverter=False))

    def to(self, device: torch.device | str) -> Self:
        to_device(self.generator, torch.device(device))
        to_device(self.w_encoder, torch.device(device))
        return self

    def _compile(self) -> None:
        super()._compile()
        self.w_encoder.compile()

    def _invert(self, images: Tensor) -> Inversion:
        w = self.w_encoder(images) + self.generator.mapping.w_avg  # [N, w_dim]
        ws = w.unsqueeze(1).repeat(1, self.generator.num_ws, 1)
        residuals = None
        if self.refiner is not None:
            start = {name: ws.new_zeros(len(ws), target.channels) for name, target in self._targets.items()}
            ws, scales = self.refiner(self._draw, images, ws, start, self.generator)
            residuals = self._scaled(scales) if self.refiner.settings.learning_rate else None
        return self._inversion(ws, residuals=residuals)

    def _draw(self, ws: Tensor, tokens: dict[str, Tensor], resolution: int) -> Tensor:
        return self.generator.synthesis(ws, self._scaled(tokens), noise_mode="const", resolution=resolution)

    def _scaled(self, numbers: dict[str, Tensor]) -> dict[str, Tensor | ChannelScales]:
        """What refinement moves beside w: a number per channel of the layers that Phase II would change."""
        return {name: ChannelScales.of(value, self._targets[name].scaled_dim) for name, value in numbers.items()}
