"""Validation: losses as means over images, how far a generator's samples lie from photos, and which step was best.

Of a generator the number is FID (Heusel et al., NeurIPS 2017, arXiv:1706.08500) where the Inception file is present;
else the same formula on the last features of the small SqueezeNet, under its own name, or nothing where that is absent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperinverter.config.schema import ScheduleConfig
from hyperinverter.data.loader import Batches
from hyperinverter.extractors.base import too_small
from hyperinverter.extractors.inception import Inception
from hyperinverter.extractors.perceptual import SqueezeNetFeatures
from hyperinverter.extractors.resize import at_most
from hyperinverter.metrics.distribution import FEWEST_IMAGES, Fid, FrechetSqueezeNet
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.utils.distributed import from_main, gather_numbered, is_main, own_rows, world_size

BY_SQUEEZENET = FrechetSqueezeNet.name


@dataclass
class Best:
    """The lowest validation loss since training began (or since `forget`), and the step that had it."""

    loss: float | None = None
    step: int | None = None

    def improves(self, loss: float, step: int) -> bool:
        """Remember this step if its loss is the lowest; NaN never is."""
        if math.isnan(loss) or (self.loss is not None and loss >= self.loss):
            return False
        self.loss, self.step = loss, step
        return True

    def forget(self) -> None:
        """Start anew, because losses from here on are not comparable with those before."""
        self.loss = self.step = None


@torch.no_grad()
def validate(
    losses: Callable[[Tensor, list[str]], dict[str, Tensor]],
    data: Batches,
    schedule: ScheduleConfig,
    device: torch.device,
) -> dict[str, float]:
    """Mean of each loss over the validation images (a smaller last batch counts by its images, not as a batch).

    Several processes share the batches, and all get the numbers that one would get.

    Args:
        losses: images [N,3,R,R] and their names -> loss -> mean over these images []; networks are in eval mode.
    Returns:
        Empty when there are no validation images.
    """
    own: list[tuple[int, int, dict[str, Tensor]]] = []
    for number, images, names in data.own_in_order(schedule.batch_size, schedule.validation_images):
        own.append((number, len(images), losses(images.to(device), names)))
    fetched = [(number, n, {name: float(value) for name, value in values.items()}) for number, n, values in own]
    result = gather_numbered(fetched)
    if not result:
        return {}
    count = sum(n for _, n, _ in result)
    return {name: sum(n * values[name] for _, n, values in result) / count for name in result[0][2]}


def sample_images(data: Batches, fallback: Batches, count: int, device: torch.device) -> tuple[Tensor, list[str]]:
    """The images every grid of a run shows, and their names: the first of validation, or of training where none are."""
    held_out = next(data.in_order(count, count), None)
    images, names = held_out or fallback.get(0, count * world_size())  # of which this process holds `count`
    return images.to(device), names


def side_by_side(*columns: Tensor) -> Tensor:
    """[N,3,R,R] each -> [N*columns,3,R,R], the columns of one image next to each other; larger ones are reduced."""
    size = min(column.shape[-1] for column in columns)
    return torch.stack([at_most(column.float(), size) for column in columns], dim=1).flatten(0, 1)


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
