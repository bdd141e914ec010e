"""HyperStyle: hypernetworks that say by which factor each weight of the generator changes, refined over iterations.

Source: HyperStyle (Alaluf et al., CVPR 2022, arXiv:2111.15666), section 3, and its public repository
yuval-alaluf/hyperstyle: parameter names, layer numbers, the shapes of the three kinds of blocks, the raw view of the
shared hypernetwork's product, the order of the iterations. Residuals are multiplicative, weight * (1 + delta); here
weight * delta is handed to the generator as an additive residual, image by image.
Of a depthwise separable convolution the pointwise kernel alone changes: the effective kernel is pointwise[o, i] *
depthwise[i], so that HyperStyle's factor of a pair of channels, the same for every tap, is one of pointwise[o, i], and
a factor of depthwise[i] would add nothing.
Letters: N images, L styles, O/I/k output channels, input channels and kernel side of a weight, C feature channels.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from hyperinverter.config.domain_checks import recorded_section
from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.stylegan2.layers import FullyConnected
from hyperinverter.models.target_layers import target_layers, target_names
from hyperinverter.models.wplus.encoders import halvings_of
from hyperinverter.models.wplus.model import WPlusConfig, build_encoder, enough_px, pooled, prepared
from hyperinverter.utils.errors import UserError

ITERATIONS = 5  # published for inference
INPUT_CHANNELS = 6  # the image and its current reconstruction


@dataclass
class HyperStyleConfig:
    """All that is needed to build the model again; plain JSON types but for the trunks.

    Attributes:
        resolution: R of the generator, px; decides what layer numbers mean.
        shapes: number of each predicted layer (published numbering: b4.conv1, b4.torgb, then conv0, conv1, torgb of
            every block) -> (O, I, k, k).
        shared: numbers of the layers that the shared hypernetwork predicts.
        separable: whether the other convolutions are predicted as products of two small kernels (published:
            SharedWeightsHyperNetResNetSeparable) or as one number per pair of channels (SharedWeightsHyperNetResNet).
        trunk: sizes of the trunk; its `input_size` is the longer side of the images.
        shared_width, width: channels inside the blocks of shared and of other layers.
        code_size: numbers of the code at each block's end.
        token_size, shared_rows, shared_columns: the shared hypernetwork's matrices are [token_size, shared_columns]
            and [token_size, shared_rows * token_size].
        w_dim: numbers of a style vector.
        average_rows: codes in `latent_avg`: 0 none, 1 for all styles, or L.
        wide: images are 4:3 (the car models), as in WPlusConfig.
        n_iters: how often the weights are refined.
        w_encoder: sizes of the encoder of the first codes; None when there is none.
        layers: parameter name below `synthesis.` of every number; None: StyleGAN2's in the published numbering.
    """

    resolution: int
    shapes: dict[int, tuple[int, ...]]
    shared: list[int]
    separable: bool = False
    trunk: EncoderConfig = field(default_factory=EncoderConfig)
    shared_width: int = 128
    width: int = 256
    code_size: int = 512
    token_size: int = 512
    shared_rows: int = 512
    shared_columns: int = 4608
    w_dim: int = 512
    average_rows: int = 0
    wide: bool = False
    n_iters: int = ITERATIONS
    w_encoder: WPlusConfig | None = None
    layers: list[str] | None = None

    @property
    def names(self) -> dict[int, str]:
        """Number of each predicted layer -> parameter name below `synthesis.`."""
        names = target_names(self.resolution, "conv_without_bias") if self.layers is None else self.layers
        return {number: names[number] for number in sorted(self.shapes)}

    @classmethod
    def of(cls, generator: Generator, *, left_out: Sequence[str] = (), code_size: int = 512, **sizes: Any) -> Self:
        """Sizes that change a generator's convolutions of pairs of channels, all but toRGB's (published).

        The shared hypernetwork serves the pair that occurs most often (published: 512 to 512 channels), with a factor
        for each tap where its kernels are alike.

        Args:
            left_out: names, or patterns with `*`, of weights that are not to be changed.
            sizes: the other attributes.
        """
        names = [layer.name for layer in target_layers(generator)]
        plain = {layer.name for layer in target_layers(generator, "conv_without_bias_without_torgb")}
        kept = [layer for layer in target_layers(generator, left_out=left_out) if layer.name in plain]
        shapes = {names.index(layer.name): layer.shape for layer in kept if layer.shape[1] > 1}
        if not shapes:
            raise ValueError("HyperStyle: no convolution of pairs of channels is left to change; leave out fewer")
        pair, count = Counter(shape[:2] for shape in shapes.values()).most_common(1)[0]
        shared = [number for number, shape in shapes.items() if shape[:2] == pair] if count > 1 else []
        sides = {shapes[number][-1] for number in shared}
        published = target_names(generator.resolution, "conv_without_bias")
        return cls(
            generator.resolution,
            shapes,
            shared,
            code_size=code_size,
            token_size=code_size,
            shared_rows=pair[0],
            shared_columns=pair[1] * (sides.pop() ** 2 if len(sides) == 1 else 1),
            w_dim=generator.w_dim,
            average_rows=1,
            layers=None if names == published else names,
            **sizes,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shapes": {str(number): list(shape) for number, shape in self.shapes.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The config of a file; raises ValueError or TypeError where it is none."""
        w_encoder = values.get("w_encoder")
        parts = {
            "trunk": recorded_section(EncoderConfig, values.get("trunk"), "trunk"),
            "shapes": {int(number): tuple(shape) for number, shape in dict(values["shapes"]).items()},
            "w_encoder": None if w_encoder is None else WPlusConfig.from_json(w_encoder),
        }
        return recorded_section(cls, {**values, **parts}, "config")


