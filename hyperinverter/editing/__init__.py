"""What to do with an Inversion: move it along a direction, blend it with another, learn new directions."""

from hyperinverter.editing.directions import Direction, edit, load_direction, save_direction
from hyperinverter.editing.interpolation import interpolate
from hyperinverter.editing.learn import learn_direction

__all__ = ["Direction", "edit", "interpolate", "learn_direction", "load_direction", "save_direction"]
