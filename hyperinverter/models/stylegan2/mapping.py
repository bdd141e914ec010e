"""StyleGAN2's mapping network: latent and condition to style, with the running mean of w and truncation.

Source: StyleGAN (arXiv:1812.04948), sections 2, B and C; conditions as in StyleGAN2-ADA (arXiv:2006.06676), parameter
names as published by NVIDIA. The discriminator maps its condition with the same network, without a latent.

Letters: N images, L styles.
"""

import torch
from torch import Tensor, nn

from hyperinverter.config.domain_schema import DiscriminatorConfig, GeneratorConfig
from hyperinverter.models.stylegan2.layers import FullyConnected
from hyperinverter.utils.distributed import average


class MappingNetwork(nn.Module):
    """z, and a condition if there is one, to w, repeated for every style; tracks the mean w.

    Args:
        config: the keys that begin with `mapping_`, c_dim and w_avg_beta; with 0 layers the normalised input is the
            output, and activation and rate are those of every layer but the embedding. Without w_avg_beta no mean is
            tracked, and truncation is refused.
        z_dim: size of the latent; 0 means none.
        num_ws: L; None leaves the output [N, w_dim] and tracks no mean.
    """

    w_avg: Tensor | None

    def __init__(
        self,
        config: GeneratorConfig | DiscriminatorConfig,
        *,
        z_dim: int,
        w_dim: int,
        num_ws: int | None = None,
    ) -> None:
        super().__init__()
        c_dim, num_layers = config.c_dim, config.mapping_layers
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.num_ws, self.num_layers = num_ws, num_layers
        self.w_avg_beta = config.w_avg_beta if isinstance(config, GeneratorConfig) else None
        embed, hidden = (w_dim if size is None else size
                         for size in (config.mapping_embed_features, config.mapping_layer_features))  # fmt: skip
        embedded = embed if c_dim > 0 else 0
        sizes = [z_dim + embedded, *[hidden] * (num_layers - 1), w_dim]
        if num_layers == 0 and z_dim + embedded != w_dim:
            raise ValueError(f"without mapping layers w is the input, so w_dim must be {z_dim + embedded}, got {w_dim}")
        if c_dim > 0:
            self.embed = FullyConnected(c_dim, embedded)
        for i in range(num_layers):
            how = config.mapping_activation, config.mapping_lr_multiplier
            self.add_module(f"fc{i}", FullyConnected(sizes[i], sizes[i + 1], *how))
        self.register_buffer("w_avg", None if num_ws is None or self.w_avg_beta is None else torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
        c: Tensor | None = None,
    ) -> Tensor:
        """Map latents to styles.

        Args:
            z: [N, z_dim], standard normal; None when z_dim is 0.
            truncation_psi: 1 keeps w, 0 gives w_avg, between them interpolates.
            truncation_cutoff: number of leading styles that are truncated; None means all.
            update_w_avg: move the running mean towards this batch's mean w.
            c: condition [N, c_dim]; None when c_dim is 0.
        Returns:
            ws [N, L, w_dim], or [N, w_dim] when num_ws is None.
        Raises:
            ValueError: shapes that do not fit, or truncation without a running mean.
        """
        w = self._normalised_input(z, c)
        for i in range(self.num_layers):
            w = self.get_submodule(f"fc{i}")(w)
        if update_w_avg and self.w_avg is not None and self.w_avg_beta is not None:
            with torch.no_grad():
                mean = w.detach().mean(dim=0).to(self.w_avg.dtype)
                self.w_avg.lerp_(average(mean) if self.training else mean, 1 - self.w_avg_beta)
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            if self.w_avg is None:
                raise ValueError(
                    "truncation needs the running mean of w, which this network has not: w_avg_beta is None"
                )
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            truncated = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([truncated, ws[:, cutoff:]], dim=1)
        return ws

    def _normalised_input(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        """Latent and embedded condition, each of unit mean square, side by side."""
        parts = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ValueError(f"expected z [N, {self.z_dim}], got {None if z is None else tuple(z.shape)}")
            parts.append(_normalised(z))
        if self.c_dim > 0:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim or (z is not None and len(c) != len(z)):
                got = None if c is None else tuple(c.shape)
                raise ValueError(f"this network is conditional: expected c [N, {self.c_dim}], got {got}")
            parts.append(_normalised(self.embed(c)))
        elif c is not None and c.numel() > 0:
            raise ValueError(f"this network takes no condition (c_dim is 0), got c {tuple(c.shape)}")
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _normalised(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
