"""A trained model folder as it is shipped: half-precision hypernetworks, measured before they are believed."""

import shutil
from pathlib import Path

import torch

from hyperinverter.checkpoint import read_model, save_model, write_atomically
from hyperinverter.config.schema import ExportConfig
from hyperinverter.inverters import load
from hyperinverter.pretrained.load import find_model_folder
from hyperinverter.utils.device import resolve_device
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.seeding import seed_everything

UNCHANGED = ("generator", "discriminator", "w_encoder")  # later parts name these by hash


def export_model(config: ExportConfig) -> dict[str, float]:
    """Copy `model` to `output`, E2 and hypernetworks as float16 (with `half`), and compare both on generated images.

    Returns:
        `largest_change` of a pixel in [-1, 1], `mean_change`, and `mib`, the size of the new folder.
    Raises:
        UserError: no model was named, the folders are one, or the images change by more than `tolerance`; then the
            folder is left for inspection but must not be shipped.
    """
    if config.model is None:
        raise UserError("model is not set: give model=FOLDER, the model folder of a Phase II run")
    source, target = find_model_folder(config.model), Path(config.output)
    if source.resolve() == target.resolve():
        raise UserError(f"model and output are the same folder ({source}); give another output")
    paths = {part: source / f"{part}.safetensors" for part in (*UNCHANGED, "hyperinverter")}
    for part, path in paths.items():
        if part != "discriminator" and not path.is_file():
            raise UserError(f"{source}: has no {path.name}; give the model folder of a finished Phase II run")
    for part in UNCHANGED:
        if paths[part].is_file():
            copy_checked(paths[part], target / paths[part].name)
    for path in sorted(source.glob("directions/*.safetensors")):
        copy_checked(path, target / "directions" / path.name)
    file = read_model(paths["hyperinverter"], "hyperinverter")
    save_model(
        target / "hyperinverter.safetensors",
        file.state,
        kind=file.kind,
        config=file.config,
        requires=file.requires,
        info=file.info,
        half=config.half,
    )
    found = compare(source, target, config)
    found["mib"] = sum(path.stat().st_size for path in target.rglob("*.safetensors")) / 2**20
    print(
        f"{target}: {found['mib']:.1f} MiB; pixels change by at most {found['largest_change']:.4f}, on average "
        f"{found['mean_change']:.6f} of [-1, 1], over {config.test_images} generated images"
    )
    if found["largest_change"] > config.tolerance:
        raise UserError(
            f"pixels change by up to {found['largest_change']:.4f}, more than tolerance ({config.tolerance}); write "
            f"half=false, or allow more with tolerance="
        )
    return found


def copy_checked(source: Path, target: Path) -> None:
    """Copy a model file after reading it, which checks its hash."""
    read_model(source)
    with write_atomically(target) as temporary:
        shutil.copyfile(source, temporary)


@torch.no_grad()
def compare(first: Path, second: Path, config: ExportConfig) -> dict[str, float]:
    """Reconstructions of the same generated images by both model folders."""
    seed_everything(config.seed, config.threads)
    device = resolve_device(config.device)
    inverters = [load(str(folder), device=device) for folder in (first, second)]
    generator = inverters[0].generator
    images = generator(torch.randn([config.test_images, generator.z_dim]).to(device)).clamp(-1, 1)
    one, other = (inverter.render(inverter.invert(images)) for inverter in inverters)
    change = (one - other).abs()
    return {"largest_change": float(change.max()), "mean_change": float(change.mean())}
