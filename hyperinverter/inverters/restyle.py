"""ReStyle: the encoder sees the image beside what was drawn so far, and corrects the codes, several times.

Source: ReStyle (Alaluf et al., ICCV 2021, arXiv:2104.02699).
"""

from typing import Self

import torch
from torch import Tensor

from hyperinverter.inverters.inversion import Inversion
from hyperinverter.inverters.psp import PspInverter
from hyperinverter.models.wplus.model import ReStyleModel
from hyperinverter.pretrained.methods import LoadedMethod


class ReStyleInverter(PspInverter):
    """The number of iterations is the checkpoint's own; the image of the average code is drawn once."""

    name, title = "restyle", "ReStyle"
    parts = ("generator", "restyle")
    network: ReStyleModel

    def __init__(self, model: LoadedMethod) -> None:
        super().__init__(model)
        self._average_image: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        self._average_image = None
        return super().to(device)

    def settings(self) -> dict[str, str | float | None]:
        return {"n_iters": self.network.config.n_iters}

    def _invert(self, images: Tensor) -> Inversion:
        if self._average_image is None:
            self._average_image = self.network.average_image()
        return self._inversion(self.network(images, self._average_image))
