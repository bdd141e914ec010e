"""The perceptual network behind methods that optimise per image: LPIPS where its weights are, else a named stand-in.

The published methods use LPIPS: on VGG16 for the code (NVIDIA's projector), on AlexNet for PTI's tuning. Results on
another network are other numbers, so its name travels with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyperinverter.config.names import PERCEPTUAL
from hyperinverter.extractors.base import Extractor, too_small
from hyperinverter.extractors.perceptual import DiscriminatorFeatures, Lpips, LpipsVgg, SqueezeNetFeatures
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import UserError

FEATURE_PX = 256  # the published projectors look at images of at most this size
# PERCEPTUAL without discriminator_features, which needs no download.
DOWNLOADED: dict[str, type[Extractor]] = {
    "lpips_vgg": LpipsVgg,
    "lpips": Lpips,
    "squeezenet_features": SqueezeNetFeatures,
}


@dataclass(frozen=True)
class Perceptual:
    """A feature network under the name that goes into results.

    `feature_px`: larger images are reduced to this before the extractor; None: it needs the full resolution.
    """

    name: str
    extractor: Extractor
    feature_px: int | None

    def features(self, images: Tensor) -> Any:
        return self.extractor.features(images)

    def distance(self, a: Any, b: Any) -> Tensor:
        return self.extractor.distance(a, b)


def find_perceptual(
    wanted: str,
    resolution: int,
    find_discriminator: Callable[[], Discriminator | None],
    order: Sequence[str] = PERCEPTUAL,
) -> Perceptual:
    """The network of that name, or the best one there is.

    Args:
        wanted: auto, or one of PERCEPTUAL.
        find_discriminator: gives the domain's discriminator, None where it has none; called only when needed.
        order: best first, for auto.
    Raises:
        ValueError: no such name.
        UserError: the network asked for, or with auto every one, is absent or needs larger images; says why.
    """
    if wanted not in ("auto", *PERCEPTUAL):
        raise ValueError(f"perceptual is {wanted!r}; write one of auto, {', '.join(PERCEPTUAL)}")
    reasons = []
    for name in order if wanted == "auto" else (wanted,):
        if name in DOWNLOADED:
            network = DOWNLOADED[name]
            fits = min(resolution, FEATURE_PX) >= network.smallest_px
            reason = network.why_missing() if fits else too_small(resolution, network)
            if reason is None:
                return Perceptual(name, network.find(), FEATURE_PX)
        else:
            discriminator = find_discriminator()
            if discriminator is not None:
                return Perceptual(name, DiscriminatorFeatures(discriminator), None)
            reason = (
                f"the model folder has no discriminator.safetensors; train one with {command_of('train_stylegan2')}"
            )
        reasons.append(f"{name}: {reason}")
    raise UserError(f"no perceptual network to optimise with; {'; '.join(reasons)}")
