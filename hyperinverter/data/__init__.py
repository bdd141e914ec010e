"""Images on disk (or sampled) -> batches of tensors.

What makes tensors is fetched on first use: folders are looked at without PyTorch, which takes seconds to load.
"""

from typing import TYPE_CHECKING, Any

from hyperinverter.data.sources import ImageSource, check_images, check_training_data, open_source

if TYPE_CHECKING:
    from hyperinverter.data.loader import Batches, open_training_data, reports

__all__ = [
    "Batches",
    "ImageSource",
    "check_images",
    "check_training_data",
    "open_source",
    "open_training_data",
    "reports",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hyperinverter.data import loader

    return getattr(loader, name)
