"""StyleGAN2 generator in the skip architecture (config-f), with optional per-image weight residuals.

Source: StyleGAN2-ADA (arXiv:2006.06676), parameter names as published by NVIDIA; weight residuals: HyperInverter
(arXiv:2112.00719), section 3.2, where the hypernetwork's prediction is added to the stored weight of each layer.

Letters: N images, L styles (2 log2(R) - 2), R resolution in pixels, C channels, I input and O output
channels, k kernel size, r the resolution of a block.
"""

import math
from collections.abc import Mapping as MappingABC
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.models.stylegan2.layers import FullyConnected, block_resolutions, channels_at
from hyperinverter.ops.bias_act import ACTIVATION_GAINS, activate_
from hyperinverter.ops.modulated_conv import modulated_conv2d
from hyperinverter.ops.upfirdn2d import setup_filter, upsample2d

NOISE_MODES = ("const", "random", "none")
W_AVG_BETA = 0.995  # decay of the running mean of w, StyleGAN
MAPPING_LR_MULTIPLIER = 0.01  # StyleGAN, appendix C

Residuals = MappingABC[str, Tensor]


class MappingNetwork(nn.Module):
    """z to w: a normalised latent through fully connected layers, repeated for every style; tracks the mean w."""

    w_avg: Tensor

    def __init__(self, *, z_dim: int, w_dim: int, num_ws: int, num_layers: int = 8) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.num_ws, self.num_layers = z_dim, w_dim, num_ws, num_layers
        for i in range(num_layers):
            layer = FullyConnected(z_dim if i == 0 else w_dim, w_dim, "lrelu", MAPPING_LR_MULTIPLIER)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        """Map latents to styles.

        Args:
            z: [N, z_dim], standard normal.
            truncation_psi: 1 keeps w, 0 gives w_avg, between them interpolates.
            truncation_cutoff: number of leading styles that are truncated; None means all.
            update_w_avg: move the running mean towards this batch's mean w.
        Returns:
            ws [N, L, w_dim].
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"expected z [N, {self.z_dim}], got {tuple(z.shape)}")
        w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.num_layers):
            w = self.get_submodule(f"fc{i}")(w)
        if update_w_avg:
            with torch.no_grad():
                self.w_avg.lerp_(w.detach().mean(dim=0).to(self.w_avg.dtype), 1 - W_AVG_BETA)
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            truncated = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([truncated, ws[:, cutoff:]], dim=1)
        return ws


class SynthesisLayer(nn.Module):
    """Style, modulated 3x3 convolution, noise, bias, leaky ReLU; optionally doubles the size."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, w_dim: int, resolution: int, up: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.up, self.resolution, self.clamp = up, resolution, clamp
        self.register_buffer("resample_filter", setup_filter())
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals, noise_mode: str) -> Tensor:
        """x [N, I, r, r], w [N, w_dim] -> [N, O, up r, up r]."""
        styles = self.affine(w, residuals.get("affine.weight"), residuals.get("affine.bias"))  # [N, I]
        gain = ACTIVATION_GAINS["lrelu"]  # folded into convolution and offset: the activation is positively homogeneous
        y = modulated_conv2d(
            x,
            self.weight,
            styles,
            weight_residual=residuals.get("weight"),
            up=self.up,
            resample_filter=self.resample_filter,
            padding=1,
            offset=self._offset(x.shape[0], residuals, noise_mode, gain),
            gain=gain,
        )
        return activate_(y, "lrelu", self.clamp)

    def _offset(self, n: int, residuals: Residuals, noise_mode: str, gain: float) -> Tensor:
        """Bias plus scaled noise, times the gain, broadcastable to [N, O, R, R]."""
        bias = _with_residual(self.bias, residuals, "bias")[:, None, None, :] * gain  # [1 or N, 1, 1, O]
        if noise_mode == "none":
            return bias.permute(0, 3, 1, 2)
        strength = _with_residual(self.noise_strength, residuals, "noise_strength").reshape(-1, 1, 1, 1) * gain
        if noise_mode == "random":
            noise = torch.randn(n, self.resolution, self.resolution, 1, device=bias.device, dtype=bias.dtype)
        else:
            noise = self.noise_const[None, :, :, None]
        # Summed with the channels last, the memory format of the activations.
        return (noise * strength + bias).permute(0, 3, 1, 2)


