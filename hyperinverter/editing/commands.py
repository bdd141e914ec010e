"""What scripts/edit.py, invert.py and interpolate.py do: config in; pictures, Inversion files and a JSON record out."""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hyperinverter.config.schema import EditConfig, InterpolateConfig, InvertConfig, MethodConfig
from hyperinverter.data.sources import spare_inputs
from hyperinverter.directions.direction import Direction
from hyperinverter.editing.across import Sheet, Sheets, by_every_method
from hyperinverter.editing.changes import Change, changes_of
from hyperinverter.editing.inputs import Inputs, Photo, check_inputs
from hyperinverter.editing.paste_back import paste_back
from hyperinverter.inverters import Inversion, Inverter, load
from hyperinverter.inverters.inversion import interpolate
from hyperinverter.utils.device import seed_everything
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json
from hyperinverter.utils.films import check_films, save_mp4
from hyperinverter.utils.images import difference_map, save_gif, save_image, to_pil, write_picture
from hyperinverter.utils.output_names import OutputNames, inside
from hyperinverter.utils.provenance import COMPOSITE
from hyperinverter.utils.text import counted
from hyperinverter.utils.waiting import QUIET_S, doing

SHEET_ROWS = 32  # photos on a contact sheet; all the others still have their own files
STRIP_STEPS = 9  # of an interpolation, evenly spaced, on its sheet; the films have all
KINDS = {"codes_and_weights": True, "codes_only": False}  # of blends: whether the weights are blended too
CELL_PX = 256  # of a contact sheet, at most; the files beside it have the full resolution
GIF_FRAME_MS = 160  # how long each of few pictures stands in a film
SMOOTH_FRAMES, SMOOTH_FRAME_MS = 24, 40  # from so many on they run as in the cinema
DIFFERENCE_MAXIMUM = 0.5  # of the [-1, 1] range; red in the difference column


def edit_images(config: EditConfig) -> dict:
    """Edit every photo along every direction at every strength, or along several directions at once.

    By several `methods` each in a folder of its own, and the sheets of all in one.

    Writes per photo `<label>/`: input.png, reconstruction.png, inversion.safetensors, and per direction and strength a
    PNG and the edited Inversion, a GIF (with `mp4` a film too, with `sweep` of as many steps, which lie in frames/),
    and with `paste_back` the whole photo with the edited face; over all photos `sheet_<direction>.png` (rows photos,
    columns input and strengths) and `edit.json`, which is also returned.
    """
    if config.mp4:
        check_films()
    return by_every_method(config, "edit", _edit)


