"""Model folders written by the phase trainers: the trained part beside copies of what it belongs to, ready to load."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from hyperinverter.checkpoint import save_model
from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.hyperstyle import HyperStyle
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.models.wplus import WPlusModel
from hyperinverter.pretrained.files import MADE_BY, OF_GENERATOR, PCA, early_head_file
from hyperinverter.pretrained.methods import save_method
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.progress import Progress
from hyperinverter.utils.distributed import is_main
from hyperinverter.utils.files import copy_file, write_text

CONFIG_SECTIONS = {
    "w_encoder": ("w_encoder",),
    "hyperinverter": ("layerwise_encoder", "hypernetwork"),
    "feature_residual": ("feature_residual",),
}
# what a part was trained with, copied beside it
COPIED = {
    "w_encoder": ("generator", "discriminator"),
    "hyperinverter": ("generator", "discriminator", "w_encoder"),
    "feature_residual": ("generator", "discriminator", "w_encoder", "hyperinverter"),
}
# the method that has a part, where it is not the first choice of `load`
METHOD_OF = {"w_encoder": "w_encoder", "feature_residual": "phase3"}


def export_part(
    part: str,
    trained: nn.Module | Mapping[str, Tensor],
    domain: DomainConfig,
    frozen: dict[str, str],
    folder: Path,
    progress: Progress,
    measured: dict[str, float] | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write a model folder with the trained part, copies of the domain's parts and a README.md, in one process.

    Args:
        part: a key of CONFIG_SECTIONS.
        frozen: part -> weights hash of what it was trained with, and needs.
        measured: the validation losses of this step, the best so far; None: it is the last step.
        more: what else the file says of itself to its readers.
    """
    if not is_main():
        return
    copy_parts(folder, domain, COPIED[part])
    info = _info(f"train_{MADE_BY[part]}", progress, measured) | dict(more or {})
    config = {"domain": domain.name, "resolution": domain.resolution}
    config |= {section: asdict(getattr(domain, section)) for section in CONFIG_SECTIONS[part]}
    save_model(folder / f"{part}.safetensors", trained, kind=part, config=config, requires=frozen, info=info)
    method = f', "{METHOD_OF[part]}"' if part in METHOD_OF else ""
    then = f"Load with `hyperinverter.load(FOLDER{method})`; train on it with `domain.weights.folder=FOLDER`."
    _write_readme(folder, f"{part}.safetensors", domain, info, measured, then)


def export_gan(
    folder: Path, G: Generator, D: Discriminator, domain: DomainConfig, progress: Progress, measured: dict[str, float]
) -> None:
    """Write the averaged generator and the discriminator as a model folder, in one process."""
    if not is_main():
        return
    head = {"domain": domain.name, "kind": domain.kind, "resolution": domain.resolution}
    head |= {"loss_resolution": domain.loss_resolution, "alignment": domain.alignment}
    info = _info("train_stylegan2", progress, measured)
    config = {**head, "generator": asdict(domain.generator)}
    digest = save_model(folder / "generator.safetensors", G, kind="generator", config=config, info=info)
    config = {**head, "discriminator": asdict(domain.discriminator)}
    needs = {"generator": digest}
    save_model(folder / "discriminator.safetensors", D, kind="discriminator", config=config, requires=needs, info=info)


def _info(trainer: str, progress: Progress, measured: dict[str, float] | None) -> dict:
    """What a file says of its training, with means over the validation images; of the last step those of the last."""
    losses = progress.last_validation() if measured is None else measured
    return {"trainer": trainer, "step": progress.step, "images_seen": progress.position, "validation": losses}


def copy_parts(folder: Path, domain: DomainConfig, parts: Sequence[str]) -> None:
    """Copy the domain's files of these parts and its directions into a model folder; a discriminator may be absent."""
    for part in parts:
        try:
            source = obtain_weights(domain, part)
        except FileNotFoundError:
            if part == "discriminator" and domain.weights.discriminator is None:
                continue
            raise
        copy_file(source, folder / f"{part}.safetensors")
        if part == "generator":  # directions are vectors in this generator's w space
            for file in sorted(path for pattern in (*OF_GENERATOR, PCA) for path in source.parent.glob(pattern)):
                copy_file(file, folder / file.relative_to(source.parent))


def export_method(
    method: str,
    network: WPlusModel | HyperStyle,
    domain: DomainConfig,
    frozen: dict[str, str],
    folder: Path,
    progress: Progress,
    measured: dict[str, float] | None = None,
) -> None:
    """Write a model folder with <method>.safetensors and copies of what it needs, in one process.

    `frozen`: part -> weights hash of what is not trained; the generator's decides what it can be loaded with.
    """
    if not is_main():
        return
    copy_parts(folder, domain, ("generator", "discriminator"))
    info = _info("train_encoder", progress, measured)
    save_method(
        folder / f"{method}.safetensors",
        network,
        method=method,
        domain=domain.name,
        generator_hash=frozen["generator"],
        info={**info, "trained_with": frozen},
    )
    then = f'Load with `hyperinverter.load(FOLDER, "{method}")`.'
    _write_readme(folder, f"{method}.safetensors", domain, info, measured, then)


def _write_readme(
    folder: Path, filename: str, domain: DomainConfig, info: dict, measured: dict[str, float] | None, then: str
) -> None:
    what = "last step" if measured is None else "best step so far" if measured else "latest step"
    figures = {name: value if name == "step" else f"{value:.5g}" for name, value in info["validation"].items()}
    rows = "".join(f"| {name} | {value} |\n" for name, value in figures.items())
    table = f"Means over the validation images:\n\n| loss | value |\n|---|---|\n{rows}\n" if rows else ""
    text = (
        f"# {domain.name}\n\n`{filename}`: {what}, step {info['step']}, {info['images_seen']} training images seen. "
        f"Written by `{info['trainer']}`; the run's `config.yaml` lies one folder up.\n\n{table}"
        f"{then}\n"
    )
    write_text(folder / "README.md", text)


def save_early_head(
    folder: Path, head: nn.Module, channels: int, px: int, domain: DomainConfig, *, frozen: dict[str, str], info: dict
) -> None:
    """Write an early head of px pixels beside the generator that it was trained for, in float16."""
    config = {"domain": domain.name, "resolution": domain.resolution, "channels": channels, "px": px}
    path = folder / early_head_file(px, domain.resolution)
    save_model(path, head, kind="early_head", config=config, requires=frozen, info=info, half=True)
