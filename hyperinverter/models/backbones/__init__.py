"""Residual trunks of the image encoders: IR, IR-SE (`irse`) and ResNet (`resnet`), one class sized by numbers."""

from hyperinverter.models.backbones.trunk import Trunk

__all__ = ["Trunk"]
