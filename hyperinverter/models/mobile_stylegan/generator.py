"""MobileStyleGAN's generator: StyleGAN2's mapping and a depthwise separable synthesis network in the Haar domain.

Source: MobileStyleGAN (Belousov, 2021, arXiv:2104.04767), as the package `random-face` publishes it.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from hyperinverter.config.domain_schema import MOBILE, GeneratorConfig
from hyperinverter.models.mobile_stylegan.layers import EarlyHead, MobileLayer, StyledConv, ToImage, Up
from hyperinverter.models.mobile_stylegan.synthesis import MobileSynthesis
from hyperinverter.models.residuals import Residuals
from hyperinverter.models.stylegan2.mapping import MappingNetwork


class MobileGenerator(nn.Module):
    """Latents to images.

    Args:
        resolution: R, a power of two of at least 32, pixels.
        others: those of `config.domain_schema.GeneratorConfig`, which says what they mean.
        early_heads: sides in px that an early head draws, with the channels of its convolutions.
    Raises:
        ValueError: values that make no network.
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
        early_heads: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.z_dim, self.w_dim, self.c_dim = resolution, z_dim, w_dim, 0
        sizes: dict[str, Any] = {"w_dim": w_dim, "channel_base": channel_base, "channel_max": channel_max}
        self.synthesis = MobileSynthesis(resolution=resolution, **sizes, early_heads=early_heads)
        self.num_ws = self.synthesis.num_ws
        sizes |= {"architecture": MOBILE, "z_dim": z_dim, "mapping_layers": mapping_layers}
        self.config: dict[str, Any] = {**sizes, "resolution": resolution, "early_heads": dict(early_heads or {})}
        self.mapping = MappingNetwork(GeneratorConfig(**sizes), z_dim=z_dim, w_dim=w_dim, num_ws=self.num_ws)

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        weight_residuals: Residuals | None = None,
    ) -> Tensor:
        """z [N, z_dim] -> images [N, 3, R, R]; arguments as in `MappingNetwork` and `MobileSynthesis`."""
        return self.synthesis(self.mapping(z, truncation_psi, truncation_cutoff), weight_residuals, noise_mode)

    def start_early_head(self, channels: int, px: int) -> EarlyHead:
        """A head of px pixels to be trained, whose styles start as those of the next layer and of the image head."""
        layers = [cast(MobileLayer, layer) for layer in self.synthesis.layers]
        if px not in [layer.size for layer in layers[:-1]]:
            raise ValueError(f"no early head of {px} px: it draws the size of a layer before the last one")
        count = self.synthesis.layers_up_to(px)
        before, last = layers[count - 1 : count + 1]
        head = EarlyHead(before.conv2.bias.shape[0], channels, self.w_dim)
        pairs: tuple[tuple[StyledConv | ToImage, Up | StyledConv | ToImage], ...] = (
            (head.conv1, last.up),
            (head.conv2, last.conv2),
            (head.to_img, self.synthesis.to_img),
        )
        with torch.no_grad():
            for conv, source in pairs:
                own, given = conv.modulation, source.modulation
                count = min(len(own.bias), len(given.bias))
                own.weight.zero_()[:count] = given.weight[:count]
                own.bias[:count] = given.bias[:count]
            for conv in (head.conv1, head.conv2):
                conv.depthwise.normal_(std=0.1)[:, :, 1, 1] += 3  # hands its input on, times 3: the layer divides by it
                nn.init.kaiming_normal_(conv.pointwise)
            head.to_img.weight.normal_(std=0.1)
        return head


def band_order(channels: int) -> Tensor:
    """Where the channels that enter an inverse Haar transform here lie in published weights, [channels].

    Published, the high bands of a channel stand together ([C, 3]: lh, hl, hh); here each band's channels do, which is
    faster. It concerns whatever writes such channels: `conv1`, `conv2` and `to_img` (kernel rows, bias) and `up`
    (modulation rows).
    """
    high = torch.arange(channels // 4, channels).view(-1, 3).t().flatten()
    return torch.cat([torch.arange(channels // 4), high])


@torch.no_grad()
def mean_w(mapping: MappingNetwork, count: int = 20_000) -> Tensor:
    """The mean of w over seeded z, [w_dim]: what `mapping.w_avg` is where the published weights have none.

    In float64 and rounded to 2^-16, so that every machine finds the same numbers, and with them the same hash.
    """
    exact = deepcopy(mapping).double()
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(mapping.w_dim, dtype=torch.float64)
    for _ in range(count // 1000):
        total += exact(torch.randn(1000, mapping.z_dim, generator=random, dtype=torch.float64))[:, 0].sum(dim=0)
    return ((total / count * 2**16).round() / 2**16).float()
