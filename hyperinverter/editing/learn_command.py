"""What scripts/learn_direction.py does: codes of images and their classes, then one linear SVM per attribute.

Classes are labels of photos, whose codes by E1 are cached, or the ends of a predictor's scores (`predicted`).
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hyperinverter.checkpoint import read_safetensors, recorded
from hyperinverter.config.model_schema import DirectionConfig
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import check_images, open_source
from hyperinverter.directions.direction import Direction, check_one_vector, project_out
from hyperinverter.directions.files import save_direction
from hyperinverter.editing.learn import (
    attribute_values,
    check_classes,
    check_column,
    held_out_mask,
    learn_direction,
    read_labels,
    rows_of,
)
from hyperinverter.editing.predicted import check_predictors, scored_photos, scored_samples, surest_ends
from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS
from hyperinverter.inverters import Inverter, load
from hyperinverter.releases.writing import spread_along
from hyperinverter.utils.device import seed_everything
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json
from hyperinverter.utils.output_names import file_name
from hyperinverter.utils.safetensors_io import write_tensors
from hyperinverter.utils.waiting import doing

CODES_FORMAT = "hyperinverter-codes-1"
BATCH_SIZE = 64
LICENCE = "Derived from the photos and labels named here; the terms of both hold for this file too."


def learn_directions(config: DirectionConfig) -> dict:
    """Learn one direction per entry of `config.attributes`, `config.predictors` and `config.differences`.

    Writes `directions/NAME.safetensors` (copy them into the model folder), `codes.safetensors` (the photos' w, taken
    again as long as the photos' names and the model stay the same), of predictors `scores.safetensors`, and
    `directions.json` with every figure.

    Raises UserError: no photos, labels or attributes were named, no photo has labels, a class is too small, or a
    predictor is missing.
    """
    others_are_asked = config.predictors or (config.differences and not config.data.root)
    if others_are_asked and not config.labels:  # attributes that a config file brings along
        config = replace(config, attributes={})
    if config.attributes or not (config.differences or config.predictors):
        for key, value, example in (
            ("data.root", config.data.root, "data.root=FOLDER"),
            ("labels", config.labels, "labels=FILE.csv"),
            ("attributes", config.attributes, "attributes.smile=Smiling"),
        ):
            if not value:
                raise UserError(f"{key} is empty; write for instance {example}")
    seed_everything(config.seed, config.threads)
    labels = read_labels(config.labels) if config.attributes else {}
    for column in config.attributes.values():
        check_column(labels.values(), column)  # a wrong one is reported before all photos are encoded
    if config.attributes:
        _check_labels(config, labels)
    for roots in config.differences.values():
        check_images(roots, config.data.kind)
    check_predictors(config)
    with doing("loading the model"):
        inverter = load(config.model or config.domain, "w_encoder", config.device)
    made = {*config.attributes, *config.predictors, *config.differences}
    others = {name for names in config.without.values() for name in names} - made
    there = {name: inverter.direction(name) for name in others}  # one that is not is told before photos are encoded
    for direction in there.values():
        check_one_vector(direction)
    output = Path(config.output)
    about = {"model": inverter.model_name, "w_encoder": inverter.model_hash, "licence": LICENCE}
    learned: dict[str, tuple[Direction, dict]] = {}
    told: dict = {}
    ws = None
    if config.attributes:
        ws, told = _learn(config, inverter, labels, learned)
        for direction, _ in learned.values():
            direction.info |= told
    if config.predictors:
        ws, more = _predict(config, inverter, learned)
        told = {**told, "predicted": more}
    for name, roots in config.differences.items():
        learned[name] = _difference(config, inverter, name, roots, output)
    there |= {name: direction for name, (direction, _) in learned.items()}  # as they were learned, of each other too
    for name, names in config.without.items():
        direction, figures = learned[name]
        direction = project_out(direction, [there[each] for each in names])
        if ws is None or direction.num_ws is not None or name in config.differences:
            direction.info |= spread_along(inverter.generator, direction.vector)
        else:
            direction.info["projection_std"] = float((ws @ direction.vector).std(correction=0))
        learned[name] = direction, figures | direction.info
    domain = inverter.domain
    for name, (direction, figures) in learned.items():
        direction.info |= about
        path = output / "directions" / f"{file_name(name)}.safetensors"
        save_direction(direction, path, domain=domain.name, resolution=domain.resolution)
        kept = figures.get("cosine_to_before")
        if kept is not None:
            print(f"{name}: without {', '.join(config.without[name])}; cosine {kept:.2f} to what it was")
    results = {name: figures for name, (_, figures) in learned.items()}
    summary = {"domain": domain.name, "generator": inverter.generator_hash, **told, **about, "directions": results}
    write_json(output / "directions.json", summary, indent=2)
    print(f"directions in {output / 'directions'}; copy them into the model folder to use them by name")
    return summary


def _learn(
    config: DirectionConfig, inverter: Inverter, labels: dict, learned: dict[str, tuple[Direction, dict]]
) -> tuple[Tensor, dict]:
    """Fill `learned` with a direction per attribute; the labelled photos' w [n, w_dim], and what to say of all."""
    ws, names = photo_codes(config, inverter, Path(config.output) / "codes.safetensors")
    result = rows_of(names, labels)
    labelled = [i for i, row in enumerate(result) if row is not None]
    if len(labelled) < len(names):
        print(f"{len(names) - len(labelled)} of {len(names)} photos have no row in {config.labels} and are left out")
    ws, names, rows = ws[labelled], [names[i] for i in labelled], [result[i] for i in labelled]
    held_out, how = held_out_mask(names, rows, config.held_out_fraction, config.seed)
    for name, column in config.attributes.items():
        with doing(f"fitting {name}"):
            how_to = {"name": name, "generator_hash": inverter.generator_hash, "estimate": config.estimate}
            direction, figures = learn_direction(ws, attribute_values(rows, column), held_out, **how_to)
        method = f"{config.estimate} of a linear SVM (balanced classes) on E1 codes of real photos"
        direction.info |= {"attribute": column, "method": method}
        learned[name] = direction, {"attribute": column, **figures}
        print(
            f"{name} ({column}): accuracy {figures['accuracy']:.3f}, balanced {figures['balanced_accuracy']:.3f} on "
            f"{figures['n_held_out']} held-out photos; w·d has standard deviation {figures['projection_std']:.2f}"
        )
    return ws, {"photos": len(names), "labels": Path(config.labels or "").name, "held_out": how}


def _predict(
    config: DirectionConfig, inverter: Inverter, learned: dict[str, tuple[Direction, dict]]
) -> tuple[Tensor, dict]:
    """Fill `learned` with a direction per predictor; the w [n, w_dim] of all images, and what to say of them."""
    networks = sorted({text.removeprefix("-") for text in config.predictors.values()})
    if config.data.root:
        ws, names = photo_codes(config, inverter, Path(config.output) / "codes.safetensors")
        scores = scored_photos(config, inverter, networks, _batches(config, inverter), names)
        of = "E1 codes of real photos"
    else:
        ws, scores = scored_samples(config, inverter, networks)
        names = [f"sample {number}" for number in range(len(ws))]
        of = f"samples of the generator, truncation_psi {config.truncation_psi:g}"
    held_out, how = held_out_mask(names, [{}] * len(names), config.held_out_fraction, config.seed)
    summary = {"images": len(ws), "of": of, "ends": config.ends, "held_out": how}
    for name, text in config.predictors.items():
        network = text.removeprefix("-")
        column = scores[:, networks.index(network)].numpy()
        kept, is_high = surest_ends(column, config.ends, name)
        flip = text.startswith("-")
        with doing(f"fitting {name}"):
            how_to = {"name": name, "generator_hash": inverter.generator_hash, "estimate": config.estimate}
            direction, figures = learn_direction(ws[kept], is_high != flip, held_out[kept], **how_to)
        places = (ws @ direction.vector).numpy()  # of all images: the ends alone lie further apart
        figures |= {
            "projection_mean": float(places.mean()),
            "projection_std": float(places.std()),
            "score_correlation": float(np.corrcoef(places, column)[0, 1]),
        }
        about = FACE_CLASSIFIERS[network]
        method = f"{config.estimate} of a linear SVM on the surest {config.ends:g} at both ends of {network}'s scores"
        direction.info |= figures | {"attribute": about.raised(flip), "predictor": text, "method": method} | summary
        learned[name] = direction, {"predictor": text, **figures}
        print(
            f"{name} ({about.what}): accuracy {figures['accuracy']:.3f} on {figures['n_held_out']} of the surest that "
            f"were held out; correlation of w·d with all scores {figures['score_correlation']:.2f}; w·d has standard "
            f"deviation {figures['projection_std']:.2f}"
        )
    return ws, summary


def _difference(
    config: DirectionConfig, inverter: Inverter, name: str, roots: list[str], output: Path
) -> tuple[Direction, dict]:
    """The direction from the mean w of one group of photos to that of another, and its figures."""
    means, counts = [], []
    for number, root in enumerate(roots):
        group = replace(config, data=replace(config.data, root=root))
        ws, names = photo_codes(group, inverter, output / f"codes_{file_name(name)}_{number}.safetensors")
        means.append(ws.mean(dim=0))
        counts.append(len(names))
    step = means[1] - means[0]
    figures = {"photos_from": counts[0], "photos_to": counts[1], "class_distance": float(step.norm())}
    if not figures["class_distance"]:
        raise UserError(f"differences.{name}: both groups have the same mean; give other photos")
    figures |= spread_along(inverter.generator, step)
    method = "difference of two groups' mean E1 codes"
    print(f"{name}: from {counts[0]} to {counts[1]} photos, {figures['class_distance']:.2f} in W")
    return Direction(name, step, {"method": method, **figures}, inverter.generator_hash), figures


def _check_labels(config: DirectionConfig, labels: dict[str, dict[str, str]]) -> None:
    """Tell what is wrong with the labels of the photos before these are all encoded."""
    data, px = config.data, config.domain.resolution
    names = list(open_source(data.root, data.kind, data.max_images, data.max_megapixels, px).names)
    result = [(name, row) for name, row in zip(names, rows_of(names, labels), strict=True) if row is not None]
    if not result:
        raise UserError(
            f"none of the {len(names)} photos (such as {names[0]}) is listed in {config.labels} (such as "
            f"{next(iter(labels))}); give the labels of these photos"
        )
    names, rows = [name for name, _ in result], [row for _, row in result]
    held_out, _ = held_out_mask(names, rows, config.held_out_fraction, config.seed)
    for name, column in config.attributes.items():
        check_classes(attribute_values(rows, column), held_out, name)


def _batches(config: DirectionConfig, inverter: Inverter) -> Batches:
    data = config.data
    source = open_source(data.root, data.kind, data.max_images, data.max_megapixels, inverter.resolution)
    return Batches(
        source, inverter.resolution, on_bad_file=data.on_bad_file, cache_mib=0, workers=data.workers, flip=False
    )


def photo_codes(config: DirectionConfig, inverter: Inverter, cache: Path) -> tuple[Tensor, list[str]]:
    """E1's w of every readable photo of `config.data`, [n, w_dim], and their names; from `cache` when it fits.

    The cache fits when it was made by the same weights from photos of the same names (their pixels are not compared:
    delete the file after changing photos in place).
    """
    data = config.data
    source = open_source(data.root, data.kind, data.max_images, data.max_megapixels, inverter.resolution)
    key = hashlib.sha256("\n".join([inverter.model_hash, *source.names]).encode()).hexdigest()
    if cache.is_file():
        try:
            metadata, tensors = read_safetensors(cache, "the codes are made again")
            if metadata.get("format") == CODES_FORMAT and metadata.get("key") == key:
                names = recorded(cache, metadata, "names", list)
                if "w" in tensors and tensors["w"].shape == (len(names), inverter.generator.w_dim):
                    print(f"codes taken from {cache}")
                    return tensors["w"], names
                raise UserError(f"{cache}: holds codes of other photos; they are made again")
        except UserError as error:
            print(error)
    batches = _batches(config, inverter)
    codes, names = [], []
    for images, some in batches.in_order(BATCH_SIZE, shown_as="codes"):
        codes.append(inverter.invert(images, BATCH_SIZE).ws[:, 0].cpu())
        names += some
    for line in batches.report():
        print(line)
    if not codes:
        raise UserError(
            f"none of the {len(source)} files in data.root {data.root} can be read as an image; give others"
        )
    ws = torch.cat(codes)
    metadata = {"format": CODES_FORMAT, "key": key, "names": json.dumps(names)}
    write_tensors(cache, {"w": ws}, metadata)
    return ws, names