def _edit(config: EditConfig, written: Sheets) -> dict:
    inverter, output, begin = _open(config)
    changes = changes_of(config, inverter)
    names = OutputNames()
    named = {change.name: names.file(change.name) for change in changes}
    sheets: dict[str, list[list[Image.Image | None]]] = {change.name: [] for change in changes}
    captions, records = [], []
    inputs = Inputs(config, inverter)
    for photo in inputs:
        folder = inside(output, photo.label)
        for change in changes:
            stem = named[change.name]
            files_of = [f"{stem}.gif", *(f"{stem}{change.stem(place)}.png" for place in change.places)]
            for path in (output / f"sheet_{stem}.png", *(folder / name for name in files_of)):
                spare_inputs(path, inputs.places)
        unedited = inverter.render(photo.inversion)[0].cpu()  # what GANSpace's strength 0 is not
        files = _save_photo(photo, unedited, folder, inputs)
        if len(captions) < SHEET_ROWS:
            captions.append(photo.label)
        prepared = inverter.prepare(photo.inversion)  # so that each of its edits costs one synthesis
        whole = photo.whole() if config.paste_back and photo.whole is not None and photo.quad is not None else None
        count = sum(len(change.places) + config.sweep for change in changes)
        bar = tqdm(total=count, desc=f"edits of {photo.label}", unit="edit", leave=False, delay=QUIET_S)
        for change in changes:
            images = []
            for place in change.places:
                one = change.at(prepared, place)
                image = inverter.render(one).cpu()[0]
                stem = named[change.name] + change.stem(place)
                files[stem] = _relative(save_image(image, folder / f"{stem}.png"), output)
                one.save(folder / f"{stem}.safetensors")
                if whole is not None and photo.quad is not None:
                    path = _save_pasted(whole, photo.quad, image, folder / f"{stem}_photo.png")
                    files[f"{stem}_photo"] = _relative(path, output)
                images.append(image)
                bar.update()
            drawn = dict(zip(change.places, images, strict=True))
            frames = _frames(change, drawn, config, inverter, prepared, folder / "frames" / named[change.name], bar)
            files |= _save_films(frames, folder / named[change.name], config, output)
            if len(sheets[change.name]) < SHEET_ROWS:
                sheets[change.name].append(_cells(photo.image, unedited, *images))
        bar.close()
        records.append({**photo.record, "files": files})
    for change in changes:
        headings = ["input", inverter.heading("reconstruction"), *map(change.title, change.places)]
        sheet = Sheet(inverter.title, sheets[change.name], headings, captions)
        sheet.write(output / f"sheet_{named[change.name]}.png")
        written[f"sheet_{named[change.name]}.png"] = sheet
    moves = {name: move for change in changes for name, move in change.moves().items()}
    result = {
        "strengths": [] if config.edits else list(config.strengths),
        "strength_unit": config.strength_unit,
        "edits": config.edits,
        "styles": config.styles,
        "directions": {name: _described(*move) for name, move in moves.items()},
        "images": records,
    }
    look_at = [f"sheet_{named[change.name]}.png" for change in changes]
    return _finish(config, inverter, inputs, begin, "edit", result, look_at)


def _frames(
    change: Change,
    drawn: dict[float, Tensor],
    config: EditConfig,
    inverter: Inverter,
    inversion: Inversion,
    stem: Path,
    bar: tqdm,
) -> list[Tensor]:
    """What a film of one photo shows, [3, R, R] each, some of it `drawn` before; those of a sweep are saved too."""
    frames = []
    for number, place in enumerate(change.film(config.sweep)):
        image = drawn.get(place)
        frames.append(inverter.render(change.at(inversion, place)).cpu()[0] if image is None else image)
        if config.sweep:
            save_image(frames[-1], stem.with_name(f"{stem.name}_{number:03d}.png"))
            bar.update()
    return frames


def _save_films(
    frames: Sequence[Tensor], stem: Path, config: EditConfig | InterpolateConfig, output: Path, turns: bool = True
) -> dict[str, str]:
    """`stem`.gif and, if wanted, `stem`.mp4, which play back and forth where it `turns`; label -> file in `output`."""
    ms = SMOOTH_FRAME_MS if len(frames) >= SMOOTH_FRAMES else GIF_FRAME_MS
    films = {f"{stem.name}.gif": save_gif(frames, stem.with_name(f"{stem.name}.gif"), ms, turns)}
    if config.mp4:
        played = [*frames, *frames[-2:0:-1]] if turns else frames
        films[f"{stem.name}.mp4"] = save_mp4(played, stem.with_name(f"{stem.name}.mp4"), ms)
    return {name: _relative(path, output) for name, path in films.items()}


def invert_images(config: InvertConfig) -> dict:
    """Invert every photo.

    Writes `<label>.safetensors`, `<label>.png` (reconstruction), `sheet.png` (input | Phase I | Phase II | difference;
    another method has its own columns) and `invert.json` with L2 (mean squared difference to the input, images in
    [-1, 1]) of the reconstruction and, where the method changes weights, of its code alone (Phase I). By several
    `methods` each in a folder of its own, and a sheet of all reconstructions.
    """
    return by_every_method(config, "invert", _invert)


