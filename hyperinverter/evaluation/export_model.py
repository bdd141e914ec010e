"""A trained model folder as it is shipped: half precision part by part, each measured before it is believed."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.checkpoint import ModelFile, read_model, save_model
from hyperinverter.config.model_schema import ExportConfig
from hyperinverter.inverters import load
from hyperinverter.pretrained.files import MORE_PARTS, OF_GENERATOR, PARTS, PCA, find_model_folder
from hyperinverter.pretrained.load import load_discriminator
from hyperinverter.releases.shipped import record_shipped
from hyperinverter.utils.device import resolve_device, seed_everything
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import copy_file
from hyperinverter.utils.waiting import doing

# What may be stored in half precision by itself: the file it is in, and how its tensors' names begin there.
PIECES = {
    "generator": ("generator", ""),
    "discriminator": ("discriminator", ""),
    "w_encoder": ("w_encoder", ""),
    "layerwise_encoder": ("hyperinverter", "layerwise_encoder."),
    "hypernetwork": ("hyperinverter", "hypernetwork."),
}
MB = 1e6


@dataclass
class Change:
    """How far the outputs of two model folders lie apart: of pixels in [-1, 1], and of D's logits in units of their
    standard deviation."""

    mean: float
    largest: float
    logits_mean: float

    def is_within(self, config: ExportConfig) -> bool:
        return max(self.mean, self.logits_mean) <= config.tolerance and self.largest <= config.largest


def export_model(config: ExportConfig) -> dict[str, float | list[str]]:
    """Write `model` to `output`, in float16 each part whose rounding keeps the outputs within the bounds.

    Parts are tried from the largest to the smallest, each on top of those already taken, and the whole is held against
    the original: reconstructions of generated images, samples of G and logits of D. Files name the parts they belong to
    by hash, so these names are written anew. With `record`, the files' SHA-256 go into the list of shipped models; with
    `record` and no `model`, that is all that is done, for the folder `output`.

    Returns:
        `half`, the parts in float16; `mean_change` and `largest_change` of a pixel in [-1, 1]; `logits_change`, the
        mean of D's in units of their standard deviation; and `mb`, the size of the weights in millions of bytes.
    Raises:
        UserError: no model was named, the folders are one, or the weights take more than `max_mb`; then the folder is
            left for inspection but must not be shipped.
    """
    if config.model is None:
        if config.record is None:
            raise UserError("model is not set: give model=FOLDER, the model folder of a Phase II run")
        record_shipped(config.record, Path(config.output))
        return {}
    source, target = find_model_folder(config.model), Path(config.output)
    if source.resolve() == target.resolve():
        raise UserError(f"model and output are the same folder ({source}); give another output")
    files = read_parts(source)
    seed_everything(config.seed, config.threads)
    device = resolve_device(config.device)
    with doing("loading the model"):
        generator = load(str(source), device=str(device)).generator
        latents = torch.randn([config.test_images, generator.z_dim]).to(device)
        with torch.no_grad():
            images = generator(latents).clamp(-1, 1)
        original = Outputs.of(source, latents, images)
    half: set[str] = set()
    write_folder(files, target, half)
    pieces = [piece for piece in by_size(files) if piece not in config.as_they_are]
    for piece in pieces if config.half else ():
        with doing(f"trying {piece} in float16"):
            write_folder(files, target, half | {piece})
            change = original.change_to(Outputs.of(target, latents, images))
        fits = change.is_within(config)
        print(
            f"{piece}: float{16 if fits else 32}; in float16 pixels change by {change.mean:.2g} in the mean, "
            f"{change.largest:.2g} at most, D's logits by {change.logits_mean:.2g} of their spread"
        )
        half |= {piece} if fits else set()
    with doing("comparing the whole with the original"):
        write_folder(files, target, half)
        if (components := source / PCA).is_file():
            copy_file(components, target / components.name)
        change = original.change_to(Outputs.of(target, latents, images))
    mb = sum(path.stat().st_size for path in target.rglob("*.safetensors")) / MB
    print(
        f"{target}: {mb:.1f} MB; {', '.join(sorted(half)) or 'nothing'} in float16; pixels change by {change.mean:.2g} "
        f"of [-1, 1] in the mean, {change.largest:.2g} at most, over {config.test_images} generated images"
    )
    if mb > config.max_mb:
        raise UserError(
            f"{target}: the weights take {mb:.1f} MB, more than max_mb ({config.max_mb:g}): train a smaller model, "
            f"allow more change with tolerance= and largest=, or more MB"
        )
    if config.record is not None:
        record_shipped(config.record, target)
    return {
        "half": sorted(half),
        "mean_change": change.mean,
        "largest_change": change.largest,
        "logits_change": change.logits_mean,
        "mb": mb,
    }


def read_parts(source: Path) -> dict[str, ModelFile]:
    """Every file of a model folder by its path without suffix; reading checks its hash.

    Raises UserError: one of the parts that a model needs is absent.
    """
    for part in PARTS:
        if part != "discriminator" and not (source / f"{part}.safetensors").is_file():
            raise UserError(f"{source}: has no {part}.safetensors; give the model folder of a finished Phase II run")
    paths = [path for part in (*PARTS, *MORE_PARTS) if (path := source / f"{part}.safetensors").is_file()]
    paths += sorted(path for pattern in OF_GENERATOR for path in source.glob(pattern))
    return {path.relative_to(source).with_suffix("").as_posix(): read_model(path) for path in paths}


def pieces_of(files: dict[str, ModelFile]) -> dict[str, tuple[str, str]]:
    """PIECES, and every early head, a piece of its own."""
    return PIECES | {name: (name, "") for name in files if name.startswith("early_head")}


def by_size(files: dict[str, ModelFile]) -> list[str]:
    """The pieces that are there, the largest first."""
    sizes = {
        piece: sum(tensor.numel() for name, tensor in files[part].state.items() if name.startswith(begins))
        for piece, (part, begins) in pieces_of(files).items()
        if part in files
    }
    return sorted(sizes, key=sizes.__getitem__, reverse=True)


def write_folder(files: dict[str, ModelFile], target: Path, half: Collection[str]) -> None:
    """Write all files, those pieces in float16, in the order in which they name each other by hash."""
    hashes: dict[str, str] = {}  # of the files as written
    for name, file in files.items():
        begins = [begin for piece, (part, begin) in pieces_of(files).items() if part == name and piece in half]
        requires = {
            part: hashes[part] if part in hashes and digest == files[part].hash else digest
            for part, digest in file.requires.items()
        }
        hashes[name] = save_model(
            target / f"{name}.safetensors",
            file.state,
            kind=file.kind,
            config=file.config,
            requires=requires,
            info=file.info,
            half=begins,
        )


@dataclass
class Outputs:
    """What a model folder makes of latents and images."""

    samples: Tensor
    reconstructions: Tensor
    logits: Tensor | None  # None without a discriminator

    @classmethod
    @torch.no_grad()
    def of(cls, folder: Path, latents: Tensor, images: Tensor) -> "Outputs":
        inverter = load(str(folder), device=str(images.device))
        logits = None
        if (folder / "discriminator.safetensors").is_file():
            discriminator = load_discriminator(folder).to(images.device)
            logits = torch.cat([discriminator(image[None]) for image in images])  # alone: no minibatch statistics
        return cls(inverter.generator(latents), inverter.render(inverter.invert(images)), logits)

    def change_to(self, other: "Outputs") -> Change:
        changes = [(self.samples - other.samples).abs(), (self.reconstructions - other.reconstructions).abs()]
        logits = 0.0
        if self.logits is not None and other.logits is not None:
            logits = float((self.logits - other.logits).abs().mean() / self.logits.std().clamp_min(1e-6))
        return Change(
            mean=max(float(change.mean()) for change in changes),
            largest=max(float(change.max()) for change in changes),
            logits_mean=logits,
        )
