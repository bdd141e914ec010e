"""Residual trunks of the image encoders: IR, IR-SE (`irse`) and ResNet (`resnet`), one class sized by numbers."""

from hyperinverter.models.backbones.trunk import TRUNKS, Trunk

__all__ = ["TRUNKS", "Trunk"]
