"""What scripts/edit.py, invert.py and interpolate.py do: config in; pictures, Inversion files and a JSON record out."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hyperinverter.checkpoint import write_atomically
from hyperinverter.config.schema import EditConfig, InterpolateConfig, InvertConfig
from hyperinverter.data.sources import spare_inputs
from hyperinverter.directions.direction import Direction, edit
from hyperinverter.editing.inputs import Inputs, Photo, check_inputs
from hyperinverter.editing.interpolation import interpolate
from hyperinverter.editing.paste_back import paste_back
from hyperinverter.inverters import Inversion, Inverter, load
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import contact_sheet, difference_map, save_gif, save_image, to_pil, write_picture
from hyperinverter.utils.output_names import OutputNames, inside
from hyperinverter.utils.seeding import seed_everything
from hyperinverter.utils.text import counted
from hyperinverter.utils.waiting import QUIET_S, doing

SHEET_ROWS = 32  # photos on a contact sheet; all the others still have their own files
CELL_PX = 256  # of a contact sheet, at most; the files beside it have the full resolution
GIF_FRAME_MS = 160
DIFFERENCE_MAXIMUM = 0.5  # of the [-1, 1] range; red in the difference column


def edit_images(config: EditConfig) -> dict:
    """Edit every photo along every direction, at every strength.

    Writes per photo `<label>/`: input.png, reconstruction.png, inversion.safetensors, and per direction and strength a
    PNG and the edited Inversion, a GIF, and with `paste_back` the whole photo with the edited face; over all photos
    `sheet_<direction>.png` (rows photos, columns input and strengths) and `edit.json`, which is also returned.
    """
    inverter, output, begin = _open(config)
    directions = _directions(config, inverter)
    strengths = list(config.strengths)
    gammas = {direction.name: inverter.in_w(strengths, config.strength_unit, direction) for direction in directions}
    sheets: dict[str, list[list[Image.Image | None]]] = {direction.name: [] for direction in directions}
    names = OutputNames()
    named = {direction.name: names.file(direction.name) for direction in directions}
    captions, records = [], []
    inputs = Inputs(config, inverter)
    for photo in inputs:
        folder = inside(output, photo.label)
        unedited = inverter.render(photo.inversion)[0].cpu()  # what GANSpace's strength 0 is not
        files = _save_photo(photo, unedited, folder)
        if len(captions) < SHEET_ROWS:
            captions.append(photo.label)
        prepared = inverter.prepare(photo.inversion)  # so that each of its edits costs one synthesis
        whole = photo.whole() if config.paste_back and photo.whole is not None and photo.quad is not None else None
        count = len(directions) * len(strengths)
        bar = tqdm(total=count, desc=f"edits of {photo.label}", unit="edit", leave=False, delay=QUIET_S)
        for direction in directions:
            edited = [edit(prepared, direction, gamma) for gamma in gammas[direction.name]]
            images = []
            for one in edited:
                images.append(inverter.render(one).cpu()[0])
                bar.update()
            for strength, image, one in zip(strengths, images, edited, strict=True):
                stem = f"{named[direction.name]}_{strength:+g}"
                files[stem] = _relative(save_image(image, folder / f"{stem}.png"), output)
                one.save(folder / f"{stem}.safetensors")
                if whole is not None and photo.quad is not None:
                    path = _save_pasted(whole, photo.quad, image, folder / f"{stem}_photo.png")
                    files[f"{stem}_photo"] = _relative(path, output)
            order = sorted(range(len(strengths)), key=strengths.__getitem__)
            save_gif([images[i] for i in order], folder / f"{named[direction.name]}.gif", GIF_FRAME_MS)
            if len(sheets[direction.name]) < SHEET_ROWS:
                sheets[direction.name].append(_cells(photo.image, unedited, *images))
        bar.close()
        records.append({**photo.record, "files": files})
    for name, rows in sheets.items():
        unit = " sd" if config.strength_unit == "std" else ""
        headings = ["input", "reconstruction", *(f"{name} {strength:+g}{unit}" for strength in strengths)]
        contact_sheet(rows, headings, output / f"sheet_{named[name]}.png", captions)
    described = {direction.name: _described(direction, gammas[direction.name]) for direction in directions}
    result = {"strengths": strengths, "strength_unit": config.strength_unit, "directions": described, "images": records}
    return _finish(config, inverter, inputs, begin, "edit", result, [f"sheet_{named[name]}.png" for name in sheets])


def invert_images(config: InvertConfig) -> dict:
    """Invert every photo.

    Writes `<label>.safetensors`, `<label>.png` (reconstruction), `sheet.png` (input | Phase I | Phase II | difference;
    another method has its own columns) and `invert.json` with L2 (mean squared difference to the input, images in
    [-1, 1]) of the reconstruction and, where the method changes weights, of its code alone (Phase I).
    """
    inverter, output, begin = _open(config)
    rows, captions, records = [], [], []
    inputs = Inputs(config, inverter)
    for photo in inputs:
        for name in (f"{photo.label}.png", "sheet.png"):
            spare_inputs(output / name, inputs.places)
        photo.inversion.save(output / f"{photo.label}.safetensors")
        drawn = {"l2": inverter.render(photo.inversion).cpu()[0]}
        if inverter.code_title:
            drawn = {"l2_of_code": inverter.render(photo.inversion.without_weights()).cpu()[0], **drawn}
        save_image(drawn["l2"], output / f"{photo.label}.png")
        record = {**photo.record, "inversion": f"{photo.label}.safetensors"}
        difference = None
        if photo.image is not None:
            record |= {name: _l2(image, photo.image) for name, image in drawn.items()}
            difference = difference_map(drawn["l2"].clamp(-1, 1), photo.image, DIFFERENCE_MAXIMUM)
        records.append(record)
        if len(rows) < SHEET_ROWS:
            rows.append(_cells(photo.image, *drawn.values(), difference))
            captions.append(photo.label)
    titles = [title for title in (inverter.code_title, inverter.title) if title]
    headings = ["input", *titles, f"difference (red: {DIFFERENCE_MAXIMUM:g} or more)"]
    contact_sheet(rows, headings, output / "sheet.png", captions)
    return _finish(config, inverter, inputs, begin, "invert", {"images": records}, ["sheet.png"])


def interpolate_images(config: InterpolateConfig) -> dict:
    """Blend the two inputs (photos or saved Inversions), from the first (t = 0) to the second (t = 1).

    Writes `strip.png` (upper row codes and weights, lower row codes only), `codes_and_weights.gif`, `codes_only.gif`,
    `beside.gif` (both, side by side), `frames/*.png`, both Inversions and `interpolate.json`; of a method that changes
    no weights, codes only.
    """
    inverter, output, begin = _open(config)
    inputs = Inputs(config, inverter)
    photos = []
    for photo in inputs:
        photos.append(photo)
        if len(photos) > 2:
            break
    if len(photos) != 2:
        given = "more than two" if len(photos) > 2 else str(len(photos))
        reasons = "".join(f"; skipped {name}: {reason}" for name, reason in inputs.skipped.items())
        raise UserError(f"interpolation needs two images (or two saved Inversions), got {given}{reasons}")
    for photo in photos:
        _save_photo(photo, inverter.render(photo.inversion)[0].cpu(), inside(output, photo.label))
    first, last = (photo.inversion for photo in photos)
    frames, kinds = {}, {"codes_and_weights": True, "codes_only": False}
    if not (first.has_weights or last.has_weights):
        del kinds["codes_and_weights"]  # the method changes none
    for name, weights in kinds.items():
        blended = Inversion.cat(interpolate(first, last, config.steps, weights))
        with doing(f"drawing {config.steps} frames"):
            frames[name] = inverter.render(blended, batch_size=config.batch_size).cpu()  # [steps, 3, R, R]
        save_gif(list(frames[name]), output / f"{name}.gif", GIF_FRAME_MS)
        for number, frame in enumerate(frames[name]):
            save_image(frame, output / "frames" / f"{name}_{number:03d}.png")
    moving = "beside.gif" if len(frames) > 1 else "codes_only.gif"
    save_gif(list(torch.cat(list(frames.values()), dim=3)), output / moving, GIF_FRAME_MS)
    ts = torch.linspace(0, 1, config.steps).tolist()
    rows = [_cells(photos[0].image, *images, photos[1].image) for images in frames.values()]
    headings = [photos[0].label, *(f"t = {t:.2f}" for t in ts), photos[1].label]
    contact_sheet(rows, headings, output / "strip.png", [name.replace("_", " ") for name in kinds])
    ends = {"first": photos[0].source, "last": photos[1].source, "steps": config.steps, "t": ts}
    return _finish(config, inverter, inputs, begin, "interpolate", ends, ["strip.png", moving])


def _open(config: InvertConfig) -> tuple[Inverter, Path, float]:
    """The method, the output folder, and when the work began (a reading of `time.perf_counter`)."""
    begin = time.perf_counter()
    check_inputs(config)
    seed_everything(config.seed, config.threads)
    source = config.model or config.domain
    with doing("loading the model"):
        how = {"precision": config.precision, "compile": config.compile, "resolution": config.resolution}
        inverter = load(source, config.method, config.device, config.projection, refine=config.refine, **how)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    return inverter, output, begin


def _directions(config: EditConfig, inverter: Inverter) -> list[Direction]:
    try:
        result = [inverter.direction(name, config.domain.directions) for name in config.directions]
    except FileNotFoundError as error:
        mine, settings = inverter.domain.name, config.domain.name
        if mine == settings:
            raise
        raise FileNotFoundError(
            f"{error}. The model is of domain {mine}, the settings are for {settings}: give the --config of {mine} too"
        ) from error
    names = [direction.name for direction in result]
    if len(set(names)) < len(names):
        raise UserError(f"directions: {', '.join(names)}: a name is given twice; leave one out or rename its file")
    return result


def _described(direction: Direction, gammas: Sequence[float]) -> dict:
    """The direction's own information, and the strengths in both units (standard deviations where they are known)."""
    spread = direction.info.get("projection_std")
    in_std = [gamma / spread for gamma in gammas] if spread else None
    units = {"strengths_in_w": list(gammas), "strengths_in_std": in_std}
    return {"generator": direction.generator_hash or None, **units, **direction.info}


