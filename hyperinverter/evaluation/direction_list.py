"""What scripts/list_directions.py does: what a model's directions show, and what else they move, by the judges.

Samples of the generator are edited, or photos where some are named. Letters: N samples, R pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from hyperinverter.config.model_schema import ListConfig
from hyperinverter.directions.direction import Direction, edit
from hyperinverter.evaluation.classifiers import attribute_of
from hyperinverter.evaluation.drawing import new_figure, save_figure
from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.inverters import Inversion, Inverter, load
from hyperinverter.utils.device import seed_everything
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.output_names import OutputNames
from hyperinverter.utils.waiting import doing

BATCH_SIZE = 16
IDENTITY = "identity"  # likeness of a face to the unedited one, by MobileFaceNet: 1 is the same person


def list_directions(config: ListConfig) -> dict[str, Any]:
    """Show every direction of a model, or those that are named.

    Writes `sheet_<name>.png` per direction (rows samples, columns strengths), `leakage.svg` and `.png` (rows
    directions, columns judges: change of the score per standard deviation along the direction, in standard deviations
    of the score over samples) and `directions.json` with what the files say and every figure.

    Raises UserError: the model has no directions. FileNotFoundError: no such direction.
    """
    seed_everything(config.seed, config.threads)
    with doing("loading the model"):
        inverter = load(config.model or config.domain, "w_encoder", config.device, resolution=config.resolution)
    names = config.directions or inverter.directions
    if not names:
        raise UserError(f"model {inverter.model_name} brings no directions along; name some: directions=[FILE]")
    directions = [inverter.direction(name) for name in names]
    output, files = Path(config.output), OutputNames(reserved=["leakage"])
    judges, missing = _judges(config, inverter)
    samples = _samples(config, inverter)
    before = _scores(inverter, samples, judges)
    faces = _faces(inverter, samples) if judges else None
    rows: dict[str, Any] = {}
    for direction in tqdm(directions, desc="directions", unit="direction", leave=False):
        sheet = _draw(config, inverter, direction, samples[: config.images], output, files)
        (one,) = inverter.in_w([1.0], "std", direction)
        effects = {}
        if judges and faces is not None:
            ends = [edit(samples, direction, way * config.strength * one) for way in (-1.0, 1.0)]
            after = [_scores(inverter, end, judges) for end in ends]
            for judge, scores in before.items():
                change = float((after[1][judge] - after[0][judge]).mean() / (2 * config.strength))
                effects[judge] = {"per_sd": change, "in_score_sd": change / max(float(scores.std()), 1e-6)}
            alike = [F.cosine_similarity(faces, _faces(inverter, end)).mean() for end in ends]
            effects[IDENTITY] = {"at_strength": config.strength, "similarity": float(torch.stack(alike).mean())}
        rows[direction.name] = {
            "sheet": sheet,
            "space": direction.content()[1].get("space", "W"),
            "styles": direction.styles and list(direction.styles),
            "generator": direction.generator_hash or None,
            "attribute": attribute_of(direction) or None,
            "std_in_w": one,
            "effects": effects,
            "info": direction.info,
        }
    result = {
        "model": {"name": inverter.model_name, "generator_hash": inverter.generator_hash},
        "samples": len(samples),
        "of": config.photos or f"the generator, truncation_psi {config.truncation_psi}",
        "strength_in_std": config.strength,
        "judges": {name: FACE_CLASSIFIERS[name].what for name in judges},
        "not_measured": missing,
        "directions": rows,
    }
    if judges:
        _draw_leakage(rows, list(judges), output)
    write_json(output / "directions.json", result, indent=2)
    _say(rows, list(judges), missing, output)
    return result


def _judges(config: ListConfig, inverter: Inverter) -> tuple[dict[str, Extractor], dict[str, str]]:
    """Judges that are here, and why others are not; none for what shows no faces."""
    if inverter.domain.kind == "scenes":
        return {}, {}
    judges: dict[str, Extractor] = {}
    missing: dict[str, str] = {}
    for name in config.judges:
        try:
            judges[name] = FACE_CLASSIFIERS[name].extractor.find().to(inverter.device)
        except UserError as error:
            missing[name] = str(error)
    return judges, missing


@torch.no_grad()
def _samples(config: ListConfig, inverter: Inverter) -> Inversion:
    """N samples of the generator, or the photos' codes."""
    if config.photos:
        return inverter.invert(config.photos)[: config.samples]
    generator = inverter.generator
    random = torch.Generator().manual_seed(config.seed)
    z = torch.randn(max(config.samples, config.images), generator.z_dim, generator=random).to(inverter.device)
    ws = generator.mapping(z, truncation_psi=config.truncation_psi)
    return Inversion(ws, model_name=inverter.model_name, generator_hash=inverter.generator_hash)


