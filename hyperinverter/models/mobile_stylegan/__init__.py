"""MobileStyleGAN: a small generator distilled from StyleGAN2, in the same W space."""

from hyperinverter.models.mobile_stylegan.generator import MobileGenerator, band_order, mean_w
from hyperinverter.models.mobile_stylegan.layers import EarlyHead

__all__ = ["EarlyHead", "MobileGenerator", "band_order", "mean_w"]
