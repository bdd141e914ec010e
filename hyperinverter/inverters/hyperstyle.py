"""HyperStyle: a code in W, then factors by which the generator's weights change for this image, refined several times.

Source: HyperStyle (Alaluf et al., CVPR 2022, arXiv:2111.15666).
"""

from torch import Tensor

from hyperinverter.inverters.inversion import Inversion
from hyperinverter.inverters.psp import PspInverter
from hyperinverter.models.hyperstyle import HyperStyle


class HyperStyleInverter(PspInverter):
    """An Inversion is the code, repeated to every style, and weight * delta by parameter name."""

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
        return self._inversion(output.ws, self.network.residuals(output.deltas))