def _invert(config: InvertConfig, written: Sheets) -> dict:
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
            for name, image in drawn.items():
                record[name] = (image.clamp(-1, 1) - photo.image).square().mean().item()
            difference = difference_map(drawn["l2"].clamp(-1, 1), photo.image, DIFFERENCE_MAXIMUM)
        records.append(record)
        if len(rows) < SHEET_ROWS:
            rows.append(_cells(photo.image, *drawn.values(), difference))
            captions.append(photo.label)
    title = inverter.heading(inverter.title)
    titles = [inverter.code_title, title] if inverter.code_title else [title]
    headings = ["input", *titles, f"difference (red: {DIFFERENCE_MAXIMUM:g} or more)"]
    written["sheet.png"] = Sheet(inverter.title, rows, headings, captions, column=title)
    written["sheet.png"].write(output / "sheet.png")
    return _finish(config, inverter, inputs, begin, "invert", {"images": records}, ["sheet.png"])


def interpolate_images(config: InterpolateConfig) -> dict:
    """Blend each input (photo or saved Inversion) into the next, with `circle` the last one into the first.

    Writes `strip.png` (rows: codes and weights, and codes only, of every pair), `codes_and_weights.gif`,
    `codes_only.gif`, `beside.gif` (both, side by side; with `mp4` films too), `frames/*.png`, the Inversions and
    `interpolate.json`; of a method that changes no weights, codes only. By several `methods` each in a folder of its
    own, and a strip of all.
    """
    if config.mp4:
        check_films()
    return by_every_method(config, "interpolate", _interpolate)


def _interpolate(config: InterpolateConfig, written: Sheets) -> dict:
    inverter, output, begin = _open(config)
    inputs = Inputs(config, inverter)
    photos = list(inputs)
    if len(photos) < 2:
        reasons = "".join(f"; skipped {name}: {reason}" for name, reason in inputs.skipped.items())
        raise UserError(f"interpolation needs two images or more (or saved Inversions), got {len(photos)}{reasons}")
    frame_count = (len(photos) if config.circle else len(photos) - 1) * (config.steps - 1) + 1
    frames_of = [f"frames/{name}_{number:03d}.png" for name in KINDS for number in range(frame_count)]
    for name in ("strip.png", "beside.gif", *(f"{name}.gif" for name in KINDS), *frames_of):
        spare_inputs(output / name, inputs.places)
    for photo in photos:
        _save_photo(photo, inverter.render(photo.inversion)[0].cpu(), inside(output, photo.label), inputs)
    pairs = list(pairwise([*photos, photos[0]] if config.circle else photos))
    kinds = dict(KINDS)
    if not any(photo.inversion.has_weights for photo in photos):
        del kinds["codes_and_weights"]  # the method changes none
    films: dict[str, list[Tensor]] = {name: [] for name in kinds}
    rows, captions = [], []
    shown = np.linspace(0, config.steps - 1, min(config.steps, STRIP_STEPS)).round().astype(int)
    for first, last in tqdm(pairs, desc="pairs", unit="pair", leave=False, disable=len(pairs) < 2):
        for name, weights in kinds.items():
            blended = Inversion.cat(interpolate(first.inversion, last.inversion, config.steps, weights))
            with doing(f"drawing {config.steps} frames"):
                frames = inverter.render(blended, batch_size=config.batch_size).cpu()  # [steps, 3, R, R]
            if len(rows) < SHEET_ROWS:
                rows.append(_cells(first.image, *frames[shown], last.image))
                ends = f"{first.label} to {last.label}\n" if len(pairs) > 1 else ""
                captions.append(ends + name.replace("_", " "))
            films[name] += list(frames[1:] if films[name] else frames)  # a photo between two pairs is one frame
    for name, frames in films.items():
        if config.circle:
            frames.pop()  # the first one follows
        _save_films(frames, output / name, config, output, turns=not config.circle)
        for number, frame in enumerate(frames):
            save_image(frame, output / "frames" / f"{name}_{number:03d}.png")
    moving = "codes_only.gif"
    if len(films) > 1:
        moving = "beside.gif"
        both = [torch.cat(frames, dim=2) for frames in zip(*films.values(), strict=True)]
        _save_films(both, output / "beside", config, output, turns=not config.circle)
    ts = torch.linspace(0, 1, config.steps).tolist()
    headings = ["from", *(f"t = {ts[step]:.2f}" for step in shown), "to"]
    written["strip.png"] = Sheet(inverter.title, rows, headings, captions)
    written["strip.png"].write(output / "strip.png")
    if len(shown) < config.steps or len(rows) < len(pairs) * len(kinds):
        print(f"strip.png shows {len(rows) // len(kinds)} of {counted(len(pairs), 'pair')} and {len(shown)} of "
              f"{config.steps} steps; frames/ has all")  # fmt: skip
    summary = {"photos": [photo.source for photo in photos], "circle": config.circle, "steps": config.steps, "t": ts}
    return _finish(config, inverter, inputs, begin, "interpolate", summary, ["strip.png", moving])


