"""e4e's adversary: a discriminator of codes, its own optimiser with R1, and codes of earlier steps.

Source: Designing an Encoder for StyleGAN Image Manipulation (Tov et al., SIGGRAPH 2021, arXiv:2102.02766), section 4.2,
and its public training code. Reals are w of samples without truncation; fakes are codes with the average code added,
as the encoder's loss sees them (the public code forgets it in the discriminator's step), of the step's own pass.
Letters: N images, L styles that are not copies of another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperinverter.config.encoder_schema import LatentDiscriminatorConfig
from hyperinverter.losses.adversarial import generator_loss, lazy_r1_weight
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.training.discriminator import discriminator_step
from hyperinverter.training.optim import build_optimizer
from hyperinverter.utils.distributed import all_rows

LAYERS = 4  # published
SLOPE = 0.2


class CodePool(nn.Module):
    """Codes of earlier steps, so that the discriminator does not forget them; they travel in the training state."""

    codes: Tensor
    count: Tensor

    def __init__(self, size: int, w_dim: int, device: torch.device) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("codes", torch.zeros(size, w_dim, device=device))
        self.register_buffer("count", torch.zeros([], dtype=torch.long))  # not on the device, which nobody waits for

    def exchange(self, codes: Tensor) -> Tensor:
        """[N, w_dim] -> the same, but once the pool is full each with probability 1/2 exchanged for an earlier one."""
        if self.size == 0:
            return codes
        given = []
        for code in codes:
            if self.count < self.size:
                self.codes[int(self.count)] = code
                self.count += 1
            elif torch.rand([]) < 0.5:
                place = int(torch.randint(self.size, []))
                earlier = self.codes[place].clone()
                self.codes[place] = code
                code = earlier
            given.append(code)
        return torch.stack(given)


class LatentAdversary:
    """The discriminator and all that its steps need. `generator`: whose samples' w are real."""

    def __init__(self, config: LatentDiscriminatorConfig, generator: Generator, device: torch.device) -> None:
        self.config, self.generator, self.device = config, generator, device
        self.network = LatentDiscriminator(generator.w_dim).to(device)
        self.optimizer = build_optimizer(self.network.parameters(), config.optimizer)
        self.network.requires_grad_(False)  # but in its own steps
        self.pools = {kind: CodePool(config.pool_size, generator.w_dim, device) for kind in ("reals", "fakes")}

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """For a training state."""
        pools = {f"{kind}_pool": pool for kind, pool in self.pools.items()}
        return {"latent_discriminator": self.network, "optimizer_D": self.optimizer, **pools}

    def __call__(self, codes: Tensor) -> Tensor:
        """The encoder's term []: mean over images and styles of softplus(-D(w)), codes [N, L, w_dim]."""
        return generator_loss(self.network(codes.flatten(0, 1)))

    def update(self, codes: Tensor, step: int) -> dict[str, Tensor | None]:
        """One step on as many samples as images, with one random style of each image, then one on R1 where it is due.

        Every process sees the codes of all, so that all of them hold the same discriminator and the same pools.

        Args:
            codes: [N, L, w_dim], of this process.
            step: updates done before.
        """
        codes = all_rows(codes.detach().float())
        rows = torch.arange(len(codes))
        fakes = codes[rows, torch.randint(codes.shape[1], [len(codes)])]
        with torch.no_grad():
            z = torch.randn(len(codes), self.generator.z_dim, device=self.device)
            reals = self.generator.mapping(z)[:, 0]  # truncation_psi 1
        reals, fakes = self.pools["reals"].exchange(reals), self.pools["fakes"].exchange(fakes)
        weight = lazy_r1_weight(self.config.r1_gamma, self.config.r1_every, step)
        off = torch.autocast(self.device.type, enabled=False)
        networks = self.network, self.optimizer
        return discriminator_step(*networks, reals, fakes, r1_weight=weight, autocast=off, halved=False)


class LatentDiscriminator(nn.Module):
    """A code to a logit: is it the w of a sample (above 0) or an encoder's? After StyleGAN's mapping."""

    def __init__(self, w_dim: int) -> None:
        super().__init__()
        hidden = [layer for _ in range(LAYERS - 1) for layer in (nn.Linear(w_dim, w_dim), nn.LeakyReLU(SLOPE))]
        self.mlp = nn.Sequential(*hidden, nn.Linear(w_dim, 1))

    def forward(self, codes: Tensor, batch_sizes: Sequence[int] | None = None) -> Tensor:
        """[N, w_dim] -> logits [N, 1]; `batch_sizes`, as of images' discriminator, is of no effect."""
        return self.mlp(codes)
