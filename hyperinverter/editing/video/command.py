"""What scripts/edit_video.py does: a film in, the same film with edited faces and its sound out, in four passes.

Faces are followed; their crops inverted; codes and tokens smoothed in time, edited, drawn and put back; parts joined.
Each pass goes through the film in chunks and leaves a file per chunk, so that a run that was killed goes on at its last
chunk. Memory does not grow with the film, but by six numbers per face and frame.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hyperinverter.config.model_schema import VideoConfig
from hyperinverter.editing.changes import Together, all_at_once
from hyperinverter.editing.commands import open_method
from hyperinverter.editing.paste_back import paste_back
from hyperinverter.editing.video.tracks import FacePath, Flicker, Tracker, smooth_paths
from hyperinverter.extractors.align import ALIGNED_SIZE
from hyperinverter.extractors.crop import crop_quad
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import check_writable, write_json, write_text
from hyperinverter.utils.films import MP4_SOUND, Film, join_parts, write_part
from hyperinverter.utils.images import contact_sheet, from_uint8, to_pil
from hyperinverter.utils.resize import to_tensor
from hyperinverter.utils.text import expanded

CHUNK = 32  # frames
SHORTEST_S = 0.2  # a face that is there for less is left alone
SHEET_FRAMES, CELL_PX = 6, 320


@dataclass
class Work:
    """What all passes share.

    Attributes:
        folder: of the files that passes leave.
        frames: how many the film has, known after the first pass.
        paths: of the faces, known after the first pass.
    """

    config: VideoConfig
    film: Film
    folder: Path
    frames: int = 0
    paths: tuple[FacePath, ...] = ()

    @property
    def chunks(self) -> int:
        return -(-self.frames // CHUNK)

    def span(self, chunk: int) -> range:
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.frames))

    def faces(self, chunk: int) -> list[tuple[int, int]]:
        """(path, frame) of every face in a chunk, in the order in which its codes lie."""
        return [(i, n) for n in self.span(chunk) for i, path in enumerate(self.paths) if path.at(n) is not None]

    def file(self, kind: str, chunk: int, suffix: str) -> Path:
        return self.folder / f"{kind}_{chunk:06d}{suffix}"


def edit_video(config: VideoConfig) -> dict:
    """Edit the faces of `files[0]` into `files[1]`.

    Writes the film, and beside it `<name>_sheet.png` (frames before and after) and `<name>.json` (frames, faces,
    flicker, times), which is also returned. `<name>.mp4.parts/`, from which a killed run goes on, is gone at the end.

    Raises UserError: no film was named, or what was is none, no face in it, or no such edit.
    """
    begin = time.perf_counter()
    source, target = _files(config)
    film = Film.open(source)
    if film.sound_is_unknown:
        print(f"note: {source}: its sound is of a kind that is not known here and is left out; convert it to AAC first")
    inverter = open_method(config)
    if inverter.domain.alignment != "ffhq" or inverter.domain.kind == "scenes":
        raise UserError(f"model {inverter.model_name} is not of faces in the FFHQ crop, at which films are edited")
    change = all_at_once(config, inverter)
    work = Work(config, film, target.with_name(f"{target.name}.parts"))
    _claim(work, inverter)
    seconds = {}
    for name, act in (
        ("follow", lambda: _follow(work)),
        ("invert", lambda: _invert(work, inverter)),
        ("edit", lambda: _edit(work, inverter, change)),
    ):
        start = time.perf_counter()
        act()
        seconds[name] = round(time.perf_counter() - start, 2)
    join_parts(film, [work.file("part", i, ".nut") for i in range(work.chunks)], target)
    measured = _measure(work, target)
    with_face = len({n for path in work.paths for n in range(path.start, path.stop)})
    result = {
        "command": "edit_video",
        "source": source.name,
        "domain": inverter.domain.name,
        "method": inverter.name,
        "model": {"name": inverter.model_name, "hash": inverter.model_hash},
        "edits": config.edits,
        "frames": work.frames,
        "fps": float(film.fps),
        "size": list(film.size),
        "faces": [{"from_frame": path.start, "to_frame": path.stop - 1} for path in work.paths],
        "frames_with_a_face": with_face,
        "sound": _sound(film),
        **measured,
        "seconds": {**seconds, "all": round(time.perf_counter() - begin, 2)},
    }
    write_json(target.with_suffix(".json"), result, indent=2)
    shutil.rmtree(work.folder)
    print(
        f"{target}: {work.frames} frames, {len(work.paths)} face{'s' * (len(work.paths) > 1)} in {with_face} of them; "
        f"flicker {measured['flicker']} of the original's; {result['seconds']['all']:.0f} s"
    )
    return result


def _sound(film: Film) -> str | None:
    """What became of it, for the record."""
    if film.sound is None:
        return "left out, of an unknown kind" if film.sound_is_unknown else None
    return "copied" if film.sound in MP4_SOUND else "encoded as AAC"


def _files(config: VideoConfig) -> tuple[Path, Path]:
    """The film to read and the film to write."""
    if len(config.files) not in (1, 2):
        raise UserError(f"give the film to read and the one to write, in.mp4 out.mp4; got {config.files or 'none'}")
    source = expanded(config.files[0])
    target = expanded(config.files[1]) if config.files[1:] else Path(config.output) / f"{source.stem}.mp4"
    if target.suffix.lower() != ".mp4":
        raise UserError(f"{target}: films are written as MP4; give a name that ends in .mp4")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target} is the film to work on, and the result would replace it; give another name")
    check_writable(target.parent)
    return source, target


def _claim(work: Work, inverter: Inverter) -> None:
    """Make the folder of parts; one of another film, other settings or another model is emptied first."""
    about = work.film.path.stat()
    settings = asdict(work.config) | {"files": None, "output": None, "threads": None}
    parts = [str(work.film.path.absolute()), about.st_size, about.st_mtime_ns, settings, inverter.model_hash]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    mark = work.folder / "of.json"
    if mark.is_file() and mark.read_text() == key:
        print(f"going on with {work.folder}")
        return
    if work.folder.exists():
        if not mark.is_file() and any(not each.name.startswith(".") for each in work.folder.iterdir()):
            raise UserError(f"{work.folder} is where parts of the film go, and holds something else: rename it")
        shutil.rmtree(work.folder)
    write_text(mark, key)


def _follow(work: Work) -> None:
    """Where the faces are in every frame; sets the number of frames and the paths."""
    config, fps = work.config, float(work.film.fps)
    tracker = Tracker(fps, config.face)
    done = 0
    while (file := work.file("track", done, ".json")).is_file():
        tracker.resume(json.loads(file.read_text()))
        done += 1
    end = work.folder / "frames.json"
    if not end.is_file():
        number = -1
        with tqdm(total=work.film.frames or None, desc="follow faces", unit="frame", leave=False) as bar:
            for number, (_, frame) in enumerate(work.film):
                bar.update()
                if number < done * CHUNK:
                    continue
                tracker.take(number, frame)
                if (number + 1) % CHUNK == 0:
                    _write_json(work.file("track", number // CHUNK, ".json"), tracker.state(number + 1 - CHUNK))
        if (number + 1) % CHUNK:
            _write_json(work.file("track", number // CHUNK, ".json"), tracker.state(number // CHUNK * CHUNK))
        _write_json(end, number + 1)
    work.frames = json.loads(end.read_text())
    sigma = config.smooth_crop_ms / 1000 * fps
    shortest = min(round(SHORTEST_S * fps), work.frames // 2)
    work.paths = tuple(smooth_paths(tracker.tracks, sigma, max(shortest, 1)))
    if not work.paths:
        raise UserError(
            f"{work.film.path}: no face was found in its {work.frames} frames: give a film with faces of at least 80 px"
        )


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content))


def _chunks_of(work: Work, missing: list[int], what: str) -> Iterator[tuple[int, Iterator[tuple[int, Image.Image]]]]:
    """(chunk, what reads its frames one by one) of the missing chunks, with a bar."""
    with tqdm(total=work.frames, desc=what, unit="frame", leave=False) as bar:
        frames = iter(work.film)
        for chunk in range(max(missing) + 1):
            part = islice(frames, len(work.span(chunk)))
            if chunk in missing:
                yield chunk, part
            for _ in part:  # what was not asked for
                pass
            bar.update(len(work.span(chunk)))


def _missing(work: Work, kind: str, suffix: str) -> list[int]:
    return [chunk for chunk in range(work.chunks) if not work.file(kind, chunk, suffix).is_file()]


def _invert(work: Work, inverter: Inverter) -> None:
    """Codes of every face in every frame, one file per chunk."""
    missing = [chunk for chunk in _missing(work, "codes", ".safetensors") if work.faces(chunk)]
    if not missing:
        return
    size = max(inverter.resolution, ALIGNED_SIZE // 2)  # 0.002 from a crop at full size, in a third of the time
    for chunk, frames in _chunks_of(work, missing, "invert"):
        crops = []
        for number, (_, frame) in zip(work.span(chunk), frames, strict=True):
            quads = (path.at(number) for path in work.paths)
            for quad in (quad for quad in quads if quad is not None):
                crops.append(from_uint8(to_tensor(crop_quad(frame, quad, size), inverter.input_shape)))
        inversion = inverter.invert(torch.stack(crops), work.config.batch_size)
        inversion.to("cpu").save(work.file("codes", chunk, ".safetensors"))


def _smoothed(work: Work, chunk: int) -> Inversion:
    """The chunk's codes and tokens, each the mean of its face's neighbours in time under a Gaussian."""
    sigma = max(work.config.smooth_codes_ms / 1000 * float(work.film.fps), 1e-3)
    faces, parts = [], []
    for each in (chunk - 1, chunk, chunk + 1):
        if 0 <= each < work.chunks and work.faces(each):
            faces += work.faces(each)
            parts.append(Inversion.load(work.file("codes", each, ".safetensors")))
    at = torch.tensor(faces)  # [M, 2]: path, frame
    own = torch.tensor(work.faces(chunk))
    distance = (own[:, None, 1] - at[None, :, 1]).double() / sigma
    weights = torch.exp(-0.5 * distance.square()) * (own[:, None, 0] == at[None, :, 0])
    return Inversion.cat(parts).mixed((weights / weights.sum(dim=1, keepdim=True)).float())


def _edit(work: Work, inverter: Inverter, change: Together) -> None:
    """Edited frames, one part of the film per chunk."""
    missing = _missing(work, "part", ".nut")
    if not missing:
        return
    for chunk, frames in _chunks_of(work, missing, "edit"):
        images: list[Tensor] = []
        if work.faces(chunk):
            edited = change.at(_smoothed(work, chunk), 1.0)
            images = list(inverter.render(edited, batch_size=work.config.batch_size).clamp(-1, 1).cpu())
        write_part(work.film, _pasted(work, chunk, frames, images), work.file("part", chunk, ".nut"))


def _pasted(
    work: Work, chunk: int, frames: Iterator[tuple[int, Image.Image]], images: list[Tensor]
) -> Iterator[tuple[int, Image.Image]]:
    """The chunk's frames with the edited crops [3, R, R] in their places."""
    left = iter(images)
    for number, (pts, frame) in zip(work.span(chunk), frames, strict=True):
        for path in work.paths:
            quad = path.at(number)
            if quad is not None:
                frame = paste_back(frame, quad, to_pil(next(left)))
        yield pts, frame


def _measure(work: Work, target: Path) -> dict:
    """How much more the faces flicker than before, from the two films as they are on disk; draws the sheet."""
    flicker = Flicker(work.paths)
    shown = {round(i * (work.frames - 1) / max(SHEET_FRAMES - 1, 1)) for i in range(SHEET_FRAMES)}
    rows: list[list[Image.Image]] = [[], []]
    pairs = enumerate(zip(work.film, Film.open(target), strict=False))
    for number, ((_, before), (_, after)) in tqdm(pairs, "measure", work.frames, leave=False, unit="frame"):
        flicker.take(number, before, after)
        if number in shown:
            for row, frame in zip(rows, (before, after), strict=True):
                row.append(frame.copy())
                row[-1].thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    seconds = [f"{number / float(work.film.fps):.1f} s" for number in sorted(shown)][: len(rows[0])]
    contact_sheet(rows, seconds, target.with_name(f"{target.stem}_sheet.png"), ["before", "after"], CELL_PX)
    return flicker.figures()