class SharedHypernet(nn.Module):
    """The two matrices that turn a code into a weight's factors; one for all layers of equal shape."""

    w1: nn.Parameter
    b1: nn.Parameter
    w2: nn.Parameter
    b2: nn.Parameter

    def __init__(self, token_size: int, rows: int, columns: int):
        super().__init__()
        self.token_size, self.rows, self.columns = token_size, rows, columns
        shapes = {"w1": (token_size, columns), "b1": (columns,), "w2": (token_size, rows * token_size)}
        for name, shape in (shapes | {"b2": (rows * token_size,)}).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            nn.init.normal_(self.get_parameter(name), std=1 / 40)  # as published

    def forward(self, code: Tensor, shape: tuple[int, ...]) -> Tensor:
        """code [N, token_size] -> factors [N, O, I, k, k]: the product [N, rows, columns] read anew, not permuted."""
        product = (code @ self.w2 + self.b2).reshape(-1, self.rows, self.token_size) @ self.w1 + self.b1
        if self.rows * self.columns == math.prod(shape):
            return product.reshape(-1, *shape)
        return product.reshape(-1, *shape[:2], 1, 1).expand(-1, *shape)  # one factor per pair of channels


class SharedBlock(nn.Module):
    """Features to the code that the shared hypernetwork takes (published: HyperRefinementBlock)."""

    def __init__(self, channels: int, width: int, code_size: int, map_size: int):
        super().__init__()
        halvings = halvings_of(map_size)
        self.convs = _convs([channels, *[width] * halvings, code_size], [1] + [2] * halvings)
        self.linear = FullyConnected(code_size, code_size)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, code_size]."""
        return self.linear(self.convs(features).flatten(1))


class SeparableKernel(nn.Module):
    """A code to [O, I, k, k]: for every tap the outer product of two vectors, then a linear layer over I and over O."""

    def __init__(self, shape: tuple[int, ...], code_size: int):
        super().__init__()
        self.out_channels, self.in_channels, self.kernel_size = shape[:3]
        taps = self.kernel_size**2
        self.make_kernel_in = nn.Linear(code_size, taps * self.in_channels)
        self.make_kernel_out = nn.Linear(code_size, taps * self.out_channels)
        self.kernel_linear_in = nn.Linear(self.in_channels, self.in_channels)
        self.kernel_linear_out = nn.Linear(self.out_channels, self.out_channels)

    def forward(self, code: Tensor) -> Tensor:
        """[N, code_size, 1, 1] -> [N, O, I, k, k]."""
        k = self.kernel_size
        code = code.flatten(1)
        over_in = self.make_kernel_in(code).reshape(-1, k, k, 1, self.in_channels)
        over_out = self.make_kernel_out(code).reshape(-1, k, k, self.out_channels, 1)
        kernel = self.kernel_linear_in(over_out @ over_in)  # [N, k, k, O, I]
        kernel = self.kernel_linear_out(kernel.transpose(3, 4))  # [N, k, k, I, O]
        return kernel.permute(0, 4, 3, 1, 2)


class RefinementBlock(nn.Module):
    """Features to the factors of one weight: each for toRGB, one per pair of channels for a 3x3 convolution.

    `separable`: of a 3x3 convolution each, as a product of two small kernels (published: RefinementBlockSeparable).
    """

    def __init__(
        self, shape: tuple[int, ...], channels: int, width: int, code_size: int, map_size: int, separable: bool
    ):
        super().__init__()
        self.shape = shape
        pools = shape[-1] > 1 and not separable
        strides = [2] * (halvings_of(map_size) - pools) or [1]  # two pixels are left to pool; [1] of a map of two
        self.convs = _convs([channels, *[width] * (len(strides) - 1), code_size], strides)
        factors: nn.Module
        if shape[-1] > 1 and separable:
            factors = SeparableKernel(shape, code_size)
        else:
            factors = nn.Conv2d(code_size, shape[0] * shape[1], 1)
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), factors) if pools else nn.Sequential(factors)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, I, k, k]."""
        factors = self.output(self.convs(features))
        return factors if factors.ndim == 5 else factors.reshape(-1, *self.shape[:2], 1, 1).expand(-1, *self.shape)


