"""Classifiers of edits: how much of an attribute an image shows, as networks say that see neither the encoders nor w.

Of two kinds. Networks that come trained (FACE_CLASSIFIERS) give years, degrees or a probability. Other attributes have
a classifier each, fitted here to real photos and their labels: logistic regression on features of SqueezeNet, which was
trained on ImageNet. Its score is the logit, which does not saturate as a probability does. Letters: N images, F
features, A attributes.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.checkpoint import read_safetensors, recorded
from hyperinverter.data.loader import Batches
from hyperinverter.directions.direction import Direction
from hyperinverter.editing.learn import attribute_values, rows_of
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.extractors.perceptual import SqueezeNetFeatures
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors

FORMAT = "hyperinverter-classifiers-1"
TENSORS = ("weight", "bias", "centre", "scale")
BATCH_SIZE = 64
LOGIT = "logit"  # unit of a fitted classifier
# The taps of SqueezeNet that are read, by their number, and the side to which their maps are averaged: where in the
# face something is matters, but not to the pixel.
TAPS = {1: 5, 2: 4, 4: 3}
INVERSE_RIDGE = 0.001  # C of the logistic regression, on standardised features


@dataclass
class AttributeClassifiers:
    """Logits of several attributes from one pass of the network.

    Attributes:
        attributes: names of the labels' columns, A of them.
        weight, bias: of the classifiers, [A,F] and [A], for features that `centre` and `scale` [F] standardise.
        figures: attribute -> how right it is on held-out photos.
    """

    extractor: SqueezeNetFeatures
    attributes: list[str]
    weight: Tensor
    bias: Tensor
    centre: Tensor
    scale: Tensor
    figures: dict[str, dict[str, Any]]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N,3,R,R] -> attribute -> logits [N] on the CPU, above 0 where it is taken to be there."""
        features = (pooled(self.extractor, images) - self.centre) / self.scale
        logits = features @ self.weight.T + self.bias  # [N,A]
        return dict(zip(self.attributes, logits.unbind(1), strict=True))


def pooled(extractor: SqueezeNetFeatures, images: Tensor) -> Tensor:
    """Images [N,3,R,R] -> features [N,F] on the CPU."""
    taps = extractor.features(images)
    return torch.cat([F.adaptive_avg_pool2d(taps[i], side).flatten(1) for i, side in TAPS.items()], dim=1).cpu()


def fit_classifiers(
    attributes: Sequence[str],
    training: Batches,
    held_out: Batches,
    labels: dict[str, dict[str, str]],
    cache: Path,
    device: torch.device,
) -> AttributeClassifiers:
    """Fit a classifier per attribute to the training photos, and measure it on the held-out ones.

    The same photos and labels give the same classifiers; `cache` is taken again as long as both stay (their names and
    the labels are compared, not the pixels).

    Args:
        training, held_out: photos, of different people.
    Raises:
        UserError: the features' network is missing, a column is, or photos have no labels.
    """
    attributes = sorted(set(attributes))
    extractor = SqueezeNetFeatures.find().to(device)
    rows = {part: _rows(batches.names, labels) for part, batches in (("fit", training), ("test", held_out))}
    truth = {part: {a: attribute_values(result, a) for a in attributes} for part, result in rows.items()}
    key = hashlib.sha256(repr((attributes, TAPS, INVERSE_RIDGE)).encode())
    for part, batches in (("fit", training), ("test", held_out)):
        key.update("\n".join(batches.names).encode())
        key.update(b"".join(truth[part][a].tobytes() for a in attributes))
    classifiers = _read(cache, key.hexdigest(), extractor, attributes)
    if classifiers is None:
        people = {part: {row.get("identity") for row in result} - {None, ""} for part, result in rows.items()}
        classifiers = _fit(extractor, attributes, training, held_out, truth, device)
        for figures in classifiers.figures.values():
            figures["people_in_both"] = len(people["fit"] & people["test"])
        _write(classifiers, cache, key.hexdigest())
    return classifiers


def _fit(
    extractor: SqueezeNetFeatures,
    attributes: list[str],
    training: Batches,
    held_out: Batches,
    truth: dict[str, dict[str, np.ndarray]],
    device: torch.device,
) -> AttributeClassifiers:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    fit, test = (_all_features(extractor, batches, device) for batches in (training, held_out))
    centre, scale = fit.mean(0), fit.std(0).clamp_min(1e-6)
    fit, test = fit.sub_(centre).div_(scale), (test - centre) / scale  # in place: a gigabyte for faces64
    weights, biases, figures = [], [], {}
    for attribute in attributes:
        model = LogisticRegression(C=INVERSE_RIDGE, max_iter=200, tol=1e-3)
        model.fit(fit.numpy(), truth["fit"][attribute])
        weights.append(torch.from_numpy(model.coef_[0]).float())
        biases.append(float(model.intercept_[0]))
        right = truth["test"][attribute]
        logits = (test @ weights[-1] + biases[-1]).numpy()
        hits = (logits > 0) == right
        figures[attribute] = {
            "accuracy": float(hits.mean()),
            "balanced_accuracy": float(np.mean([hits[right == value].mean() for value in (True, False)])),
            "auc": float(roc_auc_score(right, logits)),
            "positive_fraction": float(right.mean()),
            "photos_fitted": len(fit),
            "photos_tested": len(test),
        }
    return AttributeClassifiers(
        extractor, attributes, torch.stack(weights), torch.tensor(biases), centre, scale, figures
    )


