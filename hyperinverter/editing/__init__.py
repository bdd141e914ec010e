"""What to do with an Inversion: move it along a direction, blend it with another, learn new directions."""

from hyperinverter.editing.direction_files import load_direction, save_direction
from hyperinverter.editing.directions import Direction, edit
from hyperinverter.editing.ganspace import Pca, fit_pca, read_pca, save_pca
from hyperinverter.editing.interpolation import interpolate
from hyperinverter.editing.learn import learn_direction

__all__ = [
    "Direction",
    "Pca",
    "edit",
    "fit_pca",
    "interpolate",
    "learn_direction",
    "load_direction",
    "read_pca",
    "save_direction",
    "save_pca",
]