def _save_photo(photo: Photo, reconstruction: Tensor, folder: Path) -> dict[str, str]:
    """Input, reconstruction and Inversion of one photo; label -> file relative to the output folder."""
    files = {}
    if photo.image is not None:
        files["input"] = _relative(save_image(photo.image, folder / "input.png"), folder.parent)
    files["reconstruction"] = _relative(save_image(reconstruction, folder / "reconstruction.png"), folder.parent)
    photo.inversion.save(folder / "inversion.safetensors")
    files["inversion"] = _relative(folder / "inversion.safetensors", folder.parent)
    return files


def _save_pasted(whole: Image.Image, quad: np.ndarray, image: Tensor, path: Path) -> Path:
    """The whole photo with the edited crop [3, R, R] in its place, with the photo's EXIF data."""
    exif = {"exif": whole.info["exif"]} if "exif" in whole.info else {}
    write_picture(paste_back(whole, quad, to_pil(image.clamp(-1, 1))), path, format="PNG", **exif)
    return path


def _cells(*images: Tensor | None) -> list[Image.Image | None]:
    """Images [3, R, R] as small pictures, so that a sheet of many at 1024 px fits into memory; small ones stay."""
    pictures = [None if image is None else to_pil(image) for image in images]
    for picture in filter(None, pictures):
        picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    return pictures


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _l2(image: Tensor, target: Tensor) -> float:
    return (image.clamp(-1, 1) - target).square().mean().item()


