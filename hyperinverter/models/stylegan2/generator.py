"""StyleGAN2 generator: mapping and synthesis network in one, in every published variant.

Source: StyleGAN2-ADA (arXiv:2006.06676), parameter names as published by NVIDIA. It computes in the precision of its
weights (float32); the published switch to half precision at high resolutions (num_fp16_res) has no counterpart here.
"""

from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from hyperinverter.config.domain_schema import GeneratorConfig
from hyperinverter.models.residuals import Residuals
from hyperinverter.models.stylegan2.mapping import MappingNetwork
from hyperinverter.models.stylegan2.synthesis import SynthesisNetwork


class Generator(nn.Module):
    """Latents to images.

    Args:
        resolution: R, a power of two of at least 8, pixels.
        options: the fields of `config.domain_schema.GeneratorConfig`, which says what they mean.
    Attributes:
        config: the arguments that build the network again.
    Raises:
        ValueError: values that make no network; says which.
    """

    def __init__(self, *, resolution: int, **options: Any) -> None:
        super().__init__()
        config = GeneratorConfig(**options)
        self.config: dict[str, Any] = {"resolution": resolution, **asdict(config)}
        self.resolution, self.z_dim, self.w_dim, self.c_dim = resolution, config.z_dim, config.w_dim, config.c_dim
        self.synthesis = SynthesisNetwork(resolution, config)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(config, z_dim=config.z_dim, w_dim=config.w_dim, num_ws=self.num_ws)

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        weight_residuals: Residuals | None = None,
        c: Tensor | None = None,
    ) -> Tensor:
        """z [N, z_dim] -> images [N, C, R, R]; arguments as in `MappingNetwork` and `SynthesisNetwork`."""
        ws = self.mapping(z, truncation_psi, truncation_cutoff, c=c)
        return self.synthesis(ws, weight_residuals, noise_mode)
