"""What pSp, e4e, ReStyle and HyperStyle minimise: image losses at every step, and what each adds to them.

Sources: pSp (arXiv:2008.00951), e4e (arXiv:2102.02766), ReStyle (arXiv:2104.02699), HyperStyle (arXiv:2111.15666) and
their public training code. ReStyle and HyperStyle compute the loss and its gradients at every step, and what a step
hands to the next (codes or deltas, and the image) carries none. Here gradients are the mean over the steps, where the
public code has the sum: to Ranger and Adam the same, and `gradient_clip` keeps its meaning.
Letters: N images, L styles, R pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from hyperinverter.config.encoder_schema import TrainEncoderConfig
from hyperinverter.losses import TotalLoss
from hyperinverter.models.hyperstyle import HyperStyle
from hyperinverter.models.wplus import Encoder4Editing, ReStyleModel, WPlusModel
from hyperinverter.models.wplus.model import pooled, prepared
from hyperinverter.training.latent_adversary import LatentAdversary
from hyperinverter.training.optim import split_microbatches, step_over_parts

CHOOSES = ("w_norm",)  # terms that choose the best step too; e4e's own would favour a stage with few differences


@dataclass
class Objective(ABC):
    """One method's steps and losses.

    Attributes:
        losses: of images.
        px: side at which images are drawn for them.
        n_iters: steps that an image goes through.
    """

    config: TrainEncoderConfig
    losses: TotalLoss
    px: int
    autocast: torch.autocast
    n_iters: int

    @property
    def notes(self) -> list[str]:
        """What the user is to know of the settings."""
        return []

    @abstractmethod
    def outputs(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Photos [N,3,R,R] -> after every step, codes [N, L, w_dim] and what is drawn [N,3,px,px], with gradients."""

    def begin(self, step: int) -> None:  # noqa: B027 (most have nothing to do)
        """Before a step of the trainer; `step` updates are done."""

    def terms(self, ws: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Beyond the image losses: name -> weight and value []."""
        return {}

    def after(self, step: int) -> dict[str, Tensor | None]:
        """What else a step of the trainer updates; its scalars."""
        return {}

    def update(
        self, images: Tensor, step: int, optimizer: torch.optim.Optimizer, *, measure: bool
    ) -> dict[str, Tensor | None]:
        """One update of the encoder; the losses are means over the steps that an image goes through."""
        self.begin(step)
        chains = [self._losses(part) for part in split_microbatches(images, self.config.gradient_accumulation)]
        parts = [chain for chain in chains for _ in range(self.n_iters)]
        values = step_over_parts(optimizer, next, parts, clip=self.config.gradient_clip, measure=measure)
        return values | self.after(step)

    def measure(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Losses after the last step, for validation; `loss_I` is that after step I, where there are several."""
        steps = list(self._losses(images, is_training=False))
        by_step = {f"loss_{number}": values["loss"] for number, values in enumerate(steps, start=1)}
        return steps[-1] | (by_step if len(steps) > 1 else {})

    @torch.no_grad()
    def draw(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Photos [N,3,R,R]; reconstructions [N,3,px,px] after the first and, if there are several, the last step."""
        drawn = [image for _, image in self.outputs(images)]
        return [images, *drawn[:1], *drawn[1:][-1:]]

    def _losses(self, images: Tensor, is_training: bool = True) -> Iterator[dict[str, Tensor]]:
        for ws, image in self.outputs(images):
            total, parts = self.losses(image, images)
            for name, (weight, value) in self.terms(ws).items():
                total = total + weight * value if is_training or name in CHOOSES else total
                parts[name] = value.detach()
            yield {"loss": total, **parts}


@dataclass
class WPlusObjective(Objective):
    """pSp: distance of the codes to the average one. One step, or ReStyle's.

    `average_image`: what ReStyle's first step sees beside the photo, [3, H, W].
    """

    network: WPlusModel
    average_image: Tensor | None = None

    def outputs(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        network, x = self.network, self.network.prepare(images)
        drawn = x if self.average_image is None else self.average_image.expand(len(x), -1, -1, -1)
        ws: Tensor | None = None
        for _ in range(self.n_iters):
            with self.autocast:
                if isinstance(network, ReStyleModel):
                    ws = network.step(x, drawn, ws).float()
                else:
                    ws = network.around_average(network.encoder(x).float())
                image = network.render(ws, self.px).float()
            yield ws, image
            ws, drawn = ws.detach(), pooled(image.detach(), network.encoder.input_shape)

    def terms(self, ws: Tensor) -> dict[str, tuple[float, Tensor]]:
        weight, average = self.config.w_norm_weight, self.network.latent_avg
        return {"w_norm": (weight, w_norm(ws, average))} if weight and average is not None else {}


@dataclass
class E4eObjective(WPlusObjective):
    """e4e: differences from w join one after the other and are kept small, codes look like w of samples.

    A difference counts as soon as it is trained (as in ReStyle's public code; e4e's own leaves the newest one out).
    """

    adversary: LatentAdversary | None = None

    def __post_init__(self) -> None:
        self.stage = 0  # how many differences there are
        self.codes: list[Tensor] = []  # of this step of the trainer, for the discriminator

    @property
    def notes(self) -> list[str]:
        config, steps = self.config, self.config.schedule.max_steps
        start, each = config.progressive_start, config.progressive_every
        most, stage = self.network.config.num_styles - 1, self._stage_at(steps - 1)
        if stage == most:
            return []
        return [f"at the end only {stage} of the {most} differences from w are trained; all take schedule.max_steps="
                f"{start + each * (most - 1) + 1} (now {steps}), or smaller progressive_start ({start}) and "
                f"progressive_every ({each})"]  # fmt: skip

    def _stage_at(self, step: int) -> int:
        begun, most = step - self.config.progressive_start, self.network.config.num_styles - 1
        return 0 if begun < 0 else min(begun // self.config.progressive_every + 1, most)

    def begin(self, step: int) -> None:
        self.stage = self._stage_at(step)
        cast(Encoder4Editing, self.network.encoder).progressive_stage = self.stage
        self.codes.clear()

    def terms(self, ws: Tensor) -> dict[str, tuple[float, Tensor]]:
        own = ws[:, : self.stage + 1]  # the others are copies of w
        terms = super().terms(ws) | {"delta": (self.config.delta_weight, delta_norm(own))}
        if self.adversary is not None:
            if torch.is_grad_enabled():
                self.codes.append(own.detach())
            terms["adversarial"] = (self.adversary.config.weight, self.adversary(own))
        return terms

    def after(self, step: int) -> dict[str, Tensor | None]:
        return {} if self.adversary is None else self.adversary.update(torch.cat(self.codes), step)


@dataclass
class HyperStyleObjective(Objective):
    """HyperStyle: image losses with the deltas so far; the codes are E1's and stay."""

    network: HyperStyle

    def outputs(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        network, shape = self.network, self.network.hypernet.input_shape
        x = prepared(images, shape)
        deltas: dict[str, Tensor] = {}
        with torch.no_grad(), self.autocast:
            ws = network.codes(images).float()
            drawn = pooled(network.render(ws, {}, self.px).float(), shape)
        for _ in range(self.n_iters):
            with self.autocast:
                deltas = {name: delta.float() for name, delta in network.step(x, drawn, deltas).items()}
                image = network.render(ws, deltas, self.px).float()
            yield ws, image
            deltas = {name: delta.detach() for name, delta in deltas.items()}
            drawn = pooled(image.detach(), shape)


def w_norm(ws: Tensor, average: Tensor) -> Tensor:
    """pSp's regularisation (arXiv:2008.00951, equation 4): mean over images of ||ws - average||, over all styles.

    Args:
        ws: codes [N, L, w_dim].
        average: [1 or L, w_dim].
    """
    return (ws - average).flatten(1).norm(dim=1).mean()


def delta_norm(ws: Tensor) -> Tensor:
    """e4e's regularisation (arXiv:2102.02766, equation 3): sum over styles of the mean of ||w_i - w_0|| over images.

    `ws`: codes [N, L, w_dim] of w_0 and the styles that differ from it by now; 0 where w_0 is alone.
    """
    return (ws[:, 1:] - ws[:, :1]).norm(dim=2).mean(dim=0).sum()
