"""Image to W+ with a released encoder: resize, encode, add the average code; ReStyle repeats it with what it drew.

Sources: pSp (arXiv:2008.00951), e4e (arXiv:2102.02766), ReStyle (arXiv:2104.02699) and their public repositories.
Letters: N images, L styles, H and W pixels, R the decoder's resolution, w_dim numbers of a style vector.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.domain_checks import recorded_section
from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus.encoders import ENCODERS, BackboneEncoder, GradualStyleEncoder, LastLayerWPlusEncoder
from hyperinverter.utils.errors import UserError

RESTYLE_ITERATIONS = 5  # published


@dataclass
class WPlusConfig:
    """All that is needed to build the model again; plain JSON types but for the trunk.

    Attributes:
        encoder_type: a key of ENCODERS.
        num_styles: L of the codes. An encoder into W repeats its code so often.
        w_dim: numbers of a style vector.
        input_channels: 3 for an image, 6 with the reconstruction beside it (ReStyle), else label maps and the like.
        trunk: sizes of the trunk; its `input_size` is the longer side of the images.
        hidden_size: width before the last layer of LastLayerWPlusEncoder; None means w_dim.
        head_width: channels in each style's head, of encoders that have such; None means w_dim, as published.
        average_rows: codes in `latent_avg`: 0 none, 1 for all styles, or L.
        start_from_latent_avg: whether the average code is added to what the encoder gives.
        wide: images are 4:3 (the car models): middle three quarters of the rows of a square image.
        n_iters: ReStyle's iterations; None for one pass without feedback.
    """

    encoder_type: str
    num_styles: int
    w_dim: int = 512
    input_channels: int = 3
    trunk: EncoderConfig = field(default_factory=EncoderConfig)
    hidden_size: int | None = None
    head_width: int | None = None
    average_rows: int = 0
    start_from_latent_avg: bool = True
    wide: bool = False
    n_iters: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The config of a file; raises ValueError where it is none."""
        trunk = recorded_section(EncoderConfig, values.get("trunk"), "trunk")
        return recorded_section(cls, {**values, "trunk": trunk}, "config")


