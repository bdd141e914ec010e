"""Classes without labels: networks score images, and the surest ones at both ends are learned from.

Source: InterFaceGAN (Shen et al., CVPR 2020), section 4.1, where a predictor scores samples of the generator and the
highest and the lowest scores become the two classes. Letters: n images, P predictors.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.checkpoint import read_safetensors
from hyperinverter.config.model_schema import DirectionConfig
from hyperinverter.data.loader import Batches
from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors

FORMAT = "hyperinverter-scores-1"
BATCH_SIZE = 64
LARGEST_PX = 256  # side at which samples are drawn: no predictor looks at more than 224
SAVE_SECONDS = 10.0  # between two saves of the scores so far


def check_predictors(config: DirectionConfig) -> None:
    """Refuse predictors that cannot work here, before anything is loaded.

    Raises UserError: the domain shows no faces, or a network's file is missing; says where it comes from.
    """
    for text in config.predictors.values():
        name = text.removeprefix("-")
        if config.domain.kind == "scenes":
            raise UserError(f"predictors: {name} tells of faces alone, domain {config.domain.name} is of scenes")
        missing = FACE_CLASSIFIERS[name].extractor.why_missing()
        if missing:
            raise UserError(f"predictors: {missing}")


def surest_ends(scores: np.ndarray, part: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which images have the lowest and the highest scores, [m], and whether each is one of the highest, bool [m].

    Args:
        scores: [n].
        part: of n, at each end.
    Raises:
        UserError: a score is not finite, or the two ends have a score in common.
    """
    if not np.isfinite(scores).all():
        raise UserError(f"{name}: {int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no finite numbers")
    count = max(1, round(len(scores) * part))
    order = np.argsort(scores, kind="stable")
    low, high = order[:count], order[len(scores) - count :]
    if scores[low].max() >= scores[high].min():
        raise UserError(
            f"{name}: the {count} lowest and {count} highest of {len(scores)} images have the score "
            f"{scores[high].min():.4g} in common; give more images, a smaller `ends`, or another predictor"
        )
    kept = np.sort(np.concatenate([low, high]))
    return kept, np.isin(kept, high)


@torch.no_grad()
def scored_samples(config: DirectionConfig, inverter: Inverter, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """w of samples of the generator, [n, w_dim], and their scores by the predictors of these names, [n, P]."""
    generator = inverter.generator
    z = torch.randn(config.samples, generator.z_dim, generator=torch.Generator().manual_seed(config.seed))
    size = min(LARGEST_PX, generator.resolution)

    def mapped(part: Tensor) -> Tensor:
        return generator.mapping(part.to(inverter.device), truncation_psi=config.truncation_psi)  # [.., L, w_dim]

    def drawn(start: int) -> Iterator[Tensor]:
        for part in z[start:].split(BATCH_SIZE):
            yield inverter.render(Inversion(mapped(part), generator_hash=inverter.generator_hash), resolution=size)

    key = [inverter.generator_hash, config.samples, config.seed, config.truncation_psi, size]
    scores = _scores(config, inverter, names, drawn, len(z), key)
    return torch.cat([mapped(part)[:, 0].cpu() for part in z.split(BATCH_SIZE)]), scores


@torch.no_grad()
def scored_photos(
    config: DirectionConfig, inverter: Inverter, names: Sequence[str], batches: Batches, photos: Sequence[str]
) -> Tensor:
    """The photos' scores by the predictors of these names, [n, P].

    `photos`: names of those whose codes were made, in order, as one that is skipped has none.
    """

    def read(start: int) -> Iterator[Tensor]:
        position = 0
        for images, some in batches.in_order(BATCH_SIZE):
            if list(photos[position : position + len(some)]) != some:
                raise UserError("the photos changed while they were read; run the command again")
            position += len(some)
            if position > start:
                yield images

    return _scores(config, inverter, names, read, len(photos), ["photos", inverter.resolution, *photos])


def _scores(
    config: DirectionConfig,
    inverter: Inverter,
    names: Sequence[str],
    images_from: Callable[[int], Iterator[Tensor]],
    count: int,
    key: list,
) -> Tensor:
    """Scores [n, P] of all images; those that an earlier run left in output/scores.safetensors are not made again.

    Args:
        images_from: batches [.., 3, R, R] from an image on, which begins a batch.
        count: n.
        key: what the images depend on; the scores of others are not taken.
    """
    networks: list[Extractor] = [FACE_CLASSIFIERS[name].extractor.find().to(inverter.device) for name in names]
    cache = Path(config.output) / "scores.safetensors"
    judges = [[name, FACE_CLASSIFIERS[name].extractor.file_hashes()] for name in names]
    digest = hashlib.sha256(json.dumps([judges, *key]).encode()).hexdigest()
    scores = _saved(cache, digest, (count, len(names)))
    saved = time.monotonic()
    with tqdm(total=count, initial=len(scores), desc="predicting", unit="image") as bar:
        for images in images_from(len(scores)) if len(scores) < count else ():
            shown = images.to(inverter.device).clamp(-1, 1)
            rows = torch.stack([network.features(shown)[:, 0].float().cpu() for network in networks], dim=1)
            scores = torch.cat([scores, rows])
            bar.update(len(rows))
            if len(scores) == count or time.monotonic() - saved > SAVE_SECONDS:
                write_tensors(cache, {"scores": scores}, {"format": FORMAT, "key": digest})
                saved = time.monotonic()
    return scores


def _saved(cache: Path, digest: str, shape: tuple[int, int]) -> Tensor:
    """Whole batches of scores that are there already, [m, P]."""
    count, predictors = shape
    if cache.is_file():
        try:
            metadata, tensors = read_safetensors(cache, "the scores are made again")
        except UserError as error:
            print(error)
            return torch.zeros(0, predictors)
        there = tensors.get("scores", torch.zeros(0))
        is_whole = there.ndim == 2 and (len(there) == count or len(there) % BATCH_SIZE == 0)
        if (metadata.get("format"), metadata.get("key")) == (FORMAT, digest) and is_whole and len(there) <= count:
            print(f"{len(there)} of {count} scores taken from {cache}")
            return there
    return torch.zeros(0, predictors)