def _finish(
    config: InvertConfig,
    inverter: Inverter,
    inputs: Inputs,
    begin: float,
    command: str,
    results: dict,
    look_at: Sequence[str],
) -> dict:
    """Write <command>.json and say where to look."""
    seconds = round(time.perf_counter() - begin, 2)
    head = {
        "command": command,
        "domain": inverter.domain.name,
        "resolution": inverter.resolution,
        "method": inverter.name,
        "model": {
            "name": inverter.model_name,
            "hash": inverter.model_hash,
            "generator_hash": inverter.generator_hash,
        },
        "align": config.align,
        "skipped": inputs.skipped,
        "face_detector": inputs.finder,  # null: faces were not looked at
        "face_notes": inputs.face_notes,
        "notes": [*inputs.fit.report(), *inputs.framing.report()],
        "seconds": seconds,  # from the weights on disk to the last file written, without Python's imports
    }
    path = Path(config.output) / f"{command}.json"  # by command: one folder may hold an edit and an interpolation
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(head | results, indent=2) + "\n")
    for line in inputs.framing.unreported():
        print(f"note: {line}")
    if (count := len(results.get("images", ()))) > SHEET_ROWS:
        print(f"a sheet shows the first {SHEET_ROWS} of {count} photos; all have files of their own")
    if inputs.skipped:
        print(f"skipped: {counted(len(inputs.skipped), 'input')}; reasons in {path}")
    print(f"{command}: {seconds:.1f} s; look at {', '.join(look_at)} in {config.output}")
    return head | results