class WPlusModel(nn.Module):
    """pSp or e4e: one pass from images to codes.

    Attributes:
        encoder: gives the codes as recorded, before the average is added.
        decoder: the generator the encoder was trained with, or None.
        latent_avg: average code [1 or L, w_dim], or None.
    """

    latent_avg: Tensor | None

    def __init__(self, config: WPlusConfig, decoder: Generator | None = None):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.decoder = decoder
        average = torch.zeros(config.average_rows, config.w_dim) if config.average_rows else None
        self.register_buffer("latent_avg", average)

    def prepare(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] -> what the encoder takes: bilinear with antialiasing, as published (PIL's Resize)."""
        return prepared(images, self.encoder.input_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1], any size -> ws [N, L, w_dim]."""
        return self.around_average(self.encoder(self.prepare(images)))

    def around_average(self, codes: Tensor) -> Tensor:
        """What the encoder gave, [N, L, w_dim] or [N, w_dim] -> ws [N, L, w_dim]."""
        average = self.latent_avg if self.config.start_from_latent_avg else None
        if codes.ndim == 2:  # an encoder into W: one code for all styles, and so one average
            codes, average = codes.unsqueeze(1), None if average is None else average[:1]
        ws = codes if average is None else codes + average
        return ws.expand(-1, self.config.num_styles, -1)

    def render(self, ws: Tensor, px: int | None = None) -> Tensor:
        """ws [N, L, w_dim] -> images [N, 3, px, px] by the decoder with its stored noise; surplus styles are unused.

        `px`: a part of the decoder's R, which it may draw faster; None: R. Raises UserError: there is no decoder.
        """
        if self.decoder is None:
            raise UserError("this encoder came without its decoder; set .decoder to the generator it was trained with")
        return self.decoder.synthesis(ws[:, : self.decoder.num_ws], noise_mode="const", resolution=px)


class ReStyleModel(WPlusModel):
    """ReStyle: the encoder sees the image beside its current reconstruction and says how the codes must change."""

    def __init__(self, config: WPlusConfig, decoder: Generator | None = None):
        if config.input_channels != 6:
            raise ValueError(
                f"ReStyle's encoder takes 6 channels (image and reconstruction), this one {config.input_channels}; "
                f"read it as psp or e4e"
            )
        super().__init__(config, decoder)

    @torch.no_grad()
    def average_image(self) -> Tensor:
        """What the decoder draws from the average code, at the encoder's size, [3, H, W].

        Raises UserError: there is no average code or no decoder.
        """
        if self.latent_avg is None:
            raise UserError("this ReStyle encoder came without its average code; give latent_avg=[512] or [L, 512]")
        ws = self.latent_avg.expand(self.config.num_styles, -1).unsqueeze(0)
        return self.drawn(ws)[0]

    def drawn(self, ws: Tensor) -> Tensor:
        """ws [N, L, w_dim] -> what the decoder draws, at the encoder's size, [N, 3, H, W]."""
        shape = self.encoder.input_shape
        return pooled(self.render(ws, enough_px(self.decoder, shape)), shape)

    def step(self, images: Tensor, drawn: Tensor, ws: Tensor | None = None) -> Tensor:
        """One iteration: prepared images and what was drawn last, [N, 3, H, W] each -> the codes [N, L, w_dim] now.

        `ws`: the codes that it was drawn from; None at the first iteration, which starts from the average code.
        """
        offsets = self.encoder(torch.cat([images, drawn], dim=1))
        return self.around_average(offsets) if ws is None else ws + offsets

    def steps(self, images: Tensor, average_image: Tensor | None = None) -> list[Tensor]:
        """The codes after every iteration; each one's drawing is what the next one compares the image with.

        Args:
            images: [N, 3, H, W] in [-1, 1], any size.
            average_image: [3, H, W], to spare drawing it again; the first iteration's comparison.
        Returns:
            n_iters tensors [N, L, w_dim].
        """
        x = self.prepare(images)
        drawn = (self.average_image() if average_image is None else average_image).expand(len(x), -1, -1, -1)
        results = [self.step(x, drawn)]
        while len(results) < (self.config.n_iters or 1):
            results.append(self.step(x, self.drawn(results[-1]), results[-1]))
        return results

    def forward(self, images: Tensor, average_image: Tensor | None = None) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> ws [N, L, w_dim] of the last iteration."""
        return self.steps(images, average_image)[-1]


def build_encoder(config: WPlusConfig) -> Trunk:
    """The encoder alone, with random weights."""
    if config.encoder_type not in ENCODERS:
        raise ValueError(f"encoder_type is {config.encoder_type!r}; write one of {', '.join(ENCODERS)}")
    encoder_class = ENCODERS[config.encoder_type]
    sizes: dict[str, Any] = {"w_dim": config.w_dim, "input_channels": config.input_channels}
    if not config.encoder_type.endswith("IntoW"):
        sizes["num_styles"] = config.num_styles
    if encoder_class is LastLayerWPlusEncoder:
        sizes["hidden_size"] = config.hidden_size
    if issubclass(encoder_class, GradualStyleEncoder | BackboneEncoder):
        sizes["head_width"] = config.head_width
    encoder = encoder_class(config.trunk, **sizes)
    side = config.trunk.input_size
    encoder.input_shape = (side * 3 // 4 if config.wide else side, side)
    return encoder


def build_model(config: WPlusConfig, decoder: Generator | None = None) -> WPlusModel:
    """pSp, e4e or (with n_iters) ReStyle around a decoder, with random weights."""
    return (WPlusModel if config.n_iters is None else ReStyleModel)(config, decoder)


def prepared(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images [N, C, H, W] -> [N, C, *shape] as PIL resizes 8-bit photos, bilinear with antialiasing (published)."""
    images = _of_aspect(images, shape)
    if images.shape[2:] == shape:
        return images
    return F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=True)


def pooled(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """A decoder's images [N, 3, R, R] -> [N, 3, *shape] by means over pixels (repeating them where shape is larger)."""
    return F.adaptive_avg_pool2d(_of_aspect(images, shape), shape)


def enough_px(decoder: Generator | None, shape: tuple[int, int]) -> int | None:
    """Side at which a decoder's images are drawn to be `pooled` to this shape; None: their own."""
    side = shape[1]
    return side if decoder is not None and side < decoder.resolution and decoder.resolution % side == 0 else None


def _of_aspect(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """The middle rows of square images where `shape` is wider than high; other images as they are."""
    side = images.shape[2]
    if shape[0] >= shape[1] or images.shape[3] != side:
        return images
    margin = side * (shape[1] - shape[0]) // (2 * shape[1])
    return images[:, :, margin : side - margin]
