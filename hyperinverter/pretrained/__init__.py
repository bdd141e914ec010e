"""From a name or a path to ready networks: where model folders are looked for, how their files become modules, and
`from_published`, the one entry for checkpoints as their authors released them.
"""

from typing import Any

from hyperinverter.pretrained.files import PARTS, available_models, find_model_folder, find_network_file, search_folders
from hyperinverter.pretrained.load import LoadedModel, hash_of, model_hash
from hyperinverter.pretrained.ready import load_discriminator, load_generator, load_model, load_w_encoder, weights_file

__all__ = [
    "KINDS",
    "PARTS",
    "LoadedModel",
    "Published",
    "available_models",
    "find_model_folder",
    "find_network_file",
    "from_published",
    "hash_of",
    "load_discriminator",
    "load_generator",
    "load_model",
    "load_w_encoder",
    "model_hash",
    "search_folders",
    "weights_file",
]


def __getattr__(name: str) -> Any:
    if name in ("KINDS", "Published", "from_published"):  # fetched on first use, with all that reads foreign files
        from hyperinverter.pretrained import published

        return getattr(published, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
