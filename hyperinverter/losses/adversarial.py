"""Non-saturating GAN losses and R1 (Goodfellow et al., 2014; Mescheder et al., ICML 2018; as StyleGAN2 uses them)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def generator_loss(fake_logits: Tensor) -> Tensor:
    """mean softplus(-D(fake)): small when the discriminator takes the fakes for real. Logits [N,1]."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, halved: bool = False) -> Tensor:
    """mean softplus(-D(real)) + mean softplus(D(fake)).

    Args:
        real_logits: [N,1].
        fake_logits: [M,1], of detached fakes.
        halved: True divides the sum by two, as the released HyperInverter code does; the paper's equation does not.
    """
    loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    return loss / 2 if halved else loss


def real_and_fake_logits(discriminator: nn.Module, reals: Tensor, fakes: Tensor) -> tuple[Tensor, Tensor]:
    """D(reals) and D(fakes), [N,1] and [M,1], from one pass over both: fewer, larger operations than in two passes.

    Nothing in D but the minibatch standard deviation looks across images, and that is taken within each of the two.
    R1 cannot share the pass: its gradient to the reals would run through the fakes too.
    """
    sizes = [len(reals), len(fakes)]
    real, fake = discriminator(torch.cat([reals, fakes]), batch_sizes=sizes).split(sizes)
    return real, fake


def lazy_r1_weight(gamma: float, every: int, step: int) -> float:
    """What a step multiplies its R1 penalty with: gamma / 2, times `every` because only one in so many steps has it.

    0 in the other steps, and where `gamma` or `every` is 0.
    """
    is_due = gamma > 0 and every > 0 and step % every == 0
    return gamma / 2 * every if is_due else 0.0


def r1_penalty(real_images: Tensor, real_logits: Tensor) -> Tensor:
    """Mean over the batch of ||d D(x) / d x||², to be weighted with `lazy_r1_weight`.

    Args:
        real_images: [N,3,R,R], or codes [N, w_dim], with requires_grad set before the discriminator saw them.
        real_logits: D(real_images), [N,1].
    Raises:
        ValueError: the images do not require gradients.
    """
    if not real_images.requires_grad:
        raise ValueError("r1_penalty: these images require no gradient; call images.requires_grad_() before D(images)")
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()
