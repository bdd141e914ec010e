"""Align many photos: crops as PNG files, a contact sheet photo | crop, and alignment.json to put crops back later."""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hyperinverter.config.schema import AlignConfig
from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.sources import open_source, spare_inputs
from hyperinverter.extractors.align import AlignedFace, align_faces
from hyperinverter.extractors.face_finder import face_finder
from hyperinverter.utils.decode import FULL_SIZE, BadImageError, read_image
from hyperinverter.utils.device import own_cores
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import AppendedFile, write_json, write_text
from hyperinverter.utils.images import contact_sheet, save_image
from hyperinverter.utils.output_names import OutputNames, inside
from hyperinverter.utils.paths import check_given
from hyperinverter.utils.text import counted

SHEET_ROWS = 16  # photos on the contact sheet
DONE = ".alignment.jsonl"  # what a run that was killed goes on from; gone at the end


@dataclass
class Seen:
    """One photo: how large it is whole, a small picture of it, and its faces in pixels of the whole one."""

    full: tuple[int, int]
    small: Image.Image
    scale: np.ndarray
    faces: list[AlignedFace]


def align_folder(config: AlignConfig) -> dict[str, Path]:
    """Align the photos of `data.root` into `output`, at the domain's resolution, several at a time.

    Writes `<name>.png` per photo, `alignment.json` (per photo: its file, size, quad and landmarks in pixels of the
    upright photo, and which of its faces, 1 the largest; and the photos left out with the reason) and `sheet.png`. The
    same command goes on where a killed one stopped.

    Returns:
        Photo name -> crop file; with `face=all` the second face of a photo is NAME#2.
    Raises:
        UserError: data.root is not set; no photo has a face; or some have none and data.on_bad_file is "refuse".
    """
    data = config.data
    check_given(data)
    source = open_source(data.root or [], max_images=data.max_images, max_megapixels=data.max_megapixels)
    output = Path(config.output)
    records: dict[str, dict] = {}
    left_out: dict[str, str] = {}
    rows: list[list[Image.Image]] = []
    side = min(config.domain.resolution, 256)  # px, of the sheet's cells
    places = set(source.places())
    names = OutputNames(reserved=["sheet"])
    stems = Counter(os.path.splitext(name)[0] for name in source.names)
    before, done = _begun(output / DONE, _key(config, source))

    def look(index: int) -> Seen | BadImageError | None:
        name = source.names[index]
        if name in before and len(rows) >= SHEET_ROWS:
            return None
        try:
            photo = source.read(index)
            faces = [] if name in before else align_faces(photo, config.domain.resolution, name, config.face)
        except BadImageError as error:
            return error
        full = photo.info.get(FULL_SIZE, photo.size)  # of a photo that was reduced while it was decoded
        scale = np.array(full) / photo.size
        photo.thumbnail((side, side))  # whole photos of a modern camera would fill the memory
        return Seen(full, photo, scale, faces)

    def entry_of(name: str, found: Seen | BadImageError) -> dict:
        """Save the crops of one photo; what is to be remembered of it."""
        if isinstance(found, BadImageError):
            if len(source) > 1:  # of one alone the error says it
                tqdm.write(f"left out: {found}")
            return {"name": name, "faces": {}, "left_out": found.reason}
        made = {}
        for face in found.faces:
            file = path_of(name)
            for written in (file, "sheet.png"):
                spare_inputs(output / written, places)
            save_image(face.image, inside(output, file))
            made[name if face is found.faces[0] else f"{name}#{face.number}"] = _record(file, face, found)
            if face.note:
                tqdm.write(f"note: {name}: {face.note}")
        return {"name": name, "faces": made, "left_out": None}

    def path_of(name: str) -> str:
        return names.path(name, ".png", keep_suffix=stems[os.path.splitext(name)[0]] > 1)  # a.jpg beside a.png

    workers = own_cores() if data.workers is None else max(data.workers, 1)
    seen = _in_order(look, len(source), workers)
    bar = tqdm(source.names, desc="align", unit="photo", leave=False, disable=len(source) < 2)
    try:
        for name, found in zip(bar, seen, strict=True):
            if name in before:
                entry = before[name]
                for _ in entry["faces"]:
                    path_of(name)  # so that later photos get the names that they would have had
            else:
                assert found is not None, "only what was aligned before is not looked at"
                entry = entry_of(name, found)
                done.write(json.dumps(entry).encode() + b"\n")
            if entry["left_out"] is not None:
                left_out[name] = entry["left_out"]
            records |= entry["faces"]
            for each in entry["faces"].values():
                if len(rows) < SHEET_ROWS and isinstance(found, Seen):
                    rows.append([found.small, read_image(output / each["file"])])
    except UserError:
        (output / DONE).unlink(missing_ok=True)
        raise
    done.close()
    files = {key: output / each["file"] for key, each in records.items()}
    _finish(config, source, files, records, left_out, rows)
    return files


