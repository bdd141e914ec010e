"""Images on disk (or sampled) -> batches of tensors; alignment of raw photos."""

from hyperinverter.data.loader import Batches, open_training_data, reports, validation_batches
from hyperinverter.data.sources import ImageSource, open_source

__all__ = ["Batches", "ImageSource", "open_source", "open_training_data", "reports", "validation_batches"]
