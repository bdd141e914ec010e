"""Encoders of others, one pass or several: pSp, e4e, ReStyle and HyperStyle, from <name>.safetensors of a model folder.

Sources: Encoding in Style (pSp; Richardson et al., CVPR 2021, arXiv:2008.00951), Designing an Encoder for StyleGAN
Image Manipulation (e4e; Tov et al., SIGGRAPH 2021, arXiv:2102.02766), ReStyle (Alaluf et al., ICCV 2021,
arXiv:2104.02699), HyperStyle (Alaluf et al., CVPR 2022, arXiv:2111.15666).
"""

from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.hyperstyle import HyperStyle
from hyperinverter.models.wplus.model import ReStyleModel, WPlusModel
from hyperinverter.pretrained.methods import LoadedMethod, load_method
from hyperinverter.releases.obtain import obtain


class PspInverter(Inverter):
    """One code per style, and the generator as it is."""

    name, title = "psp", "pSp"
    parts = ("generator", "psp")
    network: WPlusModel | HyperStyle

    def __init__(self, model: LoadedMethod) -> None:
        super().__init__(model)
        assert model.method is not None
        self.network = model.method.eval().requires_grad_(False)

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

    def _inversion(self, ws: Tensor, **parts: Any) -> Inversion:
        ws = ws[:, : self.generator.num_ws].contiguous()  # an encoder may give more codes than there are styles
        return super()._inversion(ws, **parts)


class E4eInverter(PspInverter):
    """As pSp, with codes kept near each other and near those of samples, so that edits work on them."""

    name, title = "e4e", "e4e"
    parts = ("generator", "e4e")


class ReStyleInverter(PspInverter):
    """The encoder sees the image beside what was drawn so far, and corrects the codes, as often as the checkpoint says.

    The image of the average code, which the first step sees, is drawn once.
    """

    name, title = "restyle", "ReStyle"
    parts = ("generator", "restyle")
    network: ReStyleModel
    _average_image: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        self._average_image = None
        return super().to(device)

    def settings(self) -> dict[str, str | float | None]:
        return {"n_iters": self.network.config.n_iters}

    def _invert(self, images: Tensor) -> Inversion:
        if self._average_image is None:
            self._average_image = self.network.average_image()
        return self._inversion(self.network(images, self._average_image))


class HyperStyleInverter(PspInverter):
    """A code in W, the same for every style, and weight * delta by parameter name, refined several times."""

    name, title, code_title = "hyperstyle", "HyperStyle", "W encoder"
    parts = ("generator", "hyperstyle")
    network: HyperStyle

    def settings(self) -> dict[str, str | float | None]:
        return {"n_iters": self.network.config.n_iters}

    @property
    def input_shape(self) -> tuple[int, int]:
        """Of the larger of its two networks."""
        networks = (self.network.hypernet, self.network.w_encoder)
        return max(network.input_shape for network in networks if network is not None)

    def _invert(self, images: Tensor) -> Inversion:
        output = self.network(images)
        return self._inversion(output.ws, residuals=self.network.residuals(output.deltas))
