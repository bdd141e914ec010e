"""Everything the evaluation measures. To add a metric: its class, a line in METRICS, its name in config.names."""

from collections.abc import Iterable

import torch

from hyperinverter.config.schema import DomainConfig
from hyperinverter.metrics.base import FILTERS, KID_SUBSET_SIZE, Metric, NotMeasured, Parts, Reduction
from hyperinverter.metrics.distribution import Fid, FrechetSqueezeNet, Kid
from hyperinverter.metrics.features import (
    AgeDifference,
    CurricularFaceIdentity,
    DiscriminatorDistance,
    DlibDistance,
    DlibIdentity,
    FrFeatureIdentity,
    HappyDifference,
    LpipsDistance,
    MobileFaceNetIdentity,
    SqueezeNetDistance,
    YawDifference,
)
from hyperinverter.metrics.pixel import L2, MsSsim, Psnr
from hyperinverter.models.stylegan2 import Discriminator

__all__ = ["FILTERS", "METRICS", "Metric", "NotMeasured", "Reduction", "build"]

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        L2,
        Psnr,
        MsSsim,
        LpipsDistance,
        SqueezeNetDistance,
        DiscriminatorDistance,
        MobileFaceNetIdentity,
        CurricularFaceIdentity,
        DlibIdentity,
        DlibDistance,
        FrFeatureIdentity,
        YawDifference,
        AgeDifference,
        HappyDifference,
        Fid,
        Kid,
        FrechetSqueezeNet,
    )
}


def build(
    names: Iterable[str],
    domain: DomainConfig,
    *,
    discriminator: Discriminator | None = None,
    device: torch.device | str = "cpu",
    metric_filter: str = "bilinear",
    kid_subset_size: int = KID_SUBSET_SIZE,
) -> tuple[list[Metric], dict[str, str]]:
    """Build the metrics that can be measured here.

    Args:
        discriminator: the domain's, for discriminator_features.
        metric_filter: how images above the loss resolution are reduced, a key of FILTERS.
        kid_subset_size: images in each of KID's subsets, at most.
    Returns:
        The metrics, and name -> reason for each that cannot be measured.
    Raises:
        ValueError: an unknown name.
    """
    parts = Parts(domain, discriminator, torch.device(device), metric_filter, kid_subset_size)
    metrics, not_measured = [], {}
    for name in dict.fromkeys(names):
        if name not in METRICS:
            raise ValueError(f"no such metric {name!r}; known: {', '.join(METRICS)}")
        try:
            metrics.append(METRICS[name].build(parts))
        except NotMeasured as reason:
            not_measured[name] = str(reason)
    return metrics, not_measured
