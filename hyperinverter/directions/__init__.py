"""Directions of W: what they are, their files, and GANSpace's principal components."""

from hyperinverter.directions.direction import Direction, edit, project_out
from hyperinverter.directions.files import load_direction, save_direction
from hyperinverter.directions.ganspace import Pca, fit_pca, read_pca, save_pca

__all__ = [
    "Direction",
    "Pca",
    "edit",
    "fit_pca",
    "load_direction",
    "project_out",
    "read_pca",
    "save_direction",
    "save_pca",
]