def _record(file: str, face: AlignedFace, found: Seen) -> dict:
    """What alignment.json says of one crop."""
    return {
        "file": file,
        "face": face.number,
        "photo_size": list(found.full),
        "quad": (face.quad * found.scale).tolist(),
        "landmarks": None if face.landmarks is None else (face.landmarks * found.scale).tolist(),
        "note": face.note,
    }


def _finish(
    config: AlignConfig,
    source: ImageSource,
    files: dict[str, Path],
    records: dict[str, dict],
    left_out: dict[str, str],
    rows: list[list[Image.Image]],
) -> None:
    """Write record and sheet, and say what was done; raises as `align_folder`."""
    output, side = Path(config.output), min(config.domain.resolution, 256)
    if not files or (left_out and config.data.on_bad_file == "refuse"):
        (output / DONE).unlink(missing_ok=True)
        if len(source) == 1:
            raise UserError("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
        raise UserError(f"{len(left_out)} of {len(source)} photos could not be aligned, for the reasons above")
    kept = sorted({file.name for file in output.glob("*.png")} - {file.name for file in files.values()} - {"sheet.png"})
    if kept:
        print(f"{output} also holds {counted(len(kept), 'picture')} of before, as {kept[0]}: not in alignment.json now")
    write_json(output / "alignment.json", {"photos": records, "left_out": left_out})
    (output / DONE).unlink(missing_ok=True)
    if len(files) > SHEET_ROWS:
        print(f"sheet.png shows the first {SHEET_ROWS} of {len(files)} faces")
    contact_sheet(rows, ["photo", "aligned"], output / "sheet.png", captions=list(files)[:SHEET_ROWS], cell=side)
    print(f"aligned {len(source) - len(left_out)} of {len(source)} photos to {config.domain.resolution} px in {output}")


def _in_order(act: Callable[[int], Seen | BadImageError | None], count: int, workers: int) -> Iterator:
    """act(0), act(1), ..., computed by threads a few ahead; decoding, resizing and the detector let others run."""
    with ThreadPoolExecutor(workers) as threads:
        ahead: deque[Future] = deque()
        try:
            for index in range(count):
                ahead.append(threads.submit(act, index))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _key(config: AlignConfig, source: ImageSource) -> str:
    """What crops depend on: photos, their sizes and times, and settings."""
    finder = face_finder()
    files = [(place, place.stat()) for place in source.places() if place.is_file()]  # members of archives are none
    about = [(str(place), found.st_size, found.st_mtime_ns) for place, found in files]
    parts = [list(source.names), about, config.domain.resolution, str(config.face), finder and finder.name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _begun(path: Path, key: str) -> tuple[dict[str, dict], AppendedFile]:
    """Photo -> what a killed run found, and the file to go on with; a run of other photos or settings is forgotten."""
    result: dict[str, dict] = {}
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # the last one may be cut short
        if lines and json.loads(lines[0]) == key:
            result = {entry["name"]: entry for entry in map(json.loads, lines[1:])}
    except (OSError, ValueError, KeyError, TypeError):
        result = {}
    whole = {
        name: entry
        for name, entry in result.items()
        if all((path.parent / face["file"]).is_file() for face in entry["faces"].values())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(line) + "\n" for line in [key, *whole.values()]))
    if whole:
        print(f"going on with {path.parent}: {counted(len(whole), 'photo')} of before")
    return whole, AppendedFile(path, lambda error: tqdm.write(f"{error}: a killed run would align these again"))
