"""StyleGAN2's synthesis network: styles to image, with optional per-image weight residuals.

Source: StyleGAN2 (arXiv:1912.04958) and its ADA version (arXiv:2006.06676), parameter names as published by NVIDIA;
weight residuals: HyperInverter (arXiv:2112.00719), section 3.2, where the hypernetwork's prediction is added to the
stored weight of each layer.

Letters: N images, L styles (2 log2(R) - 2), R resolution in pixels, C image channels, I input and O output
channels, k kernel size, r the resolution of a block.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperinverter.config.domain_schema import GeneratorConfig
from hyperinverter.models.residuals import (
    Kernel,
    Residuals,
    check_drawing,
    check_feature_layer,
    check_residuals,
    dense,
    of_image,
    part_of,
    rows_of,
    with_feature_residual,
    with_residual,
)
from hyperinverter.models.stylegan2.layers import (
    RESAMPLE_TAPS,
    Conv2d,
    FullyConnected,
    block_resolutions,
    channels_at,
    check_architecture,
    check_reduced,
    even_taps,
)
from hyperinverter.ops.bias_act import activate_, check_activation, split_gain
from hyperinverter.ops.modulated_conv import kernel_energy, modulated_conv2d
from hyperinverter.ops.upfirdn2d import setup_filter, upsample2d
from hyperinverter.utils.distributed import randn_rows

# On a CPU without gradients, blocks from here on draw image by image: weights are no longer worth sharing, what a layer
# writes stays in the caches, and memory does not grow with the batch.
SINGLY_FROM_PX = 128


class SynthesisLayer(nn.Module):
    """Style, modulated 3x3 convolution, noise, bias, activation; optionally doubles the size."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, resolution: int, up: int, config: GeneratorConfig
    ) -> None:
        super().__init__()
        self.up, self.resolution = up, resolution
        self.act, self.clamp = check_activation(config.activation), config.conv_clamp
        self.use_noise = config.use_noise
        # Published layers that do not resample keep the usual filter, whatever the others have.
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS if up == 1 else config.resample_filter))
        self.affine = FullyConnected(config.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        if self.use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals, noise_mode: str, gain: float = 1.0) -> Tensor:
        """x [N, I, r, r], w [N, w_dim] -> [N, O, up r, up r]; `gain` multiplies the result (and its clamp)."""
        styles = self.affine(w, residuals.get("affine.weight"), residuals.get("affine.bias"))  # [N, I]
        before, after = split_gain(self.act, gain)  # folded into convolution and offset where the activation allows
        y = modulated_conv2d(
            x,
            styles=styles,
            **_kernel(self.weight, residuals),
            up=self.up,
            resample_filter=even_taps(self.resample_filter),
            padding=1,
            offset=self._offsets(x.shape[0], residuals, noise_mode, before),
            gain=before,
        )
        return activate_(y, self.act, None if self.clamp is None else self.clamp * gain, after)

    def _offsets(self, n: int, residuals: Residuals, noise_mode: str, gain: float) -> list[Tensor]:
        """Bias [1 or N, O, 1, 1] and scaled noise [1 or N, 1, R, R], both times the gain."""
        offsets = [with_residual(self.bias, residuals, "bias")[:, :, None, None] * gain]
        if noise_mode == "none" or not self.use_noise:
            return offsets
        strength = with_residual(self.noise_strength, residuals, "noise_strength").reshape(-1, 1, 1, 1) * gain
        if noise_mode == "random":
            size = (1, self.resolution, self.resolution)
            noise = randn_rows(n, *size, shared=self.training, device=strength.device, dtype=strength.dtype)
        else:
            noise = self.noise_const
        return [*offsets, noise * strength]


