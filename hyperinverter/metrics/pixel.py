"""Metrics on pixel values: L2, PSNR, and MS-SSIM through piq, the paper's own numerics."""

from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from hyperinverter.metrics.base import Parts, PerImageMetric, Reduction


def unit_range(images: Tensor) -> Tensor:
    """[-1,1] -> [0,1], clamped."""
    return (images * 0.5 + 0.5).clamp(0, 1)


class L2(PerImageMetric):
    """Mean squared error per image at the loss resolution, in [-1,1] units (4 times the error of [0,1] images)."""

    name, unit, better = "l2", "squared, range [-1,1]", "lower"

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self.reduction = reduction

    @classmethod
    def build(cls, parts: Parts) -> Self:
        return cls(parts.reduction)

    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        return (self.reduction(fake) - self.reduction(real)).square().mean(dim=(1, 2, 3))


class Psnr(PerImageMetric):
    """-10 log10(mse + 1e-8) per image on [0,1] RGB at full resolution, then the mean; 80 dB for equal images.

    piq's formula with piq's constant (a test holds the two together), written out because importing piq takes seconds.
    """

    name, unit, better = "psnr", "dB", "higher"

    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        error = (unit_range(fake) - unit_range(real)).square().mean(dim=(1, 2, 3))
        return -10 * (error + 1e-8).log10()


class MsSsim(PerImageMetric):
    """Multi-scale SSIM (Wang et al., 2003) on [0,1] RGB: 5 scales, Gaussian window 11 / 1.5.

    Five scales of an 11 px window need 161 px. Smaller images are enlarged bilinearly to 256 px, and the result
    says so: such numbers compare only with their own kind.
    """

    name, unit, better = "ms_ssim", "", "higher"
    smallest_px: ClassVar[int] = 161
    enlarged_px: ClassVar[int] = 256

    def __init__(self, is_enlarging: bool) -> None:
        super().__init__()
        self.is_enlarging = is_enlarging

    @classmethod
    def build(cls, parts: Parts) -> Self:
        return cls(parts.domain.resolution < cls.smallest_px)

    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        import piq

        real, fake = unit_range(real), unit_range(fake)
        if self.is_enlarging:
            real, fake = (F.interpolate(x, size=self.enlarged_px, mode="bilinear") for x in (real, fake))
        return piq.multi_scale_ssim(fake, real, data_range=1.0, reduction="none")

    def protocol(self) -> dict[str, Any]:
        return {"ms_ssim_enlarged_to": self.enlarged_px if self.is_enlarging else None}
