"""The step of a discriminator, of images or of codes: non-saturating loss, then lazy R1 in a step of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from hyperinverter.losses.adversarial import discriminator_loss, r1_penalty, real_and_fake_logits
from hyperinverter.training.optim import split_microbatches, step_over_parts


def discriminator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    reals: Tensor,
    fakes: Tensor,
    *,
    r1_weight: float,
    autocast: AbstractContextManager,
    halved: bool = True,
    clip: float | None = None,
    measure: bool = False,
    parts: int = 1,
    change: Callable[[Tensor], Tensor] = lambda images: images,
    tell: Callable[[Tensor], dict[str, Tensor]] = lambda logits: {},
) -> dict[str, Tensor | None]:
    """Update D on reals and fakes, [N,3,R,R] or codes [N, w_dim], then once more on R1 unless its weight is 0.

    Args:
        r1_weight: see `lazy_r1_weight`.
        halved: see `discriminator_loss`.
        clip, measure: see `backward_and_step`.
        parts: how many parts the batch is computed in.
        change: what is done to images before D sees them, anew in each of its passes.
        tell: further scalars, of the logits [N,1] of reals.
    Returns:
        Scalars for the log; D's parameters need no gradient afterwards.
    """

    def d_loss(pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        with autocast:
            real, fake = (logits.float() for logits in real_and_fake_logits(discriminator, *map(change, pair)))
        loss = discriminator_loss(real, fake, halved)
        return {"loss": loss, "D_real": real.mean(), "D_fake": fake.mean(), **tell(real.detach())}

    def r1_loss(part: Tensor) -> dict[str, Tensor]:  # float32: a gradient of a gradient
        images = change(part).detach().requires_grad_(True)
        r1 = r1_penalty(images, discriminator(images))
        return {"loss": r1 * r1_weight, "r1": r1}

    discriminator.requires_grad_(True)
    real_parts = split_microbatches(reals, parts)
    pairs = list(zip(real_parts, split_microbatches(fakes.detach(), parts), strict=True))
    values = step_over_parts(optimizer, d_loss, pairs, clip=clip, measure=measure)
    values = {"loss_D": values.pop("loss"), "gradient_norm_D": values.pop("gradient_norm"), **values}
    if r1_weight > 0:
        values["r1"] = step_over_parts(optimizer, r1_loss, real_parts, clip=clip)["r1"]
    discriminator.requires_grad_(False)
    return values
