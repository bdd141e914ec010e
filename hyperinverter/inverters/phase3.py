"""Both phases of the paper and, beyond it, a small residual of one feature map, which is carried along when w moves."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.hyperinverter import HyperInverter
from hyperinverter.inverters.inversion import Inversion, with_offsets
from hyperinverter.models.feature_residual import Phase3Network
from hyperinverter.models.residuals import FeatureCode, Residuals
from hyperinverter.pretrained.load import LoadedModel, load_model
from hyperinverter.releases.obtain import obtain
from hyperinverter.utils.device import HALF_TYPES, store_in, to_device
from hyperinverter.utils.errors import UserError


class Phase3(HyperInverter):
    """An Inversion is (ws, tokens, residual of features, and the ws that it was predicted at)."""

    name, title = "phase3", "Phase III"
    parts = ("generator", "w_encoder", "hyperinverter", "feature_residual")
    refines = ()

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        if model.feature_residual is None:
            raise ValueError("the model was loaded without Phase III; load it with with_feature_residual=True")
        residual = model.feature_residual.eval().requires_grad_(False)
        self.phase3 = Phase3Network(self.network, residual).eval()

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        return cls(load_model(obtain(source, "hyperinverter"), with_feature_residual=True))

    def settings(self) -> dict[str, str | float | None]:
        residual = self.phase3.feature_residual
        return {"feature_layer": residual.layer, "feature_numbers_per_image_number": round(residual.capacity, 4)}

    def to(self, device: torch.device | str) -> Self:
        to_device(self.phase3.feature_residual, torch.device(device))
        return super().to(device)

    def accelerate(self, precision: str = "fp32", compile: bool = False) -> Self:
        super().accelerate(precision, compile)
        if precision != "fp32":
            store_in(self.phase3.feature_residual, HALF_TYPES[precision])
        return self

    def _invert(self, images: Tensor) -> Inversion:
        result = self.phase3.predict(images)
        ws, numbers = result.phase2.ws, result.residual.half().float()  # as files keep them
        features = {self.phase3.feature_residual.layer: FeatureCode(numbers, ws)}
        info = {"method": self.name, **self.settings()}
        return self._inversion(ws, tokens=result.phase2.tokens, features=features, info=info)

    def _changes(self, inversion: Inversion, residuals: Residuals | None) -> Residuals | None:
        changes = with_offsets(residuals, inversion.offsets)
        if not inversion.features:
            return changes
        layer, shape = self.phase3.feature_residual.layer, self.phase3.feature_residual.shape
        code = inversion.features.get(layer)
        if code is None or len(inversion.features) > 1 or tuple(code.numbers.shape[1:]) != shape:
            got = ", ".join(f"{list(one.numbers.shape[1:])} at {name}" for name, one in inversion.features.items())
            raise UserError(
                f"this Inversion has a residual of features {got}; model {self.model_name} takes {list(shape)} at "
                f"{layer}: render it with the model that made it, or render inversion.without_weights()"
            )
        numbers = code.numbers
        if inversion.offsets or not torch.equal(inversion.ws, code.ws):  # else nothing has moved
            before, after = self.phase3.features(code.ws, residuals), self.phase3.features(inversion.ws, changes)
            numbers = self.phase3.feature_residual.carry(numbers, before, after)
        return self.phase3.with_residual(changes, numbers)
