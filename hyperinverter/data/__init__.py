"""Images on disk (or sampled) -> batches of tensors; alignment of raw photos."""

from hyperinverter.data.loader import Batches, open_training_data, reports, validation_batches
from hyperinverter.data.sources import ImageSource, check_images, check_training_data, open_source

__all__ = [
    "Batches",
    "ImageSource",
    "check_images",
    "check_training_data",
    "open_source",
    "open_training_data",
    "reports",
    "validation_batches",
]