class ToRGB(nn.Module):
    """Style and modulated 1x1 convolution to an RGB image, without demodulation."""

    def __init__(self, in_channels: int, *, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals) -> Tensor:
        """x [N, I, r, r], w [N, w_dim] -> RGB [N, 3, r, r]."""
        styles = self.affine(w, residuals.get("affine.weight"), residuals.get("affine.bias")) * self.weight_gain
        offset = _with_residual(self.bias, residuals, "bias")[:, :, None, None]
        rgb = modulated_conv2d(
            x, self.weight, styles, weight_residual=residuals.get("weight"), demodulate=False, offset=offset
        )
        return activate_(rgb, "linear", self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: conv0 (doubles the size, absent at 4 px), conv1, torgb."""

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, w_dim: int, resolution: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.resolution, self.is_first = resolution, resolution == 4
        self.num_convs = 1 if self.is_first else 2
        self.register_buffer("resample_filter", setup_filter())
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim=w_dim, resolution=resolution, up=2, clamp=clamp
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim=w_dim, resolution=resolution, up=1, clamp=clamp)
        self.torgb = ToRGB(out_channels, w_dim=w_dim, clamp=clamp)

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, residuals: Residuals, noise_mode: str
    ) -> tuple[Tensor, Tensor]:
        """Features [N, I, r/2, r/2], image [N, 3, r/2, r/2] (None at 4 px), ws [N, convs + 1, w_dim] -> both at r."""
        w = iter(ws.unbind(dim=1))
        if x is None:
            const = _with_residual(self.const, residuals, "const")
            x = const.expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, next(w), _of(residuals, "conv0"), noise_mode)
        x = self.conv1(x, next(w), _of(residuals, "conv1"), noise_mode)
        rgb = self.torgb(x, next(w), _of(residuals, "torgb"))
        rgb = rgb if rgb.dtype == torch.float64 else rgb.float()  # the image is summed in full precision
        return x, rgb if image is None else upsample2d(image, self.resample_filter) + rgb


class SynthesisNetwork(nn.Module):
    """Styles to image: blocks from 4 px to the full resolution whose RGB outputs are up-sampled and summed."""

    def __init__(
        self, *, resolution: int, w_dim: int, channel_base: int, channel_max: int, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.resolution, self.w_dim = resolution, w_dim
        self.block_resolutions = block_resolutions(resolution)
        self.num_ws = 2 * len(self.block_resolutions)
        previous = 0
        for res in self.block_resolutions:
            channels = channels_at(res, channel_base, channel_max)
            block = SynthesisBlock(previous, channels, w_dim=w_dim, resolution=res, clamp=conv_clamp)
            self.add_module(f"b{res}", block)
            previous = channels

    def forward(self, ws: Tensor, weight_residuals: Residuals | None = None, noise_mode: str = "const") -> Tensor:
        """Draw images.

        Args:
            ws: [N, L, w_dim].
            weight_residuals: parameter name without "synthesis." ("b8.conv0.weight", also affine weights and biases,
                biases, noise strengths and "b4.const") -> [N, *shape of the parameter], added to the stored parameter
                of each image; N may be 1 for one residual shared by the batch. None or {} means none.
            noise_mode: "const" uses the stored noise, "random" draws new noise, "none" adds none.
        Returns:
            RGB [N, 3, R, R], nominally in [-1, 1], not clamped.
        Raises:
            ValueError: shapes, residual names or noise mode that do not fit this generator.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected ws [N, {self.num_ws}, {self.w_dim}], got {tuple(ws.shape)}")
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"unknown noise_mode {noise_mode!r}, expected one of {NOISE_MODES}")
        residuals = weight_residuals or {}
        self._check_residuals(residuals, ws.shape[0])
        x = image = None
        start = 0
        for res in self.block_resolutions:
            block = self.get_submodule(f"b{res}")
            # A block's torgb shares its style with the next block's conv0.
            styles = ws.narrow(1, start, block.num_convs + 1)
            x, image = block(x, image, styles, _of(residuals, f"b{res}"), noise_mode)
            start += block.num_convs
        assert image is not None
        return image

    def _check_residuals(self, residuals: Residuals, n: int) -> None:
        if not residuals:
            return
        parameters = dict(self.named_parameters())
        for name, value in residuals.items():
            if name not in parameters:
                raise ValueError(f"weight_residuals: {name!r} is no parameter of this {self.resolution} px generator")
            shape = parameters[name].shape
            if value.ndim != len(shape) + 1 or value.shape[1:] != shape or value.shape[0] not in (1, n):
                raise ValueError(f"weight residual {name!r} must be {(n, *shape)} (or N = 1), got {tuple(value.shape)}")


class Generator(nn.Module):
    """Mapping and synthesis network.

    Args:
        resolution: R, a power of two of at least 8, pixels.
        z_dim: size of the input latent.
        w_dim: size of a style.
        channel_base: channels at resolution r are min(channel_base / r, channel_max).
        channel_max: see channel_base.
        mapping_layers: fully connected layers from z to w.
        conv_clamp: limit of every layer's output, for checkpoints trained in half precision; None means no limit.
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
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.z_dim, self.w_dim = resolution, z_dim, w_dim
        self.config: dict[str, Any] = {
            "resolution": resolution,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "mapping_layers": mapping_layers,
            "conv_clamp": conv_clamp,
        }
        self.synthesis = SynthesisNetwork(
            resolution=resolution,
            w_dim=w_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            conv_clamp=conv_clamp,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim=z_dim, w_dim=w_dim, num_ws=self.num_ws, num_layers=mapping_layers)

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        weight_residuals: Residuals | None = None,
    ) -> Tensor:
        """z [N, z_dim] -> RGB [N, 3, R, R]; arguments as in `MappingNetwork` and `SynthesisNetwork`."""
        ws = self.mapping(z, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, weight_residuals, noise_mode)


def _of(residuals: Residuals, part: str) -> Residuals:
    """The residuals of one submodule, by their names inside it."""
    if not residuals:
        return residuals
    prefix = part + "."
    return {name.removeprefix(prefix): value for name, value in residuals.items() if name.startswith(prefix)}


def _with_residual(parameter: Tensor, residuals: Residuals, name: str) -> Tensor:
    """Stored parameter plus its residual, [1 or N, *shape of the parameter]."""
    return parameter + residuals[name] if name in residuals else parameter.unsqueeze(0)
