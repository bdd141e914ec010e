"""Everything the evaluation measures. To add a metric: its class, a line in METRICS, its name in config.names."""

from collections.abc import Iterable

import torch

from hyperinverter.config.schema import DomainConfig
from hyperinverter.metrics.base import Metric, NotMeasured, Parts
from hyperinverter.metrics.distribution import Fid, Kid
from hyperinverter.metrics.features import (
    CurricularFaceIdentity,
    DiscriminatorDistance,
    DlibDistance,
    DlibIdentity,
    LpipsDistance,
    MobileFaceNetIdentity,
    SqueezeNetDistance,
)
from hyperinverter.metrics.pixel import L2, MsSsim, Psnr
from hyperinverter.models.stylegan2 import Discriminator

__all__ = ["METRICS", "Metric", "NotMeasured", "build"]

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
        Fid,
        Kid,
    )
}


def build(
    names: Iterable[str],
    domain: DomainConfig,
    *,
    discriminator: Discriminator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[list[Metric], dict[str, str]]:
    """Build the metrics that can be measured here.

    Args:
        names: keys of METRICS.
        domain: gives resolutions and whether the images are faces.
        discriminator: the domain's, for discriminator_features.
        device: where the networks run.
    Returns:
        The metrics, and name -> reason for each that cannot be measured.
    Raises:
        ValueError: an unknown name.
    """
    parts = Parts(domain, discriminator, torch.device(device))
    metrics, not_measured = [], {}
    for name in dict.fromkeys(names):
        if name not in METRICS:
            raise ValueError(f"no such metric {name!r}; known: {', '.join(METRICS)}")
        try:
            metrics.append(METRICS[name].build(parts))
        except NotMeasured as reason:
            not_measured[name] = str(reason)
    return metrics, not_measured