@torch.no_grad()
def _all_features(extractor: SqueezeNetFeatures, batches: Batches, device: torch.device) -> Tensor:
    read = batches.in_order(BATCH_SIZE, shown_as="classifiers")
    return torch.cat([pooled(extractor, images.to(device)) for images, _ in read])


def _rows(names: Sequence[str], labels: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    result = rows_of(list(names), labels)
    missing = [name for name, row in zip(names, result, strict=True) if row is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} photos, such as {missing[0]}, have no row in labels, from which the "
            f"classifiers of edits learn; give labels of all photos"
        )
    return result


def _read(cache: Path, key: str, extractor: SqueezeNetFeatures, attributes: list[str]) -> AttributeClassifiers | None:
    if not cache.is_file():
        return None
    metadata, parts = read_safetensors(cache, "delete it: the classifiers are fitted again")
    if metadata.get("format") != FORMAT or metadata.get("key") != key:
        return None
    if set(parts) != set(TENSORS):
        raise UserError(
            f"{cache}: holds other tensors than {', '.join(TENSORS)}; delete it: the classifiers are fitted again"
        )
    return AttributeClassifiers(extractor, attributes, **parts, figures=recorded(cache, metadata, "figures", dict))


def _write(classifiers: AttributeClassifiers, cache: Path, key: str) -> None:
    parts = {name: getattr(classifiers, name) for name in TENSORS}
    metadata = {"format": FORMAT, "key": key, "figures": json.dumps(classifiers.figures)}
    write_tensors(cache, parts, metadata)


# Attribute of the directions that InterFaceGAN published for FFHQ, whose files hold a vector alone.
PUBLISHED = {"age": "-Young", "smile": "Smiling", "rotation": "Yaw"}


def unit_of(classifier: str) -> str:
    return FACE_CLASSIFIERS[classifier].unit if classifier in FACE_CLASSIFIERS else LOGIT


def attribute_of(direction: Direction) -> str:
    """The attribute that a direction raises, with a minus one that it lowers; "" when it is not known."""
    return str(direction.info.get("attribute") or PUBLISHED.get(direction.name, ""))


def classifiers_of(direction: Direction, known: Collection[str]) -> dict[str, int]:
    """Which of the known classifiers measure a direction: name -> 1, or -1 where it lowers the classifier's score."""
    attribute = attribute_of(direction)
    name, sign = attribute.removeprefix("-"), -1 if attribute.startswith("-") else 1
    result = {
        classifier: sign * about.sign for classifier, about in FACE_CLASSIFIERS.items() if about.attribute == name
    } | {name: sign}
    return {classifier: way for classifier, way in result.items() if classifier in known}


class Classifiers:
    """Scores of images by the classifiers that are asked for, so that no network runs for nothing.

    `names`: of FACE_CLASSIFIERS; their files must be there.
    """

    def __init__(self, names: Iterable[str], attributes: AttributeClassifiers | None, device: torch.device) -> None:
        self.networks = {name: FACE_CLASSIFIERS[name].extractor.find().to(device) for name in names}
        self.attributes = attributes

    @property
    def known(self) -> list[str]:
        return [*self.networks, *(self.attributes.attributes if self.attributes else [])]

    @torch.no_grad()
    def __call__(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Images [N,3,R,R] -> classifier -> scores [N] on the CPU."""
        result = {
            name: network.features(images)[:, 0].cpu() for name, network in self.networks.items() if name in wanted
        }
        if self.attributes and not set(self.attributes.attributes).isdisjoint(wanted):
            result |= {name: scores for name, scores in self.attributes(images).items() if name in wanted}
        return result

    def about(self) -> dict[str, dict[str, Any]]:
        """Network -> its unit, files with their SHA-256, and the paper's network in whose place it stands."""
        result = {}
        for name in self.networks:
            classifier = FACE_CLASSIFIERS[name]
            hashes = classifier.extractor.file_hashes()
            result[name] = {"unit": classifier.unit, "stands_in_for": classifier.stands_in_for, "sha256": hashes}
        return result