class HyperNet(Trunk):
    """Image and reconstruction to the factors of every predicted weight.

    The published state dict lists the shared hypernetwork's four tensors once more below every block that uses it.
    """

    def __init__(self, config: HyperStyleConfig):
        super().__init__(config.trunk, input_channels=INPUT_CHANNELS)
        self.config = config
        channels, size = self.widths[-1], self.stage_sizes[-1]
        self.shared_weight_hypernet = SharedHypernet(config.token_size, config.shared_rows, config.shared_columns)
        self.refinement_blocks = nn.ModuleDict()
        for number, shape in sorted(config.shapes.items()):
            self.refinement_blocks[str(number)] = (
                SharedBlock(channels, config.shared_width, config.code_size, size)
                if number in config.shared
                else RefinementBlock(shape, channels, config.width, config.code_size, size, config.separable)
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Image and reconstruction [N, 6, H, W] -> parameter name -> factors [N, O, I, k, k]."""
        features = self.stages(images)[-1]
        factors = {}
        for number, name in self.config.names.items():
            block = self.refinement_blocks[str(number)]
            made = block(features)
            is_shared = number in self.config.shared
            factors[name] = self.shared_weight_hypernet(made, self.config.shapes[number]) if is_shared else made
        return factors


@dataclass
class HyperStyleOutput:
    """Codes ws [N, L, w_dim], and parameter name -> deltas [N, O, I, k, k] in weight * (1 + delta)."""

    ws: Tensor
    deltas: dict[str, Tensor]


class HyperStyle(nn.Module):
    """The whole method.

    Attributes:
        decoder: the generator whose weights they change, or None.
        w_encoder: gives the first codes, or None; released checkpoints keep it in a file of its own.
        latent_avg: average code [1 or L, w_dim] that is added to them, or None.
    """

    latent_avg: Tensor | None

    def __init__(self, config: HyperStyleConfig, decoder: Generator | None = None):
        super().__init__()
        self.config = config
        self.hypernet = HyperNet(config)
        self.decoder = decoder
        self.w_encoder = None if config.w_encoder is None else build_encoder(config.w_encoder)
        average = torch.zeros(config.average_rows, config.w_dim) if config.average_rows else None
        self.register_buffer("latent_avg", average)
        side = config.trunk.input_size
        self.hypernet.input_shape = (side * 3 // 4 if config.wide else side, side)

    def codes(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> the first codes ws [N, L, w_dim].

        Raises UserError: there is no encoder or no average code.
        """
        if self.w_encoder is None or self.latent_avg is None:
            missing = "the encoder of the first codes" if self.w_encoder is None else "the average code"
            option = "w_encoder=FILE (faces_w_encoder.pt)" if self.w_encoder is None else "latent_avg=[512] or [L, 512]"
            raise UserError(f"this HyperStyle came without {missing}; give {option}")
        codes = self.w_encoder(prepared(images, self.w_encoder.input_shape))
        codes = (codes.unsqueeze(1) if codes.ndim == 2 else codes) + self.latent_avg
        return codes.expand(-1, self._decoder.num_ws, -1)

    def residuals(self, deltas: dict[str, Tensor]) -> dict[str, Tensor]:
        """weight * delta for every predicted layer, [N, O, I, k, k]: what the generator adds to its stored weights."""
        weights = dict(self._decoder.synthesis.named_parameters())
        return {name: weights[name] * delta for name, delta in deltas.items()}

    def forward(self, images: Tensor, ws: Tensor | None = None) -> HyperStyleOutput:
        """Refine n_iters times: draw, compare with the image, add what the hypernetworks say to the deltas so far.

        Args:
            images: [N, 3, H, W] in [-1, 1], any size.
            ws: codes [N, L, w_dim] to start from; None asks the encoder.
        """
        ws = self.codes(images) if ws is None else ws
        x, shape = prepared(images, self.hypernet.input_shape), self.hypernet.input_shape
        deltas: dict[str, Tensor] = {}
        for _ in range(self.config.n_iters):
            drawn = pooled(self.render(ws, deltas, enough_px(self.decoder, shape)), shape)
            deltas = self.step(x, drawn, deltas)
        return HyperStyleOutput(ws, deltas)

    def step(self, images: Tensor, drawn: Tensor, deltas: dict[str, Tensor]) -> dict[str, Tensor]:
        """One refinement: prepared images and what was drawn with `deltas`, [N, 3, H, W] each -> the deltas now."""
        more = self.hypernet(torch.cat([images, drawn], dim=1))
        return {name: deltas[name] + value if deltas else value for name, value in more.items()}

    def render(self, ws: Tensor, deltas: dict[str, Tensor], px: int | None = None) -> Tensor:
        """Codes [N, L, w_dim] -> images [N, 3, px, px] by the decoder with weights * (1 + delta); px None: its own."""
        return self._decoder.synthesis(ws, self.residuals(deltas), noise_mode="const", resolution=px)

    @property
    def _decoder(self) -> Generator:
        if self.decoder is None:
            raise UserError(
                "this HyperStyle came without its decoder; set .decoder to the generator it was trained with"
            )
        return self.decoder


def _convs(widths: list[int], strides: list[int]) -> nn.Sequential:
    """3x3 convolutions, each followed by LeakyReLU of torch's slope (published)."""
    layers: list[nn.Module] = []
    for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)
