"""What a method must offer (`Inverter`), and what all of them share: taking any kind of image, batching, rendering.

Letters: N images, L styles, R resolution.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.config.schema import PRECISIONS, DomainConfig, ProjectionConfig, RefineConfig
from hyperinverter.inverters.edits import Edits
from hyperinverter.inverters.hub import OnHub
from hyperinverter.inverters.inversion import Inversion, check_inversion, with_offsets
from hyperinverter.models.residuals import Residuals, dense
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.stylegan2.layers import check_reduced
from hyperinverter.pretrained.load import LoadedModel
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.device import arithmetic, resolve_device, warn_if_slower
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.waiting import shown_on_terminal

if TYPE_CHECKING:  # loaded where photos are read
    from hyperinverter.inverters.images import ImagesLike
    from hyperinverter.inverters.refine import Refiner

__all__ = ["Inversion", "Inverter"]

logger = logging.getLogger(__name__)


class Inverter(Edits, OnHub, ABC):
    """A method: images in, Inversion out, and back. Subclasses write `load`, `_invert` and, if need be, `_render`.

    Attributes:
        title: heading of what it draws.
        code_title: heading of what its codes draw without its weights; None where it changes none.
        generator: the domain's generator; renders, and gives R and L.
        folder: the model folder, where directions are looked for.
        model_name, model_hash, generator_hash: written into every Inversion.
        precision: what the networks compute in, fp32, bf16 or fp16; results are float32.
        draws_px: side of the images that are taken and drawn; None: the generator's. See `draw_at`.
        refines: what `refine_by` can move: tokens, w.
        refiner: see `refine_by`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    code_title: ClassVar[str | None] = None
    parts: ClassVar[tuple[str, ...]] = ("generator",)
    generator: Generator
    domain: DomainConfig
    folder: Path
    model_name: str
    model_hash: str
    generator_hash: str
    precision: str = "fp32"
    compiled: bool = False
    draws_px: int | None = None
    refines: ClassVar[tuple[str, ...]] = ()
    refiner: "Refiner | None" = None

    def __init__(self, model: LoadedModel) -> None:
        self.generator = model.generator.eval().requires_grad_(False)
        self.domain, self.folder = model.domain, model.folder
        self.model_name, self.model_hash = model.name, model.hash
        self.generator_hash = model.hashes["generator"]

    @classmethod
    @abstractmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        """From a model folder (name or path) or a DomainConfig."""

    def __repr__(self) -> str:
        """Model, size, device and directions."""
        directions = ", ".join(self.directions) or "none"
        where = f"{self.resolution} px, {self.device}, {self.precision}"
        return f"{type(self).__name__}({self.model_name!r}, {where}, directions: {directions})"

    def set_up(
        self,
        device: str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
        resolution: int | None = None,
        projection: ProjectionConfig | None = None,
        refine: int | RefineConfig = 0,
    ) -> Self:
        """Configure, move, accelerate and size it at once; see `hyperinverter.load`."""
        is_count = isinstance(refine, int) and not isinstance(refine, bool) and refine >= 0
        if not (is_count or isinstance(refine, RefineConfig)):
            raise ValueError(f"refine is {refine!r}; write a number of steps, such as 20, or 0, or a RefineConfig")
        if projection is not None:
            self.configure(projection)
        self.to(resolve_device(device)).draw_at(resolution)
        refine = RefineConfig(steps=refine) if isinstance(refine, int) else refine
        if refine.steps > 0:
            self.refine_by(refine)
        return self.accelerate(precision, compile)

    def configure(self, projection: ProjectionConfig) -> None:
        """Take over what is set there; None keeps the published number. Concerns methods that optimise per image."""

    def refine_by(self, settings: RefineConfig) -> Self:
        """From now on `invert` ends with steps on tokens and w; see `hyperinverter.inverters.refine`.

        Raises ValueError: the method has neither. UserError: no perceptual network is there, or nothing is to move.
        """
        if not self.refines:
            raise ValueError(f"refine is for methods hyperinverter and w_encoder, not {self.name}: leave refine at 0")
        from hyperinverter.inverters.refine import Refiner

        self._check_plain(self.precision, self.compiled)
        self.refiner = Refiner.build(settings, self.domain, self.resolution, "tokens" in self.refines)
        return self

    def heading(self, title: str) -> str:
        """A heading of its results in a sheet, which says so where they are refined."""
        return title if self.refiner is None else f"{title}\nrefine {self.refiner.settings.steps}"

    def settings(self) -> dict[str, str | float | None]:
        """What results depend on beside the weights, for the protocol; {} for methods that optimise nothing."""
        return {} if self.refiner is None else self.refiner.described()

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
        if self.optimises:
            self._check_plain(precision, compile)
        self.precision, self.compiled = precision, compile
        warn_if_slower(self.device.type, precision)
        if compile:
            self._compile()
        return self

    def _check_plain(self, precision: str, compile: bool) -> None:
        if precision != "fp32" or compile:
            raise UserError(
                f"method {self.name} optimises for every image, which takes fp32 and networks that are not compiled: "
                f"leave precision at fp32 and compile at false for it"
            )

    def draw_at(self, resolution: int | None) -> Self:
        """Take and draw images of this side in px; None is the generator's.

        They are its full images reduced by box mean, but where it has an early head, which draws them faster and nearly
        the same. An Inversion does not depend on it and renders at any size.

        Raises:
            UserError: the method optimises at the generator's own size.
            ValueError: the generator's images cannot be reduced to it.
        """
        if resolution is not None and check_reduced(resolution, self.generator.resolution) and self._projects:
            raise UserError(f"method {self.name} optimises at {self.generator.resolution} px: leave resolution out")
        self.draws_px = resolution
        if self.refiner is not None:
            self.refiner = replace(self.refiner, drawn_px=self.resolution)
        return self

    @property
    def optimises(self) -> bool:
        """Whether the method optimises for every image, and so has something to `configure`."""
        return self._projects or self.refiner is not None

    @property
    def _projects(self) -> bool:
        return type(self).configure is not Inverter.configure

    def _compile(self) -> None:
        self.generator.synthesis.compile()

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the networks; returns self."""

    @abstractmethod
    def _invert(self, images: Tensor) -> Inversion:
        """One batch [N, 3, *input_shape]."""

    def _inversion(self, ws: Tensor, **parts: Any) -> Inversion:
        """An Inversion by this model; `parts` are its other attributes."""
        names = ("model_name", "model_hash", "generator_hash")
        return Inversion(ws=ws, **parts, **{name: getattr(self, name) for name in names})

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
    def invert(self, images: "ImagesLike", batch_size: int = 4, *, align: bool | int = False) -> Inversion:
        """Invert images.

        Args:
            images: a tensor [N, 3, H, W] in [-1, 1], a PIL image, a path (image, folder, zip), or a list of these.
            batch_size: images at a time; the result does not depend on it.
            align: True finds the largest face in each photo and crops it as FFHQ does; 2 takes the second largest.
        Raises:
            NoFaceError: `align`, and a photo shows no face, or not so many.
            UserError: `align`, and the model is not of faces.
        """
        if align and (self.domain.alignment != "ffhq" or self.domain.kind == "scenes"):
            raise UserError(f"model {self.model_name} is not of faces in the FFHQ crop; leave align out")
        from hyperinverter.extractors.framing import Framing
        from hyperinverter.inverters.images import as_images

        framing = Framing(self.domain, f"pass align=True, or crop them first by {command_of('align')}")
        with shown_on_terminal("inverting") as is_shown:
            batches = as_images(images, self.input_shape, framing.look, align).split(batch_size)
            for line in framing.report():
                logger.warning(line)
            hidden = not is_shown or len(batches) < 2
            with arithmetic(self.device, self.precision):
                bar = tqdm(batches, desc="inverting", unit="batch", leave=False, disable=hidden)
                result = Inversion.cat([self._invert(batch.to(self.device)) for batch in bar])
        return replace(result if self.precision == "fp32" else result.float(), model=self)

    @torch.no_grad()
    def prepare(self, inversion: Inversion, *, allow_other_model: bool = False) -> Inversion:
        """The same Inversion with its weights computed, so that rendering it, and its edits, costs one synthesis.

            prepared = model.prepare(model.invert(image))
            model.render(prepared.with_ws(...))

        They stay in memory as long as the result or an edit of it does: the synthesis network's convolutions once more
        per image, in float32 (100 MiB at 256 and 1024 px, 1 MiB for faces64).

        Raises UserError: as `render`.
        """
        self._check(inversion, allow_other_model)
        inversion = inversion.to(self.device)
        with arithmetic(self.device, self.precision):
            return replace(inversion, prepared=self.generator.synthesis.prepare(self._residuals(inversion)))

    @torch.no_grad()
    def weight_residuals(self, inversion: Inversion, *, allow_other_model: bool = False) -> dict[str, Tensor]:
        """Δθ by parameter name, [N, *shape of the parameter] in units of the stored weight; {} where nothing changes.

        Dense: 90 MiB per image at 1024 px.

        Raises UserError: as `render`.
        """
        self._check(inversion, allow_other_model)
        if not inversion.has_weights:
            return {}
        with arithmetic(self.device, self.precision):
            residuals = self._residuals(replace(inversion, prepared=None).to(self.device))
        assert residuals is not None
        own = self.generator.synthesis.get_parameter
        return {name: dense(own(name), residual).float() for name, residual in residuals.items()}

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
            inversion.ws,
            weight_residuals=self._changes(inversion, residuals),
            noise_mode="const",
            resolution=resolution or self.draws_px,
        )

    def _changes(self, inversion: Inversion, residuals: Residuals | None) -> Residuals | None:
        """What else than the weights' residuals an Inversion changes in the generator, with them."""
        if inversion.features:
            raise UserError(
                "this Inversion has a residual of features; load the model with method='phase3', or render "
                "inversion.without_weights()"
            )
        return with_offsets(residuals, inversion.offsets)

    def _residuals(self, inversion: Inversion) -> Residuals | None:
        """What an Inversion adds to the generator's weights."""
        if inversion.tokens is not None:
            raise UserError(
                "this Inversion has tokens, which need the hypernetworks; load the model with "
                "method='hyperinverter', or render inversion.without_weights()"
            )
        return inversion.residuals

    def _check(self, inversion: Inversion, allow_other_model: bool) -> None:
        check_inversion(inversion)
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
