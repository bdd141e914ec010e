"""What a method must offer (`Inverter`), and what all of them share: taking any kind of image, batching, rendering.

Letters: N images, L styles, R resolution.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hyperinverter.config.schema import PRECISIONS, DomainConfig, ProjectionConfig
from hyperinverter.data.sources import open_source
from hyperinverter.extractors.framing import Framing
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.residuals import Residuals
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.stylegan2.layers import check_reduced
from hyperinverter.utils.decode import centre_crop, to_tensor, upright_rgb
from hyperinverter.utils.device import arithmetic, tell_if_slower
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import from_uint8

__all__ = ["Inversion", "Inverter", "as_images"]

logger = logging.getLogger(__name__)

ImagesLike = Tensor | Image.Image | str | Path | Sequence[Tensor | Image.Image | str | Path]


def as_images(
    images: ImagesLike,
    size: int | tuple[int, int],
    look: Callable[[str, Image.Image], object] = lambda name, photo: None,
) -> Tensor:
    """Anything image-like as a batch [N, 3, R, R] in [-1, 1].

    Args:
        images: a tensor [N, 3, H, W] or [3, H, W] in [-1, 1], a PIL image, a path, or a list of these.
        size: R, or height and width; other sizes are centre-cropped to its proportions and resized (bilinear with
            antialiasing), the one policy of the project; PIL images are turned upright and laid over white, as files
            are.
        look: called with name and upright RGB photo of each image that is no tensor, before its crop.
    Raises:
        ValueError: another shape, type or (of a tensor on the CPU) range; says what was given.
    """
    if isinstance(images, Tensor):
        return _checked_tensor(images, (size, size) if isinstance(size, int) else size)
    if isinstance(images, Image.Image):
        return _taken_in("an image", upright_rgb(images), size, look)
    if isinstance(images, str | Path):
        source = open_source(images, resolution=size if isinstance(size, int) else max(size))
        return torch.cat([_taken_in(name, source.read(i), size, look) for i, name in enumerate(source.names)])
    if isinstance(images, Sequence) and len(images) > 0:
        return torch.cat([as_images(image, size, look) for image in images])
    raise ValueError(f"images is {type(images).__name__}; give a tensor [N, 3, H, W] in [-1, 1], PIL images or paths")


def _taken_in(
    name: str, photo: Image.Image, size: int | tuple[int, int], look: Callable[[str, Image.Image], object]
) -> Tensor:
    look(name, photo)
    return from_uint8(to_tensor(photo, size)).unsqueeze(0)


def _checked_tensor(images: Tensor, shape: tuple[int, int]) -> Tensor:
    if images.ndim == 3:
        images = images.unsqueeze(0)
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected [N, 3, H, W] with N at least 1")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; expected floats in [-1, 1]: divide by 127.5 and subtract 1")
    if images.device.type == "cpu":  # elsewhere reading the range back would stop the device
        low, high = images.aminmax()
        if not (low >= -1.01 and high <= 1.01):  # also refuses NaN; 1 % of slack for rounding after a resize
            raise ValueError(f"images lie in [{low:.3g}, {high:.3g}]; expected [-1, 1], finite")
    images = images.float()
    if box := centre_crop((images.shape[3], images.shape[2]), shape):
        left, top, right, bottom = box
        images = images[:, :, top:bottom, left:right]
    if images.shape[-2:] != shape:
        images = F.interpolate(images, shape, mode="bilinear", antialias=True)
    return images


class Inverter(ABC):
    """A method: images in, Inversion out, and back. Subclasses write `load`, `_invert` and, if need be, `_render`.

    Attributes:
        name: key in INVERTERS.
        generator: the domain's generator; renders, and gives R and L.
        domain: sizes and name of the domain.
        folder: the model folder, where directions are looked for.
        model_name, model_hash, generator_hash: written into every Inversion.
        precision: what the networks compute in, fp32, bf16 or fp16; results are float32.
        draws_px: side of the images that are taken and drawn; None: the generator's. See `draw_at`.
    """

    name: ClassVar[str]
    generator: Generator
    domain: DomainConfig
    folder: Path
    model_name: str
    model_hash: str
    generator_hash: str
    precision: str = "fp32"
    draws_px: int | None = None

    @classmethod
    @abstractmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        """From a model folder (name or path) or a DomainConfig."""

    def configure(self, projection: ProjectionConfig) -> None:  # noqa: B027 (most methods have nothing to set)
        """Take over what is set there; None keeps the published number. Concerns methods that optimise per image."""

    def settings(self) -> dict[str, str | float | None]:
        """What results depend on beside the weights, for the protocol; {} for methods that optimise nothing."""
        return {}

    def accelerate(self, precision: str = "fp32", compile: bool = False) -> Self:
        """Compute in another precision, or by compiled networks; before the first image, after `to`.

        Args:
            precision: fp32, or bf16 or fp16: convolutions and matrix products with 8 or 11 binary digits, statistics
                and images in float32. Reconstructions of faces64's first 64 test photos, in [-1, 1], differ from fp32's
                by 0.0027 in the mean and 0.05 at most (bf16), by 0.0003 and 0.007 (fp16). A processor without
                matrix instructions for these types gets slower, and it is said.
            compile: torch.compile, which takes minutes at the first image of each batch size; differs by rounding.
        Raises:
            UserError: the method optimises for every image, which needs fp32 and networks as they are.
            ValueError: unknown precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; write one of {', '.join(PRECISIONS)}")
        if (precision != "fp32" or compile) and self.optimises:
            raise UserError(
                f"method {self.name} optimises for every image, which takes fp32 and networks that are not compiled: "
                f"leave precision at fp32 and compile at false for it"
            )
        self.precision = precision
        tell_if_slower(self.device.type, precision)
        if compile:
            self._compile()
        return self

    def draw_at(self, resolution: int | None) -> Self:
        """Take and draw images of this side in px; None is the generator's.

        They are its full images reduced by box mean, but where it has an early head, which draws them faster and nearly
        the same. An Inversion does not depend on it and renders at any size.

        Raises:
            UserError: the method optimises at the generator's own size.
            ValueError: the generator's images cannot be reduced to it.
        """
        if resolution is not None and check_reduced(resolution, self.generator.resolution) and self.optimises:
            raise UserError(f"method {self.name} optimises at {self.generator.resolution} px: leave resolution out")
        self.draws_px = resolution
        return self

    @property
    def optimises(self) -> bool:
        """Whether the method optimises for every image, and so has something to `configure`."""
        return type(self).configure is not Inverter.configure

    def _compile(self) -> None:
        self.generator.synthesis.compile()

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the networks; returns self."""

    @abstractmethod
    def _invert(self, images: Tensor) -> Inversion:
        """One batch [N, 3, *input_shape]."""

    @property
    def resolution(self) -> int:
        return self.draws_px or self.generator.resolution

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width in px that photos are resized to once, before anything else happens to them."""
        return self.resolution, self.resolution

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @torch.no_grad()
    def invert(self, images: ImagesLike, batch_size: int = 4) -> Inversion:
        """Invert images.

        Args:
            images: a tensor [N, 3, H, W] in [-1, 1], a PIL image, a path (image, folder, zip), or a list of these.
            batch_size: images at a time; the result does not depend on it.
        """
        framing = Framing(self.domain, "crop them first by hyperinverter.data.align.align_face or scripts/align.py")
        batches = as_images(images, self.input_shape, framing.look).split(batch_size)
        for line in framing.report():
            logger.warning(line)
        with arithmetic(self.device, self.precision):
            found = Inversion.cat([self._invert(batch.to(self.device)) for batch in batches])
        return found if self.precision == "fp32" else found.float()

    @torch.no_grad()
    def prepare(self, inversion: Inversion, *, allow_other_model: bool = False) -> Inversion:
        """The same Inversion with its weights computed, so that rendering it, and its edits, costs one synthesis.

            prepared = model.prepare(model.invert(image))
            model.render(prepared.with_ws(...))

        They stay in memory as long as the result or an edit of it does: the synthesis network's convolutions once more
        per image, in float32 (100 MiB at 256 and 1024 px, 1 MiB for faces64).

        Raises:
            UserError: as `render`.
        """
        self._check(inversion, allow_other_model)
        inversion = inversion.to(self.device)
        with arithmetic(self.device, self.precision):
            return replace(inversion, prepared=self.generator.synthesis.prepare(self._residuals(inversion)))

    @torch.no_grad()
    def weight_residuals(self, inversion: Inversion, *, allow_other_model: bool = False) -> dict[str, Tensor]:
        """Δθ by parameter name, [N, *shape of the parameter] in units of the stored weight; {} where nothing changes.

        Dense: 90 MiB per image at 1024 px.

        Raises:
            UserError: as `render`.
        """
        self._check(inversion, allow_other_model)
        if not inversion.has_weights:
            return {}
        with arithmetic(self.device, self.precision):
            residuals = self._residuals(replace(inversion, prepared=None).to(self.device))
        return {name: residual.float() for name, residual in residuals.items()}

    @torch.no_grad()
    def render(
        self,
        inversion: Inversion,
        *,
        batch_size: int = 4,
        allow_other_model: bool = False,
        resolution: int | None = None,
    ) -> Tensor:
        """Images [N, 3, r, r], nominally in [-1, 1] (the generator's output is not clamped).

        Args:
            inversion: made by this model, or loaded from a file that was.
            batch_size: images at a time.
            allow_other_model: True renders also what another model made (say, its tokens by other hypernetworks).
            resolution: r, px, a part of R: the box mean of the image, or what the generator draws faster at that size
                where it can; None is R.
        Raises:
            UserError: another model made it; names both hashes.
            ValueError: R is no multiple of r.
        """
        self._check(inversion, allow_other_model)
        parts = [inversion[i : i + batch_size].to(self.device) for i in range(0, len(inversion), batch_size)]
        with arithmetic(self.device, self.precision):
            images = [self._render(part, resolution) for part in parts]
        return images[0] if len(images) == 1 else torch.cat(images)

    def _render(self, inversion: Inversion, resolution: int | None) -> Tensor:
        residuals = self._residuals(inversion) if inversion.prepared is None else inversion.prepared
        return self.generator.synthesis(
            inversion.ws, weight_residuals=residuals, noise_mode="const", resolution=resolution or self.draws_px
        )

    def _residuals(self, inversion: Inversion) -> Residuals | None:
        """What an Inversion adds to the generator's weights."""
        if inversion.tokens is not None:
            raise UserError(
                "this Inversion has tokens, which need the hypernetworks; load the model with "
                "method='hyperinverter', or render inversion.without_weights()"
            )
        return inversion.residuals

    def _check(self, inversion: Inversion, allow_other_model: bool) -> None:
        expected = (self.generator.num_ws, self.generator.w_dim)
        if tuple(inversion.ws.shape[1:]) != expected:
            raise UserError(
                f"the Inversion (of model {inversion.model_name} {inversion.model_hash}) has styles "
                f"{tuple(inversion.ws.shape[1:])}; model {self.model_name} {self.model_hash} takes {expected}: "
                f"render it with the model that made it"
            )
        if allow_other_model:
            return
        # Codes and dense residuals need only the generator; tokens need this model's own hypernetworks.
        what = "model_hash" if inversion.tokens is not None else "generator_hash"
        made_by, mine = getattr(inversion, what), getattr(self, what)
        if made_by != mine:
            raise UserError(
                f"the Inversion was made by model {inversion.model_name or '(unnamed)'} with {what} "
                f"{made_by or '(none)'}, this is {self.model_name} with {what} {mine}: load the model that made it, "
                f"invert the image again, or pass allow_other_model=True"
            )
