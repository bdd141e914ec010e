"""Methods that optimise for every image: SG2 and SG2 W+ a code, in W (600 steps) or W+ (2000), PTI the generator too.

Sources: StyleGAN2's projector as HyperInverter runs it for comparison (its section 4.1, "SG2 W+"). The optimised noise
inputs are thrown away, as published: an image is rendered with the generator's own. Pivotal Tuning for Latent-based
Editing of Real Images (PTI; Roich et al., ACM TOG 2022, arXiv:2106.05744), sections 3.1 and 3.2, with the released
settings: find a pivot in W, then tune the generator around it for this one image. Its locality regularisation (section
3.3) is off there, and not offered here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.func import functional_call

from hyperinverter.config.names import TUNING_PERCEPTUAL
from hyperinverter.config.schema import DomainConfig, ProjectionConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.inverters.perceptual import Perceptual, find_perceptual
from hyperinverter.inverters.projector import (
    FeatureNetwork,
    Projection,
    WStatistics,
    progress_bar,
    project,
    w_statistics,
)
from hyperinverter.models.stylegan2 import Discriminator, Generator
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

    def __init__(self, model: LoadedModel, find_discriminator: Callable[[], Discriminator | None]) -> None:
        """Args: model; find_discriminator as in `find_perceptual`."""
        super().__init__(model)
        self._find_discriminator = find_discriminator
        self.perceptual = find_perceptual("auto", self.generator.resolution, find_discriminator)
        self._statistics: WStatistics | None = None

    @classmethod
    def load(cls, source: str | Path | DomainConfig) -> Self:
        """From a model folder or domain that has a generator; E1 and hypernetworks are not needed.

        Raises UserError: there is no perceptual network to optimise with; says how to get one.
        """

        def find_discriminator() -> Discriminator | None:
            domain = source if isinstance(source, DomainConfig) else None
            try:
                return load_discriminator(obtain_weights(source, "discriminator"), domain)
            except FileNotFoundError:
                return None

        model = load_model(obtain(source, "generator"), with_hyperinverter=False, with_w_encoder=False)
        return cls(model, find_discriminator)

    def configure(self, projection: ProjectionConfig) -> None:
        if projection.steps is not None:
            self.steps = projection.steps
        self.seed = projection.seed
        self.perceptual = self._asked_for(projection.perceptual, self.perceptual)

    def _asked_for(self, name: str, present: Perceptual) -> Perceptual:
        if name in ("auto", present.name):
            return present
        result = find_perceptual(name, self.generator.resolution, self._find_discriminator)
        result.extractor.to(self.device)
        return result

    def to(self, device: torch.device | str) -> Self:
        self.generator.to(device)
        self.perceptual.extractor.to(device)
        self._statistics = None
        return self

    def settings(self) -> dict[str, str | float | None]:
        whole, sides = self.generator.resolution, self.generator.synthesis.resolutions  # as `project` has it
        px = min(self.perceptual.feature_px or whole, whole)
        how = "by box mean" if min(side for side in sides if side >= px) == whole else "drawn by an early head"
        return {
            "space": self.space,
            "steps": self.steps,
            "perceptual": self.perceptual.name,
            "perceptual_at": f"{px} px, {how}" if px < whole else "full resolution",
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
            self._statistics,
            space=self.space,
            steps=self.steps,
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


@dataclass(frozen=True)
class Tuning:
    """What `tune_generator` found.

    Attributes:
        residuals: parameter of the synthesis network -> tuned minus stored value, [1, *shape of the parameter].
        steps: updates that were made; fewer than asked for when the threshold was reached.
    """

    residuals: dict[str, Tensor]
    steps: int


def tune_generator(
    generator: Generator,
    ws: Tensor,
    target: Tensor,
    features: FeatureNetwork,
    *,
    steps: int = 350,
    learning_rate: float = 3e-4,
    l2_lambda: float = 1.0,
    lpips_lambda: float = 1.0,
    lpips_threshold: float | None = 0.06,
    progress: str = "tune",
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tuning:
    """Adam on every parameter of the synthesis network, until its image at `ws` resembles the target.

    The generator itself is left as it is; what came out is the difference.

    Args:
        generator: rendered with its stored noise.
        ws: the pivot, [1, L, w_dim]; fixed.
        target: [1, 3, R, R] in [-1, 1].
        features: perceptual network, at the images' full resolution.
        steps: at most this many updates.
        l2_lambda: weight of the mean squared difference.
        lpips_lambda: weight of the perceptual distance.
        lpips_threshold: stop as soon as the perceptual distance is no larger; None never stops early.
        on_step: called before every update with step, mean squared difference and perceptual distance.
    """
    if ws.shape != (1, generator.num_ws, generator.w_dim) or len(target) != 1:
        raise ValueError(
            f"ws has shape {tuple(ws.shape)} and target {tuple(target.shape)}; expected "
            f"[1, {generator.num_ws}, {generator.w_dim}] and one image"
        )
    if steps < 0:
        raise ValueError(f"steps is {steps}; write at least 0")
    stored = {name: parameter.detach() for name, parameter in generator.synthesis.named_parameters()}
    # Adam moves θ* as it moves the difference from θ: its updates depend on gradients alone.
    residuals = {name: torch.zeros_like(value).requires_grad_() for name, value in stored.items()}
    optimizer = torch.optim.Adam(residuals.values(), lr=learning_rate)
    done = 0
    with torch.enable_grad(), progress_bar(progress, steps) as bar:
        with torch.no_grad():
            wanted = features.features(target)
        for step in range(steps):
            tuned = {name: value + residuals[name] for name, value in stored.items()}
            image = functional_call(generator.synthesis, tuned, (ws.detach(),), {"noise_mode": "const"})
            l2 = (image - target).square().mean()
            perceptual = features.distance(wanted, features.features(image)).sum()
            if on_step is not None:
                on_step(step, l2.detach(), perceptual.detach())
            if lpips_threshold is not None and perceptual.item() <= lpips_threshold:
                break
            optimizer.zero_grad(set_to_none=True)
            (l2_lambda * l2 + lpips_lambda * perceptual).backward()
            optimizer.step()
            done += 1
            bar.update()
    return Tuning({name: value.detach().unsqueeze(0) for name, value in residuals.items()}, done)


class PtiInverter(ProjectorInverter):
    """An Inversion is the pivot, repeated to every style, and θ* - θ by parameter name.

    Attributes:
        tuning_perceptual: what the tuning measures images with.
        lpips_threshold: stops the tuning early. A distance in LPIPS: on a stand-in network nothing stops it.
    """

    name, title, code_title = "pti", "PTI", "pivot"
    steps = 450
    w_avg_samples = 600
    tuning_steps: int = 350
    tuning_learning_rate: float = 3e-4
    l2_lambda: float = 1.0
    lpips_lambda: float = 1.0
    lpips_threshold: float | None = 0.06

    def __init__(self, model: LoadedModel, find_discriminator: Callable[[], Discriminator | None]) -> None:
        super().__init__(model, find_discriminator)
        result = find_perceptual("auto", self.generator.resolution, find_discriminator, order=TUNING_PERCEPTUAL)
        self.tuning_perceptual = self.perceptual if result.name == self.perceptual.name else result

    @property
    def stops_at(self) -> float | None:
        """The threshold where the perceptual network is the one it was chosen for."""
        return self.lpips_threshold if self.tuning_perceptual.name == "lpips" else None

    def to(self, device: torch.device | str) -> Self:
        self.tuning_perceptual.extractor.to(device)
        return super().to(device)

    def configure(self, projection: ProjectionConfig) -> None:
        super().configure(projection)
        self.tuning_perceptual = self._asked_for(projection.tuning_perceptual, self.tuning_perceptual)
        if projection.tuning_steps is not None:
            self.tuning_steps = projection.tuning_steps

    def settings(self) -> dict[str, str | float | None]:
        return super().settings() | {
            "tuning_steps": self.tuning_steps,
            "tuning_perceptual": self.tuning_perceptual.name,
            "tuning_learning_rate": self.tuning_learning_rate,
            "l2_lambda": self.l2_lambda,
            "lpips_lambda": self.lpips_lambda,
            "lpips_threshold": self.stops_at,
        }

    def _invert_one(self, image: Tensor) -> Inversion:
        pivot = self._project(image).ws
        tuning = tune_generator(
            self.generator,
            pivot,
            image,
            self.tuning_perceptual,
            steps=self.tuning_steps,
            learning_rate=self.tuning_learning_rate,
            l2_lambda=self.l2_lambda,
            lpips_lambda=self.lpips_lambda,
            lpips_threshold=self.stops_at,
            progress=self.name,
        )
        return self._inversion(pivot, residuals=tuning.residuals)
