"""`from_published`: a checkpoint as its authors released it becomes a ready module of this project."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hyperinverter.published.container import foreign, plain_names
from hyperinverter.published.reading import PublishedFile, read_published
from hyperinverter.utils.errors import UserError

# kind -> (module in this folder, function). A reader takes the content and options, and returns module and report.
READERS = {
    "stylegan2_ada_generator": ("nvidia", "read_generator"),
    "stylegan2_ada_discriminator": ("nvidia", "read_discriminator"),
    "rosinality_generator": ("rosinality", "read_generator"),
    "mobile_stylegan_generator": ("mobile_stylegan", "read_generator"),
    "w_encoder": ("released", "read_w_encoder"),
    "layerwise_encoder": ("released", "read_layerwise_encoder"),
    "hypernetwork": ("released", "read_hypernetwork"),
    "hyperinverter": ("released", "read_hyperinverter"),
    "psp": ("wplus", "read_psp"),
    "e4e": ("wplus", "read_e4e"),
    "restyle": ("wplus", "read_restyle"),
    "hyperstyle": ("hyperstyle", "read_hyperstyle"),
    "arcface": ("features", "read_arcface"),
    "curricularface": ("features", "read_curricularface"),
    "moco": ("features", "read_moco"),
    "lpips": ("features", "read_lpips"),
}
KINDS = tuple(READERS)


@dataclass
class Published:
    """How a published checkpoint was read; the attribute `published` of what `from_published` returns.

    Attributes:
        config: everything that was inferred or given, plain JSON types; enough to build the module again.
        ignored: key -> why it was knowingly not used.
        kind: as `from_published` was told.
        source: name of the file, "" for a state dict.
        sha256: of the file, "" for a state dict.
        others: further networks of the same file that were asked for, by name.
    """

    config: dict[str, Any]
    ignored: dict[str, str]
    kind: str = ""
    source: str = ""
    sha256: str = ""
    others: dict[str, nn.Module] = field(default_factory=dict, repr=False)


Reader = Callable[[Any, str, dict[str, Any]], tuple[nn.Module, Published]]


def from_published(
    state_or_path: Mapping[str, Any] | str | Path | PublishedFile, kind: str, **config: Any
) -> nn.Module:
    """Load a released checkpoint without running code from it; every key is used or listed as knowingly ignored.

    Args:
        state_or_path: a file (.pkl, .pt, .pth, .tar, .safetensors), by its path or as `read_published` gives it, or
            its content: a state dict under the published names, or the whole checkpoint (`{"state_dict": ...,
            "latent_avg": ...}`). NumPy arrays do for tensors.
        config: what the tensors cannot show, by its published name; each reader's docstring lists its options.
    Returns:
        The module in eval mode on the CPU, float32. Its attribute `published` (`Published`) says how it was read.
    Raises:
        ValueError: unknown kind or option.
        FileNotFoundError: there is no such file.
        UserError: unreadable, unsafe, or not a checkpoint of this kind: missing, unknown or misshapen keys are named;
            or its tensors contradict an option.
    """
    if kind not in READERS:
        raise ValueError(f"kind is {kind!r}; write one of {', '.join(KINDS)}")
    if isinstance(state_or_path, str | Path | PublishedFile):
        is_read = isinstance(state_or_path, PublishedFile)
        file: PublishedFile | None = state_or_path if is_read else read_published(state_or_path)
        content, source = file.content, file.path.name
    else:
        file, content, source = None, _as_tensors(state_or_path), "the given state dict"
    content = plain_names(content)
    if message := foreign(content):
        raise UserError(f"{source}: it is {message}")
    module, name = READERS[kind]
    reader: Reader = getattr(import_module(f"hyperinverter.published.{module}"), name)
    network, report = reader(content, source, config)
    report.kind = kind
    if file is not None:
        report.source, report.sha256 = file.path.name, file.sha256
    network.published = report
    return network.eval()


def _as_tensors(content: Any) -> Any:
    """The same with tensors for NumPy's numeric arrays and scalars, however deep they lie in dicts."""
    if isinstance(content, dict):
        return {name: _as_tensors(value) for name, value in content.items()}
    if isinstance(content, np.ndarray | np.generic) and content.dtype.kind in "fiu":
        return torch.from_numpy(np.array(content))
    return content
