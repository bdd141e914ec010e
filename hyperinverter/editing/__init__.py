"""What to do with an Inversion: move it along a direction, blend it with another, learn new directions."""

from hyperinverter.directions import Direction, Pca, edit, fit_pca, load_direction, read_pca, save_direction, save_pca
from hyperinverter.editing.learn import learn_direction
from hyperinverter.inverters.inversion import interpolate

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
