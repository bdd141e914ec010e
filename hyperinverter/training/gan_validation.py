"""How far a generator's samples lie from held-out photos: one number that falls while the generator improves.

FID (Heusel et al., NeurIPS 2017, arXiv:1706.08500) where the Inception file is present; else the same formula on the
last features of the small SqueezeNet, under its own name, or nothing where that is absent too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hyperinverter.data import Batches
from hyperinverter.extractors.base import too_small
from hyperinverter.extractors.inception import Inception
from hyperinverter.extractors.perceptual import SqueezeNetFeatures
from hyperinverter.metrics.distribution import FEWEST_IMAGES, Fid, FrechetSqueezeNet
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.utils.distributed import from_main, gather_numbered, is_main, own_rows

BY_SQUEEZENET = FrechetSqueezeNet.name


class SampleDistance:
    """Fréchet distance between a generator's samples and the validation photos (each also mirrored).

    Args:
        photos: validation images; their features are computed once, here.
        max_images: photos to take; None takes all. As many samples are drawn as there are features of photos.
        seed: of the latents; the same at every measurement, so that steps compare.

    Attributes:
        name: `fid` or `frechet_squeezenet`; None when nothing can be measured, then `reason` says why.
    """

    def __init__(
        self, photos: Batches, max_images: int | None, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.name: str | None = None
        self.reason = ""
        self.batch_size, self.seed, self.device = batch_size, seed, device
        if len(photos) < FEWEST_IMAGES:
            self.reason = (
                f"it needs {FEWEST_IMAGES} validation photos, there are {len(photos)} (data.validation_fraction, "
                "data.validation_root)"
            )
            return
        result = sample_features(device)
        if isinstance(result, str):
            self.reason = result
            return
        if result[0] == BY_SQUEEZENET and photos.resolution < SqueezeNetFeatures.smallest_px:
            self.reason = too_small(photos.resolution, SqueezeNetFeatures)
            return
        self.name, self._features = result
        with torch.no_grad():
            own = ((number, x.to(device)) for number, x, _ in photos.own_in_order(batch_size, max_images))
            self._real = _together([(number, self._features(torch.cat([x, x.flip(3)]))) for number, x in own])

    @torch.no_grad()
    def __call__(self, G: Generator) -> float:
        """Distance of samples of G (truncation 1, stored noise) from the photos."""
        latents = torch.randn([len(self._real), G.z_dim], generator=torch.Generator().manual_seed(self.seed))
        own = own_rows(list(enumerate(latents.split(self.batch_size))))
        fake = _together([(number, self._features(G(z.to(self.device)))) for number, z in own])
        return from_main(Fid(self._features).distance(fake, self._real) if is_main() else 0.0)


def _together(own: list[tuple[int, Tensor]]) -> Tensor:
    """Numbered batches of features of every process -> all features [N,F], in the order of the numbers."""
    return torch.cat([features for _, features in gather_numbered(own)])


def sample_features(device: torch.device) -> tuple[str, Callable[[Tensor], Tensor]] | str:
    """Name of the distance and its features, images [N,3,R,R] -> [N,F] on the CPU; or why there are none."""
    if Inception.why_missing() is None:
        inception = Inception.find().to(device)
        return "fid", lambda images: inception.features(images).cpu()
    reason = SqueezeNetFeatures.why_missing()
    if reason is not None:
        return reason
    squeezenet = SqueezeNetFeatures.find().to(device)
    return BY_SQUEEZENET, lambda images: squeezenet.pooled(images).cpu()