def _by_batches(inverter: Inverter, inversion: Inversion, what: Callable[[Tensor], Tensor]) -> Tensor:
    """`what` of all images, [N, ...]; few are held at a time."""
    parts = [inversion[i : i + BATCH_SIZE] for i in range(0, len(inversion), BATCH_SIZE)]
    return torch.cat([what(inverter.render(part).clamp(-1, 1)).cpu() for part in parts])


def _scores(inverter: Inverter, inversion: Inversion, judges: dict[str, Extractor]) -> dict[str, Tensor]:
    """Judge -> scores [N]; every image is drawn once."""
    if not judges:
        return {}

    def all_of(images: Tensor) -> Tensor:
        return torch.stack([judge.features(images)[:, 0].cpu() for judge in judges.values()], dim=1)

    return dict(zip(judges, _by_batches(inverter, inversion, all_of).unbind(1), strict=True))


def _faces(inverter: Inverter, inversion: Inversion) -> Tensor:
    """MobileFaceNet's features, [N, 128]."""
    network = MobileFaceNet.find().to(inverter.device)
    return _by_batches(inverter, inversion, network.features)


def _draw(
    config: ListConfig, inverter: Inverter, direction: Direction, samples: Inversion, output: Path, files: OutputNames
) -> str:
    places = [config.strength * place for place in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    moved = [edit(samples, direction, gamma) for gamma in inverter.in_w(places, "std", direction)]
    columns = [inverter.render(one).clamp(-1, 1).cpu() for one in (samples, *moved)]
    rows = [[column[i] for column in columns] for i in range(len(samples))]
    file = f"sheet_{files.file(direction.name)}.png"
    contact_sheet(rows, ["sample", *(f"{direction.name} {place:+g} sd" for place in places)], output / file)
    return file


def _draw_leakage(rows: dict[str, Any], judges: list[str], output: Path) -> None:
    values = np.array([[row["effects"][judge]["in_score_sd"] for judge in judges] for row in rows.values()])
    figure, axes = new_figure(2.5 + 1.3 * len(judges), 1.6 + 0.45 * len(rows))
    most = max(float(np.abs(values).max()), 1e-6)
    shown = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(judges)), judges, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), list(rows))
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:+.2f}", ha="center", va="center", color="white" if abs(value) > most / 2 else "black")
    axes.set_title("score's sd per sd along the direction")
    figure.colorbar(shown, ax=axes)
    save_figure(figure, output / "leakage")


def _say(rows: dict[str, Any], judges: list[str], missing: dict[str, str], output: Path) -> None:
    for name, row in rows.items():
        moves = ", ".join(f"{judge} {row['effects'][judge]['in_score_sd']:+.2f}" for judge in judges)
        alike = f", {IDENTITY} {row['effects'][IDENTITY]['similarity']:.2f}" if judges else ""
        where = "its style" if row["space"] == "S" else "W"
        print(f"{name}: 1 sd is {row['std_in_w']:.2f} in {where}{'; ' if moves else ''}{moves}{alike}")
    for name, why in missing.items():
        print(f"not measured: {name}: {why}")
    leakage = "leakage.png and " if judges else ""
    print(f"look at {leakage}{', '.join(row['sheet'] for row in rows.values())} in {output}")
