"""HyperInverter: E1 finds w, E2 and the hypernetworks find the weight residuals, one frozen generator renders both.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), section 3 and figure 2.
Letters: N images, R pixels, L styles (num_ws), D hidden size, O/I/k as in `hypernetwork`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hyperinverter.models.encoders import LayerwiseEncoder, WEncoder
from hyperinverter.models.hypernetwork import Hypernetwork
from hyperinverter.models.residuals import Residuals

if TYPE_CHECKING:
    from hyperinverter.models.mobile_stylegan import MobileGenerator
    from hyperinverter.models.stylegan2 import Generator


@dataclass
class HyperInverterOutput:
    """What one pass knows about a batch.

    Attributes:
        w: Phase I code, [N, w_dim].
        ws: the same, once per style, [N, L, w_dim].
        w_image: Phase I image G(w), [N, 3, r, r], no gradient; r is R, or less where E2 takes less and the generator
            has a shorter way to it.
        tokens: layer name -> [N, D]; `Hypernetwork.decode` makes residuals of them.
        reconstruction: Phase II image G(w, theta + residuals), [N, 3, R, R]; None from `invert`.
        residuals: parameter name -> residual [N, O, I, k, k], decoded from the tokens; None from `invert`.
    """

    w: Tensor
    ws: Tensor
    w_image: Tensor
    tokens: dict[str, Tensor]
    reconstruction: Tensor | None = None
    residuals: Residuals | None = None


class HyperInverterNetwork(nn.Module):
    """The whole method. Generator and E1 are frozen and stay in eval mode; Phase II trains E2 and the hypernetworks.

    Attributes:
        own_kernels: see `prepare`.
        draws_px: side of the images that are drawn; None: the generator's. A trainer sets what its losses need.
    Raises:
        ValueError: parts that do not fit each other; names the two numbers.
    """

    def __init__(
        self,
        generator: "Generator | MobileGenerator",
        w_encoder: WEncoder,
        layerwise_encoder: LayerwiseEncoder,
        hypernetwork: Hypernetwork,
    ):
        super().__init__()
        _check(generator, w_encoder, layerwise_encoder, hypernetwork)
        self.generator = generator.requires_grad_(False)
        self.w_encoder = w_encoder.requires_grad_(False)
        self.layerwise_encoder = layerwise_encoder
        self.hypernetwork = hypernetwork
        self.own_kernels: Residuals | None = None
        self.draws_px: int | None = None
        self.train(self.training)

    def train(self, mode: bool = True) -> "HyperInverterNetwork":
        """Switch E2 and the hypernetworks; generator (its w_avg) and E1 (its BatchNorm) stay in eval mode."""
        super().train(mode)
        self.generator.eval()
        self.w_encoder.eval()
        return self

    def prepare(self) -> None:
        """Compute what the first synthesis needs of the generator's own weights; again when they have changed."""
        self.own_kernels = self.generator.synthesis.prepare()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of E2 and the hypernetworks, for the Phase II optimiser."""
        return [*self.layerwise_encoder.parameters(), *self.hypernetwork.parameters()]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Phase I: images [N, 3, H, W] in [-1, 1] -> w [N, w_dim], E1's offset plus the generator's mean style."""
        return self.w_encoder(images) + self.generator.mapping.w_avg

    def invert(self, images: Tensor) -> HyperInverterOutput:
        """Both phases up to the tokens; images [N, 3, H, W] in [-1, 1], normally H = W = R.

        With `hypernetwork.passes` above 1, which is beyond the paper and after ReStyle (Alaluf et al., ICCV 2021,
        arXiv:2104.02699), E2 then looks at what the tokens draw, and the hypernetworks add to them. Gradients reach
        every pass through its own part of the sum, not through the images between.
        """
        w = self.encode(images)
        ws = w[:, None].repeat(1, self.generator.num_ws, 1)  # [N, L, w_dim]
        with torch.no_grad():
            w_image = self.synthesise(ws, self.own_kernels, resolution=self.enough_for_e2())
        if self.hypernetwork.use_w_image_features:
            h, h_w = self.layerwise_encoder.pair(images, w_image)
        else:
            h, h_w = self.layerwise_encoder(images), None
        tokens = self.hypernetwork.tokens(h, h_w)
        for _ in range(1, self.hypernetwork.passes):
            with torch.no_grad():
                residuals = self.hypernetwork.decode(tokens)
                drawn = self.synthesise(ws, residuals, resolution=self.enough_for_e2())
            tokens = self.hypernetwork.tokens(h, self.layerwise_encoder(drawn), tokens)
        return HyperInverterOutput(w, ws, w_image, tokens)

    def render(self, ws: Tensor, tokens: dict[str, Tensor] | None = None, noise_mode: str = "const") -> Tensor:
        """Styles [N, L, w_dim] and tokens (None: the generator's own weights) -> images [N, 3, R, R]."""
        residuals = self.own_kernels if tokens is None else self.hypernetwork.decode(tokens)
        return self.synthesise(ws, residuals, noise_mode)

    def synthesise(
        self, ws: Tensor, residuals: Residuals | None, noise_mode: str = "const", resolution: int | None = None
    ) -> Tensor:
        """Styles [N, L, w_dim] and decoded residuals -> images [N, 3, R, R]; for several images from one decoding."""
        resolution = self.draws_px if resolution is None else resolution
        return self.generator.synthesis(ws, residuals, noise_mode, resolution)

    def enough_for_e2(self) -> int:
        """The smallest side in px that the generator draws and E2 does not have to enlarge."""
        sizes = [px for px in self.generator.synthesis.resolutions if px >= self.layerwise_encoder.input_size]
        return min(sizes, default=self.generator.resolution)

    def forward(self, images: Tensor) -> HyperInverterOutput:
        """Both phases: images [N, 3, H, W] in [-1, 1] -> output with `reconstruction`, which carries the gradients."""
        inverted = self.invert(images)
        residuals = self.hypernetwork.decode(inverted.tokens)
        return replace(inverted, reconstruction=self.synthesise(inverted.ws, residuals), residuals=residuals)


def _check(
    generator: "Generator | MobileGenerator", e1: WEncoder, e2: LayerwiseEncoder, hypernetwork: Hypernetwork
) -> None:
    pairs = (
        ("w_dim of w_encoder and generator", e1.w_dim, generator.w_dim),
        ("styles of layerwise_encoder and generator", e2.num_styles, generator.num_ws),
        ("styles of hypernetwork and generator", hypernetwork.num_ws, generator.num_ws),
        ("feature_channels of hypernetwork and layerwise_encoder", hypernetwork.feature_channels, e2.feature_channels),
        ("feature_size of hypernetwork and layerwise_encoder", hypernetwork.feature_size, e2.feature_size),
    )
    faults = [f"{what}: {first} and {second}" for what, first, second in pairs if first != second]
    shapes = {name: tuple(parameter.shape) for name, parameter in generator.synthesis.named_parameters()}
    for name, target in hypernetwork.targets.items():
        if shapes.get(name) != target.shape:
            faults.append(f"{name}: hypernetwork predicts {target.shape}, the generator has {shapes.get(name)}")
    if faults:
        raise ValueError("networks that do not fit each other: " + "; ".join(faults))
