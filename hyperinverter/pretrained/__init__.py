"""From a name or a path to ready networks: where model folders are looked for, and how their files become modules."""

from hyperinverter.pretrained.files import (
    PARTS,
    available_models,
    find_model_folder,
    find_network_file,
    search_folders,
    weights_file,
)
from hyperinverter.pretrained.load import (
    LoadedModel,
    hash_of,
    load_discriminator,
    load_generator,
    load_model,
    load_w_encoder,
    model_hash,
)

__all__ = [
    "PARTS",
    "LoadedModel",
    "available_models",
    "find_model_folder",
    "find_network_file",
    "hash_of",
    "load_discriminator",
    "load_generator",
    "load_model",
    "load_w_encoder",
    "model_hash",
    "search_folders",
    "weights_file",
]
