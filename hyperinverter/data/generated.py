"""Images sampled from a generator instead of read from disk: one seed per image, nothing stored."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from hyperinverter.data.names import Names
from hyperinverter.utils.images import to_uint8

CHUNK = 16  # images sampled together; fixed, so that an image's last bit does not depend on who asked for it


class GeneratedSource:
    """`count` images of a StyleGAN2 generator, z ~ N(0, I) seeded by (seed, stream, index), constant noise.

    Args:
        generator: as `models.stylegan2.Generator`; its weights must not change while this is in use.
        count: how many images.
        seed: another seed gives other images.
        stream: "train" and "validation" of the same seed share no image.
        truncation_psi: 1 is the full distribution, 0 the mean face.
    """

    def __init__(
        self, generator: nn.Module, count: int, *, seed: int = 0, stream: str = "train", truncation_psi: float = 1.0
    ):
        self.generator = generator
        self.seed = seed
        self.stream = stream
        self.truncation_psi = truncation_psi
        self.names = Names.of(f"{stream}_{index:06d}" for index in range(count))
        self.ignored = Names.of([])

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, index: int, whole_chunk: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Sample image `index`, uint8 [3, R, R]; with `whole_chunk` also its neighbours, which cost little more."""
        start = index // CHUNK * CHUNK if whole_chunk else index
        stop = min(start + CHUNK, len(self)) if whole_chunk else index + 1
        device = next(self.generator.parameters()).device
        z = torch.stack([self._latent(i) for i in range(start, stop)]).to(device)
        with torch.no_grad():
            images = self.generator(z, truncation_psi=self.truncation_psi, noise_mode="const")
        yield from zip(range(start, stop), to_uint8(images).cpu().numpy(), strict=True)

    def _latent(self, index: int) -> torch.Tensor:
        digest = hashlib.sha1(f"{self.seed}-{self.stream}-{index}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(self.generator.z_dim, generator=rng)
