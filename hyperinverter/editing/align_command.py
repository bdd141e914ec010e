"""Align many photos: crops as PNG files, a contact sheet photo | crop, and alignment.json to put crops back later."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hyperinverter.config.schema import AlignConfig
from hyperinverter.data.sources import open_source, spare_inputs
from hyperinverter.extractors.align import align_faces
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.decode import FULL_SIZE, BadImageError
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_atomically
from hyperinverter.utils.images import contact_sheet, save_image
from hyperinverter.utils.output_names import OutputNames, inside
from hyperinverter.utils.text import counted

SHEET_ROWS = 16  # photos on the contact sheet


def align_folder(config: AlignConfig) -> dict[str, Path]:
    """Align the photos of `data.root` into `output`, at the domain's resolution.

    Writes `<name>.png` per photo, `alignment.json` (per photo: its file, size, quad and landmarks in pixels of the
    upright photo, and which of its faces, 1 the largest; and the photos left out with the reason) and `sheet.png`.

    Returns:
        Photo name -> crop file; with `face=all` the second face of a photo is NAME#2.
    Raises:
        UserError: data.root is not set; no photo has a face; or some have none and data.on_bad_file is "refuse".
    """
    if config.data.root is None:
        raise UserError(
            f"no photos given: name photos, folders or zips, e.g. {command_of('align')} photos/ output=aligned"
        )
    data = config.data
    source = open_source(data.root, max_images=data.max_images, max_megapixels=data.max_megapixels)
    output = Path(config.output)
    files: dict[str, Path] = {}
    records: dict[str, dict] = {}
    left_out: dict[str, str] = {}
    rows: list[list[Image.Image]] = []
    side = min(config.domain.resolution, 256)  # px, of the sheet's cells
    places = set(source.places())
    names = OutputNames(reserved=["sheet"])
    stems = Counter(os.path.splitext(name)[0] for name in source.names)
    for index, name in enumerate(tqdm(source.names, desc="align", unit="photo", leave=False, disable=len(source) < 2)):
        try:
            photo = source.read(index)
            faces = align_faces(photo, config.domain.resolution, name, config.face)
        except BadImageError as error:
            left_out[name] = error.reason
            if len(source) > 1:  # of one alone the error says it
                tqdm.write(f"left out: {error}")
            continue
        full = photo.info.get(FULL_SIZE, photo.size)  # of a photo that was reduced while it was decoded
        scale = np.array(full) / photo.size
        photo.thumbnail((side, side))  # whole photos of a modern camera would fill the memory
        for face in faces:
            file = names.path(name, ".png", keep_suffix=stems[os.path.splitext(name)[0]] > 1)  # a.jpg beside a.png
            for written in (file, "sheet.png"):
                spare_inputs(output / written, places)
            key = name if face is faces[0] else f"{name}#{face.number}"
            files[key] = save_image(face.image, inside(output, file))
            records[key] = {
                "file": file,
                "face": face.number,
                "photo_size": list(full),
                "quad": (face.quad * scale).tolist(),
                "landmarks": None if face.landmarks is None else (face.landmarks * scale).tolist(),
                "note": face.note,
            }
            if face.note:
                tqdm.write(f"note: {name}: {face.note}")
            if len(rows) < SHEET_ROWS:
                rows.append([photo, face.image])
    if not files or (left_out and config.data.on_bad_file == "refuse"):
        if len(source) == 1:
            raise UserError("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
        raise UserError(f"{len(left_out)} of {len(source)} photos could not be aligned, for the reasons above")
    kept = sorted({file.name for file in output.glob("*.png")} - {file.name for file in files.values()} - {"sheet.png"})
    if kept:
        print(f"{output} also holds {counted(len(kept), 'picture')} of before, as {kept[0]}: not in alignment.json now")
    with write_atomically(output / "alignment.json") as temporary:
        temporary.write_text(json.dumps({"photos": records, "left_out": left_out}, indent=1))
    if len(files) > SHEET_ROWS:
        print(f"sheet.png shows the first {SHEET_ROWS} of {len(files)} faces")
    contact_sheet(rows, ["photo", "aligned"], output / "sheet.png", captions=list(files)[:SHEET_ROWS], cell=side)
    print(f"aligned {len(source) - len(left_out)} of {len(source)} photos to {config.domain.resolution} px in {output}")
    return files
