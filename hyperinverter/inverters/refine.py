"""Refinement: a few steps of Adam on the tokens that E2 predicted, and if asked on w, towards the photo.

Beyond the paper. The tokens can hold more than E2's single prediction finds; the result is the same small file. Of
`w_encoder` w moves, and as its tokens, from 0, a number per channel of the generator (`ChannelScales`). The losses are
Phase II's: L2, a perceptual distance, for faces identity, and if asked edit consistency: a random step in W shall
change as much as in the generator's own image. A token's rate is a part of the size that it was predicted with: sizes
differ three times between domains, ten times between layers. Letters: N images, L styles, R pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig, RefineConfig
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.extractors.resize import at_most
from hyperinverter.inverters.perceptual import Perceptual, find_perceptual
from hyperinverter.inverters.projector import progress_bar
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.ops.distances import relative_difference
from hyperinverter.utils.errors import UserError

Draw = Callable[[Tensor, dict[str, Tensor], int], Tensor]
ADAM_BETAS = (0.5, 0.9)  # a short run cannot correct what momentum of 0.9 carries past the photo
TOKEN_RATE = 0.25  # of a token's size; 0.35 comes closer and keeps less of the edits
SCALE_RATE = 0.3  # of w_encoder's scales, which are 0 at first
W_LEARNING_RATE = 0.02  # of w_encoder's w
LEAST_SIZE = 0.05  # of a token, for its rate
PERCEPTUAL = ("lpips", "squeezenet_features")  # best first
EDIT_REACH = 0.5  # an edit goes up to this share of the way to another w, as in training
EDIT_SEED = 0  # of these edits, the same for every image, so that no image feels the others


@dataclass(frozen=True)
class Refiner:
    """Refines codes and tokens of a batch; each image's result does not depend on the others.

    Attributes:
        settings: steps, rates and weights.
        perceptual: measures images; None leaves that term out.
        identity: compares faces; None leaves that term out.
        loss_resolution: larger images are compared at this, px.
        drawn_px: side of the images that will be drawn, and are drawn here in the last steps (`settings.early`). A
            shorter way to the compared ones takes half the time, but an early head's colours are not quite the
            generator's.
        has_tokens: whether what moves beside w is tokens, whose sizes their rates follow, or scales, which start at 0.
        history: of the last call, the loss [N] before each step.
    """

    settings: RefineConfig
    perceptual: Perceptual | None
    identity: MobileFaceNet | None
    loss_resolution: int
    drawn_px: int
    has_tokens: bool = True
    history: list[Tensor] = field(default_factory=list)

    @classmethod
    def build(cls, settings: RefineConfig, domain: DomainConfig, resolution: int, has_tokens: bool) -> Self:
        """With the networks that serve the domain.

        Args:
            resolution: of the photos, px; larger ones are compared at the domain's `loss_resolution`.
            has_tokens: whether E2 has predicted tokens, and w stays unless asked.
        Raises:
            UserError: the perceptual network is not there, or nothing is to move; says what to write.
        """
        settings = with_rates(settings, has_tokens)
        if settings.learning_rate == settings.w_learning_rate == 0:
            raise UserError("refine.learning_rate and refine.w_learning_rate are 0, so nothing moves: leave one out")
        if not 0 <= settings.early <= 1:
            raise UserError(f"refine.early is {settings.early}; it is a share of the steps, from 0 to 1")
        px, perceptual, identity = min(resolution, domain.loss_resolution), None, None
        if settings.perceptual > 0:
            try:
                perceptual = find_perceptual("auto", px, lambda: None, PERCEPTUAL)
            except UserError as error:
                raise UserError(f"refine.perceptual is {settings.perceptual:g}; {error}; or set it to 0") from error
        if settings.identity > 0 and domain.kind == "faces" and MobileFaceNet.why_missing() is None:
            identity = MobileFaceNet.find()
        return cls(settings, perceptual, identity, domain.loss_resolution, resolution, has_tokens)

    def described(self) -> dict[str, str | float | None]:
        """What results depend on, for the protocol."""
        names = {"refine_perceptual_network": self.perceptual and self.perceptual.name}
        names["refine_identity_network"] = "mobilefacenet" if self.identity else None
        return {f"refine_{key}": value for key, value in vars(self.settings).items()} | names

    def __call__(
        self, draw: Draw, images: Tensor, ws: Tensor, tokens: dict[str, Tensor], generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes and tokens after `settings.steps` steps.

        Args:
            draw: images [N, 3, r, r] of ws, tokens and r, by networks that are frozen and in eval mode.
            images: the photos, [N, 3, R, R] in [-1, 1].
            ws: their codes in W, once per style, [N, L, w_dim].
            tokens: layer name -> [N, D].
            generator: whose own images say what an edit shall change.
        """
        for network in (self.perceptual.extractor if self.perceptual else None, self.identity):
            if network is not None:
                network.to(images.device)
        settings, images = self.settings, at_most(images.float(), self.loss_resolution)
        rate, w_rate = settings.learning_rate or 0.0, settings.w_learning_rate or 0.0  # `build` has set them
        moves = rate > 0
        start = {name: token.detach() for name, token in tokens.items()}
        size = {name: self._size(token) for name, token in start.items()}
        steps = {name: torch.zeros_like(token).requires_grad_(moves) for name, token in start.items()}
        offset = torch.zeros_like(ws[:, :1]).requires_grad_(w_rate > 0)  # [N, 1, w_dim]
        groups = [{"params": list(steps.values()), "lr": rate}] if moves else []
        if w_rate > 0:
            groups.append({"params": [offset], "lr": w_rate})
        optimizer = torch.optim.Adam(groups, betas=ADAM_BETAS)
        rates = [group["lr"] for group in optimizer.param_groups]
        compared_px = images.shape[-1]
        whole_px = max(self.drawn_px, compared_px)

        def codes() -> dict[str, Tensor]:
            return {name: token + size[name] * steps[name] for name, token in start.items()}

        def drawn(ws: Tensor, px: int) -> Tensor:
            return at_most(draw(ws, codes(), px).float(), compared_px)

        self.history.clear()
        with torch.enable_grad(), progress_bar("refine", settings.steps, shortest=10) as bar:
            wanted, edits = self._features(images), _Edits(generator, compared_px)
            for step in range(settings.steps):
                px = compared_px if step < settings.early * settings.steps else whole_px
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - 0.9 * step / settings.steps)  # so that the last steps settle
                output = drawn(ws + offset, px)
                loss = self._loss(output, images, wanted)  # [N]
                if settings.edit_consistency > 0:
                    edited, before = edits(ws + offset, px)
                    after = drawn(edited, px) - output
                    loss = loss + settings.edit_consistency * relative_difference(after, before)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()  # a sum, so that no image feels how many others there are
                optimizer.step()
                self.history.append(loss.detach())
                bar.update()
        return (ws + offset).detach(), {name: token.detach() for name, token in codes().items()}

    def _size(self, token: Tensor) -> Tensor:
        """Rms [N, 1] of a token [N, D]; of scales 1."""
        if not self.has_tokens:
            return torch.ones_like(token[:, :1])
        return token.square().mean(dim=1, keepdim=True).sqrt().clamp(min=LEAST_SIZE)

    @torch.no_grad()
    def _features(self, images: Tensor) -> tuple:
        return tuple(ruler and ruler.features(images) for ruler in (self.perceptual, self.identity))

    def _loss(self, output: Tensor, images: Tensor, wanted: tuple) -> Tensor:
        total = self.settings.l2 * (output - images).square().mean(dim=(1, 2, 3))
        weights = (self.settings.perceptual, self.settings.identity)
        for ruler, weight, features in zip((self.perceptual, self.identity), weights, wanted, strict=True):
            if ruler is not None and weight > 0:
                total = total + weight * ruler.distance(ruler.features(output), features)
        return total


