"""How far a generator's samples lie from held-out photos, beside how far real photos lie from each other.

The Frechet distance of few images is biased upwards, so it is compared only at equal counts: half of the photos against
the other half, and as many samples against each half. Features are Inception's, or where that is absent those of the
small stand-in that the trainer uses (`training.gan_validation`), under its own name. Letters: N images, F features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.data.loader import Batches
from hyperinverter.metrics import NotMeasured
from hyperinverter.metrics.distribution import FEWEST_IMAGES, Fid
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.training.augment import COLOR_DRAWS, Augmentation
from hyperinverter.training.validation import sample_features

LEAK_RATES = (0.0, 0.1, 0.3)  # shares of changed photos; samples of which a part is changed would lie nearer to these
HALVES_RULE = "{owners} in the order of their names, every second one; of both halves the first {count} photos"


@torch.no_grad()
def measure_generator(
    generator: Generator,
    photos: Batches,
    people: Sequence[str | None],
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    augment: Sequence[str] = (),
) -> dict[str, Any]:
    """Distances of samples (truncation 1, stored noise) and of photos, each photo also mirrored.

    Args:
        photos: held-out photos.
        people: who is on each, so that nobody is in both halves; None: nobody knows, and the photo stands for itself.
        seed: of the samples, and of the augmented photos.
        augment: changes of images that training used (`config.schema.AUGMENTATIONS`), looked for in the samples.
    Returns:
        `name` of the distance, and name -> {distance, samples, photos}; `samples` are none where photos are compared.
        With `augment` also `leaks`: change -> `distances` of the samples from the photos when every share of
        LEAK_RATES of them is changed so, and `nearest`, the share at which they lie nearest.
    Raises:
        NotMeasured: the network is absent, or there are too few photos.
    """
    first, second = halves(photos.names, people)
    if len(first) < FEWEST_IMAGES:
        raise NotMeasured(f"two halves need at least {2 * FEWEST_IMAGES} photos, got {len(photos)}")
    results = sample_features(device)
    if isinstance(results, str):
        raise NotMeasured(results)
    name, features = results
    real = _photo_features(photos, features, batch_size, device)
    latents = torch.randn([2 * len(real), generator.z_dim], generator=torch.Generator().manual_seed(seed))
    fake = torch.cat([features(generator(z.to(device))) for z in latents.split(batch_size)])  # [2N,F]
    distance = Fid(None).distance
    sides = [real[indices].flatten(0, 1) for indices in (first, second)]
    count = len(sides[0])
    own = fake[:count], fake[-count:]  # two sets of samples, so that the mean rests on more than one
    result = {
        "samples to all photos": (distance(fake, real.flatten(0, 1)), len(fake), 2 * len(real)),
        "samples to half the photos": (
            float(np.mean([distance(samples, side) for samples, side in zip(own, sides, strict=True)])), count, count
        ),
        "half the photos to the other half": (distance(sides[0], sides[1]), None, count),
    }  # fmt: skip
    leaks = {}
    for kind in augment:
        changed = [_augmented(photos, kind, share, seed, features, batch_size, device) for share in LEAK_RATES[1:]]
        found_at = [result["samples to all photos"][0], *(distance(fake, each) for each in changed)]
        nearest = LEAK_RATES[int(np.argmin(found_at))]
        leaks[kind] = {"distances": dict(zip(map(str, LEAK_RATES), found_at, strict=True)), "nearest": nearest}
    keys = ("distance", "samples", "photos")
    return ({"leaks": leaks} if leaks else {}) | {
        "name": name,
        "images": len(photos),
        "mirrored_too": True,
        "halves": HALVES_RULE.format(owners="people" if any(people) else "photos", count=len(first)),
        "distances": {what: dict(zip(keys, values, strict=True)) for what, values in result.items()},
    }


def _photo_features(
    photos: Batches, features: Callable[[Tensor], Tensor], batch_size: int, device: torch.device
) -> Tensor:
    """Features of every photo and of its mirror image, [N,2,F]."""
    read = (x.to(device) for x, _ in photos.in_order(batch_size, shown_as="features of photos"))
    return torch.cat([torch.stack([features(x), features(x.flip(3))], dim=1) for x in read])


def _augmented(
    photos: Batches,
    kind: str,
    share: float,
    seed: int,
    features: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Features [2N,F] of every photo and of its mirror image, each changed with probability `share`."""
    changes = Augmentation([kind], 0.0, 1.0, device)
    draws = COLOR_DRAWS if kind == "color" else 1  # brightness, contrast, hue and saturation, each for itself
    changes.state["p"].fill_(1 - (1 - share) ** (1 / draws))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        read = (x.to(device) for x, _ in photos.in_order(batch_size, shown_as=f"features of photos changed by {kind}"))
        return torch.cat([features(changes(torch.cat([x, x.flip(3)]))) for x in read])


def halves(names: Sequence[str], people: Sequence[str | None]) -> tuple[list[int], list[int]]:
    """Indices of two halves of equal length without a person in common."""
    owners = [person or f"photo {name}" for name, person in zip(names, people, strict=True)]
    order = {owner: number for number, owner in enumerate(dict.fromkeys(sorted(owners)))}
    sides: tuple[list[int], list[int]] = ([], [])
    for index, owner in enumerate(owners):
        sides[order[owner] % 2].append(index)
    count = min(map(len, sides))
    return sides[0][:count], sides[1][:count]