class ToRGB(nn.Module):
    """Style and modulated 1x1 convolution to an image, without demodulation."""

    def __init__(self, in_channels: int, *, config: GeneratorConfig) -> None:
        super().__init__()
        self.clamp = config.conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnected(config.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(config.img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))

    def forward(self, x: Tensor, w: Tensor, residuals: Residuals) -> Tensor:
        """x [N, I, r, r], w [N, w_dim] -> image [N, C, r, r]."""
        styles = self.affine(w, residuals.get("affine.weight"), residuals.get("affine.bias")) * self.weight_gain
        offset = with_residual(self.bias, residuals, "bias")[:, :, None, None]
        kernel = _kernel(self.weight, residuals)
        rgb = modulated_conv2d(x, styles=styles, **kernel, demodulate=False, offset=offset)
        return activate_(rgb, "linear", self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: conv0 (doubles the size, absent at 4 px), conv1; torgb and a residual skip by architecture."""

    resample_filter: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, *, resolution: int, is_last: bool, config: GeneratorConfig
    ) -> None:
        super().__init__()
        self.resolution, self.is_first = resolution, resolution == 4
        self.num_convs = 1 if self.is_first else 2
        self.register_buffer("resample_filter", setup_filter(config.resample_filter))
        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, resolution=resolution, up=2, config=config)
        self.conv1 = SynthesisLayer(out_channels, out_channels, resolution=resolution, up=1, config=config)
        shows = is_last or config.architecture == "skip"
        self.torgb = ToRGB(out_channels, config=config) if shows else None
        residual = not self.is_first and config.architecture == "resnet"
        taps = config.resample_filter
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False, up=2, resample_filter=taps) if residual else None

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, residuals: Residuals, noise_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        """Draw one resolution.

        Args:
            x: features [N, I, r/2, r/2], None at 4 px.
            image: [N, C, r/2, r/2], None where no block has drawn yet.
            ws: [N, convs + 1, w_dim], the last one for torgb.
            residuals: by names inside this block; a feature residual of "conv1" is added to what the block puts out.
            noise_mode: as in `SynthesisNetwork`.
        Returns:
            Features [N, O, r, r], and the image [N, C, r, r] or None.
        """
        w = iter(ws.unbind(dim=1))
        skip, gain = None, 1.0
        if self.skip is not None:
            gain = math.sqrt(0.5)  # two branches of unit variance add up to unit variance
            given = residuals.get("skip.weight")
            skip = self.skip(x, gain, None if given is None else dense(self.skip.weight, given))
        if x is None:
            const = with_residual(self.const, residuals, "const")
            x = const.expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, next(w), part_of(residuals, "conv0"), noise_mode)
        x = self.conv1(x, next(w), part_of(residuals, "conv1"), noise_mode, gain)
        x = with_feature_residual(x if skip is None else skip + x, residuals, "conv1")
        if image is not None:
            image = upsample2d(image, even_taps(self.resample_filter))
        if self.torgb is not None:
            rgb = self.torgb(x, next(w), part_of(residuals, "torgb"))
            rgb = rgb if rgb.dtype == torch.float64 else rgb.float()  # the image is summed in full precision
            image = rgb if image is None else image + rgb
        return x, image


class SynthesisNetwork(nn.Module):
    """Styles to image: blocks from 4 px to the full resolution.

    Attributes:
        recompute_from_px: blocks of this resolution and above keep no activations for the backward pass, which computes
            them again: the same numbers for a third more work in these blocks. None: every block keeps them.

    Architectures: "skip" up-samples and sums what every block draws; "orig" and "resnet" draw once, at the end, and the
    blocks of "resnet" have a residual skip.
    """

    def __init__(self, resolution: int, config: GeneratorConfig) -> None:
        super().__init__()
        check_architecture(config.architecture)
        self.resolution, self.w_dim = resolution, config.w_dim
        self.recompute_from_px: int | None = None
        self.block_resolutions = block_resolutions(resolution)
        self.resolutions = (resolution,)  # sides in px that it draws without drawing a larger image first
        self.num_ws = 2 * len(self.block_resolutions)
        self.feature_layers: dict[str, tuple[int, int]] = {}  # whose features can be changed: name -> channels, px
        previous = 0
        for res in self.block_resolutions:
            channels = channels_at(res, config.channel_base, config.channel_max)
            block = SynthesisBlock(previous, channels, resolution=res, is_last=res == resolution, config=config)
            self.add_module(f"b{res}", block)
            previous = channels
            self.feature_layers[f"b{res}.conv1"] = channels, res

    def forward(
        self,
        ws: Tensor,
        weight_residuals: Residuals | None = None,
        noise_mode: str = "const",
        resolution: int | None = None,
    ) -> Tensor:
        """Draw images.

        Args:
            ws: [N, L, w_dim].
            weight_residuals: parameter name without "synthesis." ("b8.conv0.weight", also affine weights and biases,
                biases, noise strengths and "b4.const") -> [N, *shape of the parameter], added to the stored parameter
                of each image; N may be 1 for one residual shared by the batch. None or {} means none. Also what
                `prepare` made of such a mapping. A `FeatureResidual` under a name of `feature_layers` is added to
                the features of that layer.
            noise_mode: "const" uses the stored noise, "random" draws new noise, "none" adds none.
            resolution: r, side of the images in px: R reduced by box mean; None is R.
        Returns:
            images [N, C, r, r], nominally in [-1, 1], not clamped.
        Raises:
            ValueError: shapes, residual names, noise mode or resolution that do not fit this generator.
        """
        reduction = self.resolution // check_reduced(resolution, self.resolution)
        residuals = weight_residuals or {}
        check_drawing(self, ws, residuals, noise_mode)
        image = self._draw(None, None, ws, residuals, noise_mode, self.block_resolutions)
        return image if reduction == 1 else F.avg_pool2d(image, reduction)

    def features(
        self, ws: Tensor, layer: str, weight_residuals: Residuals | None = None, noise_mode: str = "const"
    ) -> Tensor:
        """What a layer puts out, [N, C, r, r], without drawing what comes after it.

        `layer` is one of `feature_layers`: after the second convolution of a block, and its skip where it has one. The
        other arguments, and errors, are those of `forward`.
        """
        residuals = weight_residuals or {}
        _, px, _ = check_feature_layer(self, layer)
        check_drawing(self, ws, residuals, noise_mode)
        x = image = None
        for res in self.block_resolutions[: self.block_resolutions.index(px) + 1]:
            block = cast(SynthesisBlock, self.get_submodule(f"b{res}"))
            x, image = block(x, image, ws[:, : block.num_convs + 1], part_of(residuals, f"b{res}"), noise_mode)
            ws = ws[:, block.num_convs :]
        assert x is not None
        return x

    def _draw(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        residuals: Residuals,
        noise_mode: str,
        resolutions: Sequence[int],
    ) -> Tensor:
        """The blocks of these resolutions; ws begin with the first one's."""
        trains = torch.is_grad_enabled()
        recompute_from_px = (self.recompute_from_px if trains else None) or math.inf
        singly_from_px = SINGLY_FROM_PX if not (trains or noise_mode == "random") else math.inf
        for number, res in enumerate(resolutions):
            if res >= singly_from_px and len(ws) > 1 and ws.device.type == "cpu":
                rest = resolutions[number:]
                rows = [(_row(x, i), _row(image, i), ws[i : i + 1], of_image(residuals, i)) for i in range(len(ws))]
                return torch.cat([self._draw(*row, noise_mode, rest) for row in rows])
            block = cast(SynthesisBlock, self.get_submodule(f"b{res}"))
            # The style after a block's convolutions is its torgb's, and also that of the next block's conv0.
            arguments = (x, image, ws[:, : block.num_convs + 1], part_of(residuals, f"b{res}"), noise_mode)
            if res >= recompute_from_px:
                random = noise_mode == "random"  # drawn again in the backward pass
                x, image = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=random)
            else:
                x, image = block(*arguments)
            ws = ws[:, block.num_convs :]
        assert image is not None
        return image

    def noise_scales(self) -> dict[str, float]:
        """Noise inputs by name, each with its root mean square: 1, as a layer has a `noise_strength` beside it."""
        return {name: 1.0 for name, _ in self.named_buffers() if name.endswith("noise_const")}

    @torch.no_grad()
    def prepare(self, weight_residuals: Residuals | None = None) -> Residuals:
        """What `forward` would compute from residuals again at every call, whatever the styles are.

        Its result in the place of the residuals gives the same images. It holds one more set of the weights that have
        residuals, per image (100 MiB at 1024 px in float32), and is out of date when a weight changes.
        """
        residuals = dict(weight_residuals or {})
        check_residuals(self, residuals, rows_of(residuals))
        for name, layer in self.named_modules():
            if isinstance(layer, SynthesisLayer | ToRGB):
                key = f"{name}.weight"
                weight = with_residual(layer.weight, residuals, key)
                residuals[key] = Kernel(weight, kernel_energy(weight))
        return residuals


def _row(batch: Tensor | None, i: int) -> Tensor | None:
    return None if batch is None else batch[i : i + 1]


def _kernel(weight: Tensor, residuals: Residuals) -> dict[str, Any]:
    """A layer's weight as `modulated_conv2d` takes it."""
    given = residuals.get("weight")
    if not isinstance(given, Kernel):
        return {"weight": weight, "weight_residual": None if given is None else dense(weight, given)}
    shared = len(given.weight) == 1
    return {"weight": given.weight[0], "energy": given.energy[0]} if shared else given._asdict()
