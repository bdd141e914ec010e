"""e4e's discriminator of latent codes.

Source: Designing an Encoder for StyleGAN Image Manipulation (Tov et al., SIGGRAPH 2021, arXiv:2102.02766), section 4.2,
after StyleGAN's mapping; sizes and slopes as in its public repository.
"""

from torch import Tensor, nn

LAYERS = 4  # published
SLOPE = 0.2


class LatentDiscriminator(nn.Module):
    """A code to a logit: is it the w of a sample (above 0) or an encoder's?"""

    def __init__(self, w_dim: int) -> None:
        super().__init__()
        hidden = [layer for _ in range(LAYERS - 1) for layer in (nn.Linear(w_dim, w_dim), nn.LeakyReLU(SLOPE))]
        self.mlp = nn.Sequential(*hidden, nn.Linear(w_dim, 1))

    def forward(self, codes: Tensor) -> Tensor:
        """[N, w_dim] -> logits [N, 1]."""
        return self.mlp(codes)
