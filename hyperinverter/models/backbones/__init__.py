"""Residual trunks of the image encoders: IR, IR-SE, ResNet and EfficientNet-Lite0, one class sized by numbers."""

from hyperinverter.models.backbones.trunk import Trunk

__all__ = ["Trunk"]