def with_rates(settings: RefineConfig, has_tokens: bool) -> RefineConfig:
    """The same with the usual rates in the place of None: those of tokens, or of w_encoder's scales and w."""
    rate, w_rate = (TOKEN_RATE, 0.0) if has_tokens else (SCALE_RATE, W_LEARNING_RATE)
    given = settings.learning_rate, settings.w_learning_rate
    rate, w_rate = (usual if one is None else one for one, usual in zip(given, (rate, w_rate), strict=True))
    return replace(settings, learning_rate=rate, w_learning_rate=w_rate)


class _Edits:
    """Random steps in W, the same ones in every run, and what they change in the generator's own images.

    Images are reduced to `compared_px`.
    """

    def __init__(self, generator: Generator, compared_px: int) -> None:
        self.generator, self.compared_px = generator, compared_px
        self.random = torch.Generator().manual_seed(EDIT_SEED)
        self.plain: dict[int, Tensor] = {}  # side of the drawn images -> G(w) at the predicted w

    def __call__(self, ws: Tensor, px: int) -> tuple[Tensor, Tensor]:
        """Codes after a step [N, L, w_dim], with gradients, and the change [N, 3, R, R] as drawn at px, without."""
        z = torch.randn(1, self.generator.z_dim, generator=self.random).to(ws.device)
        share = EDIT_REACH * torch.rand(1, generator=self.random).to(ws.device)
        edited = ws + share * (self.generator.mapping(z)[:, :1] - ws)
        with torch.no_grad():
            if px not in self.plain or ws.requires_grad:
                self.plain[px] = self._draw(ws, px)
            return edited, self._draw(edited, px) - self.plain[px]

    def _draw(self, ws: Tensor, px: int) -> Tensor:
        drawn = self.generator.synthesis(ws, None, noise_mode="const", resolution=px)
        return at_most(drawn.float(), self.compared_px)