def _open(config: InvertConfig) -> tuple[Inverter, Path, float]:
    """The method, the output folder, and when the work began (a reading of `time.perf_counter`)."""
    begin = time.perf_counter()
    check_inputs(config)
    inverter = open_method(config)
    return inverter, Path(config.output), begin


def open_method(config: MethodConfig) -> Inverter:
    seed_everything(config.seed, config.threads)
    source = config.model or config.domain
    with doing("loading the model"):
        how = {"precision": config.precision, "compile": config.compile, "resolution": config.resolution}
        return load(source, config.method, config.device, config.projection, refine=config.refine, **how)


def _described(direction: Direction, gammas: Sequence[float]) -> dict:
    """The direction's own information, and the strengths in both units (standard deviations where they are known)."""
    spread = direction.info.get("projection_std")
    in_std = [gamma / spread for gamma in gammas] if spread else None
    units = {"strengths_in_w": list(gammas), "strengths_in_std": in_std}
    return {"generator": direction.generator_hash or None, **units, **direction.info}


def _save_photo(photo: Photo, reconstruction: Tensor, folder: Path, inputs: Inputs) -> dict[str, str]:
    """Input, reconstruction and Inversion of one photo; label -> file relative to the output folder."""
    for name in ("input.png", "reconstruction.png"):
        spare_inputs(folder / name, inputs.places)
    files = {}
    if photo.image is not None:
        files["input"] = _relative(save_image(photo.image, folder / "input.png", provenance=False), folder.parent)
    files["reconstruction"] = _relative(save_image(reconstruction, folder / "reconstruction.png"), folder.parent)
    photo.inversion.save(folder / "inversion.safetensors")
    files["inversion"] = _relative(folder / "inversion.safetensors", folder.parent)
    return files


def _save_pasted(whole: Image.Image, quad: np.ndarray, image: Tensor, path: Path) -> Path:
    """The whole photo with the edited crop [3, R, R] in its place, with the photo's EXIF data."""
    exif = {"exif": whole.info["exif"]} if "exif" in whole.info else {}
    write_picture(paste_back(whole, quad, to_pil(image.clamp(-1, 1))), path, COMPOSITE, format="PNG", **exif)
    return path


def _cells(*images: Tensor | None) -> list[Image.Image | None]:
    """Images [3, R, R] as small pictures, so that a sheet of many at 1024 px fits into memory; small ones stay."""
    pictures = [None if image is None else to_pil(image) for image in images]
    for picture in filter(None, pictures):
        picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    return pictures


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


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
        "model": {"name": inverter.model_name, "hash": inverter.model_hash, "generator_hash": inverter.generator_hash},
        "align": config.align,
        "skipped": inputs.skipped,
        "face_detector": inputs.finder,  # null: faces were not looked at
        "face_notes": inputs.face_notes,
        "notes": [*inputs.fit.report(), *inputs.framing.report()],
        "seconds": seconds,  # from the weights on disk to the last file written, without Python's imports
    }
    path = Path(config.output) / f"{command}.json"  # by command: one folder may hold an edit and an interpolation
    write_json(path, head | results, indent=2)
    for line in inputs.framing.unreported():
        print(f"note: {line}")
    if (count := len(results.get("images", ()))) > SHEET_ROWS:
        print(f"a sheet shows the first {SHEET_ROWS} of {count} photos; all have files of their own")
    if inputs.skipped:
        print(f"skipped: {counted(len(inputs.skipped), 'input')}; reasons in {path}")
    print(f"{command}: {seconds:.1f} s; look at {', '.join(look_at)} in {config.output}")
    return head | results
