"""StyleGAN2 generator: mapping and synthesis network in one, in every published variant.

Source: StyleGAN2-ADA (arXiv:2006.06676), parameter names as published by NVIDIA. It computes in the precision of its
weights (float32); the published switch to half precision at high resolutions (num_fp16_res) has no counterpart here.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from hyperinverter.models.residuals import Residuals
from hyperinverter.models.stylegan2.layers import RESAMPLE_TAPS, arguments
from hyperinverter.models.stylegan2.mapping import LR_MULTIPLIER, W_AVG_BETA, MappingNetwork
from hyperinverter.models.stylegan2.synthesis import SynthesisNetwork, SynthesisOptions


class Generator(nn.Module):
    """Latents to images.

    Args:
        resolution: R, a power of two of at least 8, pixels.
        others: those of `config.domain_schema.GeneratorConfig`, which says what they mean.
    Raises:
        ValueError: values that make no network; says which.
    """

    def __init__(
        self,
        *,
        resolution: int,
        z_dim: int = 512,
        w_dim: int = 512,
        channel_base: int = 32768,
        channel_max: int = 512,
        mapping_layers: int = 8,
        architecture: str = "skip",
        c_dim: int = 0,
        img_channels: int = 3,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = RESAMPLE_TAPS,
        conv_clamp: float | None = None,
        mapping_embed_features: int | None = None,
        mapping_layer_features: int | None = None,
        mapping_activation: str = "lrelu",
        mapping_lr_multiplier: float = LR_MULTIPLIER,
        w_avg_beta: float | None = W_AVG_BETA,
    ) -> None:
        given = arguments(locals())
        super().__init__()
        self.config: dict[str, Any] = {**given, "resample_filter": [float(tap) for tap in resample_filter]}
        self.resolution, self.z_dim, self.w_dim, self.c_dim = resolution, z_dim, w_dim, c_dim
        options = SynthesisOptions(**{item.name: given[item.name] for item in fields(SynthesisOptions)})
        self.synthesis = SynthesisNetwork(
            resolution=resolution, channel_base=channel_base, channel_max=channel_max, options=options
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim=z_dim,
            w_dim=w_dim,
            num_ws=self.num_ws,
            c_dim=c_dim,
            num_layers=mapping_layers,
            embed_features=mapping_embed_features,
            layer_features=mapping_layer_features,
            activation=mapping_activation,
            lr_multiplier=mapping_lr_multiplier,
            w_avg_beta=w_avg_beta,
        )

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
