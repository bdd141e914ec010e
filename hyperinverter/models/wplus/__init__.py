"""Encoders into W+ of pSp, e4e and ReStyle, and the models that add the average code and iterate."""

from hyperinverter.models.wplus.encoders import ENCODERS, Encoder4Editing, ProgressiveBackboneEncoder
from hyperinverter.models.wplus.model import ReStyleModel, WPlusConfig, WPlusModel, build_model

__all__ = [
    "ENCODERS",
    "Encoder4Editing",
    "ProgressiveBackboneEncoder",
    "ReStyleModel",
    "WPlusConfig",
    "WPlusModel",
    "build_model",
]
