"""What scripts/find_directions.py does: components of a generator's W, sheets to look at, named ones as files.

They are principal components (GANSpace) or eigenvectors of the generator's own weights (SeFa). No photos and no labels
are needed: one looks at what each component does on some styles, and gives it a name.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hyperinverter.checkpoint import read_model
from hyperinverter.config.model_schema import GanspaceConfig
from hyperinverter.directions.direction import edit, in_w, style_range
from hyperinverter.directions.files import save_direction
from hyperinverter.directions.ganspace import AbsoluteDirection, Pca, Sefa, fit_pca, save_pca
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.pretrained.files import find_model_folder, part_file
from hyperinverter.pretrained.load import check_served, load_generator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.releases.writing import spread_along
from hyperinverter.utils.device import resolve_device, seed_everything, to_device
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.waiting import doing


def find_directions(config: GanspaceConfig) -> dict[str, Any]:
    """Fit, show and save.

    Writes one `sheet_styles_START_END.png` per range of styles (rows components, columns coordinates),
    `directions/NAME.safetensors` for each of `config.directions`, and `sefa.json` or `ganspace.json`, which says what
    variance the components explain; of GANSpace also `pca.safetensors` (usable as FILE#COMPONENT:START-END).

    Raises UserError: more components than dimensions, or a range or a component that is not there.
    """
    seed_everything(config.seed, config.threads)
    output = Path(config.output)
    device, domain = resolve_device(config.device), config.domain
    source = find_model_folder(config.model) if config.model else obtain_weights(domain, "generator")
    check_served(read_model(part_file(source, "generator"), "generator"))
    with doing("loading the model"):
        generator = to_device(load_generator(source), device).eval()
    ranges = [style_range(text, generator.num_ws) for text in config.styles] or _thirds(generator.num_ws)
    result: Pca | Sefa
    try:
        if config.method == "sefa":
            result = Sefa(generator)
        else:
            result = fit_pca(generator, config.components, samples=config.samples, seed=config.seed)
        named = {name: result.named(text) for name, text in config.directions.items()}
    except ValueError as error:
        raise UserError(f"components, samples or directions: {error}") from error
    for name, direction in named.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"directions: {name!r} is no name for a file; use letters, digits, _ and -")
        if isinstance(direction, AbsoluteDirection) and direction.end > generator.num_ws:
            raise UserError(
                f"directions.{name}: styles {direction.start}-{direction.end}, but this generator has "
                f"{generator.num_ws}; END is excluded, so that {generator.num_ws} is the largest"
            )
        if "projection_std" not in direction.info:
            direction.info |= spread_along(generator, direction.vector)
    if isinstance(result, Pca):
        save_pca(result, output / "pca.safetensors")
    for name, direction in named.items():
        direction.name = name
        path = output / "directions" / f"{name}.safetensors"
        save_direction(direction, path, domain=domain.name, resolution=generator.resolution)
    sheets = [_draw(config, generator, result, *styles, output) for styles in tqdm(ranges, desc="sheets")]
    summary = {
        "domain": domain.name,
        "method": config.method,
        "generator": result.generator_hash,
        "source": result.source,
        "directions": {name: direction.info for name, direction in named.items()},
        "sheets": sheets,
    }
    if isinstance(result, Pca):
        variances = result.stds.square()
        summary["standard_deviations"] = result.stds.tolist()
        summary["explained_of_these"] = (variances / variances.sum()).tolist()
    write_json(output / f"{config.method}.json", summary, indent=2)
    print(f"look at {', '.join(sheets)} in {output}")
    for name in named:
        print(f"written: {output / 'directions' / name}.safetensors; edit.py takes it as directions=[that file]")
    if not named:
        print("what you want to keep gets a name: 'directions={NAME: COMPONENT:START-END}' writes it as a direction")
    return summary


def _thirds(num_ws: int) -> list[tuple[int, int]]:
    """All styles, then the coarse, middle and fine ones."""
    ends = [0, round(num_ws / 3), round(2 * num_ws / 3), num_ws]
    return [(0, num_ws), *pairwise(ends)]


@torch.no_grad()
def _draw(config: GanspaceConfig, generator: Generator, found: Pca | Sefa, start: int, end: int, output: Path) -> str:
    """One sheet; its name."""
    random = torch.Generator().manual_seed(config.seed)
    z = torch.randn(config.images, generator.z_dim, generator=random).to(generator.mapping.w_avg.device)
    unmoved = Inversion(generator.mapping(z, truncation_psi=config.truncation_psi))
    places = [config.strength * place for place in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    columns, captions = [], []
    count = len(found.stds) if isinstance(found, Pca) else generator.w_dim
    for component in range(min(config.shown, count)):
        direction = found.named(f"{component}:{start}-{end}")
        if "projection_std" not in direction.info:
            direction.info |= spread_along(generator, direction.vector)
        moved = [edit(unmoved, direction, gamma) for gamma in in_w(places, "std", direction)]
        images = [generator.synthesis(one.ws).clamp(-1, 1).cpu() for one in (unmoved, *moved)]
        columns.append([image for i in range(config.images) for image in (column[i] for column in images)])
        captions.append(f"component {component}\nstd {direction.info['projection_std']:.2f}")
    heads = ["sample", *(f"{place:+g} sd" for place in places)] * config.images
    name = f"sheet_styles_{start}_{end}.png"
    contact_sheet(columns, heads, output / name, captions)
    return name
