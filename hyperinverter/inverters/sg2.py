"""SG2 and SG2 W+: optimise a code for every image, in W (600 steps) or in W+ (2000), with the generator as it is.

Source: StyleGAN2's projector as HyperInverter runs it for comparison (its section 4.1, "SG2 W+"). The optimised noise
inputs are thrown away, as published: an image is rendered with the generator's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig, ProjectionConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.inverters.perceptual import Perceptual, find_perceptual
from hyperinverter.inverters.projector import Projection, WStatistics, project, w_statistics
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.pretrained.load import LoadedModel, load_discriminator, load_model
from hyperinverter.releases.obtain import obtain, obtain_weights


class ProjectorInverter(Inverter):
    """One code w for all styles.

    Every image is optimised alone and from the same seed, so its result does not depend on its batch.

    Attributes:
        perceptual: what measures images; `name` says which network it is.
        seed: of the exploring noise.
    """

    name, title = "sg2", "SG2"
    space: ClassVar[str] = "w"
    steps: int = 600
    seed: int = 0
    w_avg_samples: ClassVar[int] = 10_000

    def __init__(
        self,
        model: LoadedModel,
        perceptual: str = "auto",
        find_discriminator: Callable[[], Discriminator | None] = lambda: None,
    ) -> None:
        """Args: model; perceptual and find_discriminator as in `find_perceptual`."""
        super().__init__(model)
        self._find_discriminator = find_discriminator
        self.perceptual = find_perceptual(perceptual, self.generator.resolution, find_discriminator)
        self._statistics: WStatistics | None = None

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        """From a model folder or domain that has a generator; E1 and hypernetworks are not needed.

        Raises UserError: there is no perceptual network to optimise with; says how to get one.
        """

        def find_discriminator() -> Discriminator | None:
            try:
                if isinstance(source, DomainConfig):
                    return load_discriminator(obtain_weights(source, "discriminator"), source)
                return load_discriminator(obtain(source, "discriminator"))
            except FileNotFoundError:
                return None

        model = load_model(obtain(source, "generator"), with_hyperinverter=False, with_w_encoder=False)
        return cls(model, find_discriminator=find_discriminator)

    def configure(self, projection: ProjectionConfig) -> None:
        if projection.steps is not None:
            self.steps = projection.steps
        self.seed = projection.seed
        self.perceptual = self._asked_for(projection.perceptual, self.perceptual)

    def _asked_for(self, name: str, present: Perceptual) -> Perceptual:
        if name in ("auto", present.name):
            return present
        found = find_perceptual(name, self.generator.resolution, self._find_discriminator)
        found.extractor.to(self.device)
        return found

    def to(self, device: torch.device | str) -> Self:
        self.generator.to(device)
        self.perceptual.extractor.to(device)
        self._statistics = None
        return self

    def settings(self) -> dict[str, str | float | None]:
        px = self.perceptual.feature_px
        reduced = px if px is not None and px < self.resolution else None
        return {
            "space": self.space,
            "steps": self.steps,
            "perceptual": self.perceptual.name,
            "perceptual_at": f"{reduced} px, by box mean" if reduced else "full resolution",
            "seed": self.seed,
        }

    def _invert(self, images: Tensor) -> Inversion:
        return Inversion.cat([self._invert_one(image.unsqueeze(0)) for image in images])

    def _invert_one(self, image: Tensor) -> Inversion:
        return self._inversion(self._project(image).ws)

    def _project(self, image: Tensor) -> Projection:
        if self._statistics is None:
            self._statistics = w_statistics(self.generator, self.w_avg_samples)
        return project(
            self.generator,
            image,
            self.perceptual,
            space=self.space,
            steps=self.steps,
            statistics=self._statistics,
            feature_px=self.perceptual.feature_px,
            seed=self.seed,
            progress=self.name,
        )

    def _inversion(self, ws: Tensor, **parts: Any) -> Inversion:
        return super()._inversion(ws, **parts, info={"method": self.name, **self.settings()})


class WPlusProjectorInverter(ProjectorInverter):
    """One code per style: closer to the image, farther from what the generator was trained on."""

    name, title = "sg2_plus", "SG2 W+"
    space = "w_plus"
    steps = 2000
