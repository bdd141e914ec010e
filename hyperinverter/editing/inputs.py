"""What edit, invert and interpolate are given: photos (files, folders, zips; aligned on request), saved Inversions."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hyperinverter.config.schema import InvertConfig
from hyperinverter.data.fit import FitNotes
from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.sources import check_images, open_source
from hyperinverter.editing.latents import is_latents, read_latents
from hyperinverter.extractors import align
from hyperinverter.extractors.face_finder import face_finder
from hyperinverter.extractors.framing import Framing
from hyperinverter.inverters import INVERTERS, Inversion, Inverter
from hyperinverter.utils.decode import IMAGE_SUFFIXES, BadImageError
from hyperinverter.utils.errors import DAMAGED, UserError
from hyperinverter.utils.images import from_uint8
from hyperinverter.utils.output_names import OutputNames
from hyperinverter.utils.paths import check_given
from hyperinverter.utils.resize import to_tensor
from hyperinverter.utils.text import counted, expanded
from hyperinverter.utils.waiting import doing

UNPASTED = "nothing is pasted back, as no whole photo is saved with it; give the photo itself"
CODES_NOTE = "codes are taken to be of this generator; of another one they give a wrong picture"


@dataclass
class Photo:
    """One input and its Inversion.

    Attributes:
        label: unique, fit for a file name.
        source: its name where it came from.
        image: what the networks saw, [3, R, R] in [-1, 1]; None for a saved Inversion.
        inversion: of one image.
        whole: reads the whole upright photo again; None for a saved Inversion.
        quad: where its crop lies in the whole photo, as of `AlignedFace`; None where it was not aligned.
        face: which of the photo's faces it is, 1 the largest; None where it was not aligned.
    """

    label: str
    source: str
    image: Tensor | None
    inversion: Inversion
    whole: Callable[[], Image.Image] | None = None
    quad: np.ndarray | None = None
    face: int | None = None

    @property
    def record(self) -> dict:
        """How the JSON names it."""
        return {"label": self.label, "source": self.source, **({} if self.face is None else {"face": self.face})}


@dataclass
class Prepared:
    """A photo that is to be inverted; attributes as of `Photo`, and `taken`: as the method takes it."""

    source: str
    image: Tensor
    taken: Tensor
    whole: Callable[[], Image.Image]
    quad: np.ndarray | None
    face: int | None


def check_inputs(config: InvertConfig) -> None:
    """Refuse inputs that cannot be used, before networks are loaded.

    Codes of other methods are left to `Inputs`: what they are depends on the generator.

    Raises:
        UserError: no input was named, or one holds no images or no Inversion.
        FileNotFoundError: a named file is not there.
    """
    check_given(config.data)
    for root in _roots(config):
        path = expanded(root)
        if is_latents(path):
            continue
        if path.suffix == ".safetensors":
            Inversion.load(path)
        else:
            check_images(root)


def saved_roots(config: InvertConfig) -> list[str]:
    """Of what was named the Inversions, codes and folders of Inversions: what one method made, no photos."""
    named = [(root, expanded(root)) for root in _named(config)]
    return [root for root, path in named if path.suffix == ".safetensors" or is_latents(path) or saved_in(path)]


def _roots(config: InvertConfig) -> list[str]:
    """What was named, and of a folder of saved Inversions these."""
    return [each for root in _named(config) for each in saved_in(expanded(root)) or [root]]


def _named(config: InvertConfig) -> list[str]:
    root = config.data.root
    return [root] if isinstance(root, str) else list(root or [])


def saved_in(folder: Path) -> list[str]:
    """Files of the Inversions in a folder that `invert` wrote, if all its pictures are `invert`'s too; else none.

    Its pictures are reconstructions and the sheet: as photos they would be inverted a second time, sheet and all.

    Raises UserError: it holds those of several methods.
    """
    file = folder / "invert.json"
    try:
        if not file.is_file():
            return []
        record = json.loads(file.read_text("utf-8"))
        methods = [folder / name for name in INVERTERS if name in record.get("methods", ())]
        names = [Path(image["inversion"]).name for image in record.get("images", ())]
    except (*DAMAGED, OSError):  # not ours
        return []
    pictures = [file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
    earlier = (file.with_suffix(".safetensors").name for file in sorted(pictures) if file.parent == folder)
    names += [name for name in earlier if name not in names and (folder / name).is_file()]  # of runs before this one
    own = {"sheet.png", *(f"{Path(name).stem}.png" for name in names)}
    if not {file.name for file in pictures if file.parent not in methods} <= own:
        return []
    if methods and all(map(saved_in, methods)):
        raise UserError(f"{folder}: invert saved several methods there; give one: {', '.join(map(str, methods))}")
    there = [str(folder / name) for name in names if name.endswith(".safetensors") and (folder / name).is_file()]
    return there if len(there) == len(names) else []


class Inputs:
    """The photos of `config.data.root`, inverted batch by batch in the order given.

    `skipped` fills with name -> reason while iterating: unreadable files, and photos without a face under align=true;
    `fit` with what had to be cropped or enlarged, `face_notes` with photo -> what is to be known of its face (not in
    the domain's crop, cut off, or one of several). `places` are the files of all photos, known once iterating begins.

    Raises (while iterating):
        UserError: no input was named, none could be used, or on_bad_file is refuse and one cannot be used.
        FileNotFoundError: a named file is not there.
    """

    def __init__(self, config: InvertConfig, inverter: Inverter) -> None:
        self.config, self.inverter = config, inverter
        self.skipped: dict[str, str] = {}
        self.fit = FitNotes(inverter.resolution)
        self.framing = Framing(inverter.domain, "write align=true")
        self.face_notes: dict[str, str] = {}
        self.places: set[Path] = set()
        self._total = 0  # of the inputs
        self._latents: dict[str, dict[str, Inversion]] = {}
        self._labels = OutputNames(reserved=("sheet", "frames"))  # a photo sheet.jpg must not meet the commands' own

    def __iter__(self) -> Iterator[Photo]:
        sources = self._sources()
        most = self.config.data.max_images
        total = sum(1 if source is None else len(source) for _, source in sources)
        total = self._total = total if most is None else min(total, most)
        count = 0
        with tqdm(total=total, desc="photos", unit="photo", leave=False, disable=total < 2) as bar:
            for photo in self._photos(sources):
                yield photo
                count += 1
                bar.total = max(total, count + len(self.skipped))  # a photo may have several faces
                bar.update(count + len(self.skipped) - bar.n)
        if count == 0:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            if total > 1 and self.skipped:
                why = f"all {len(self.skipped)} were skipped, for the reasons above"
            raise UserError(f"no image could be used: {why or 'there are none in data.root'}; give other images")

    @property
    def finder(self) -> str | None:
        """Name of the face detector; None: faces are not looked at."""
        if not self.config.align:
            return self.framing.finder
        return finder.name if (finder := face_finder()) else None

    def _sources(self) -> list[tuple[str, ImageSource | None]]:
        """Every root with its images; None for saved Inversions and codes."""
        roots = _roots(self.config)
        for root in _named(self.config):
            if saved := saved_in(expanded(root)):
                count = counted(len(saved), "Inversion")
                tqdm.write(f"note: {root}: this takes the {count} that invert saved there, not its pictures")
        check_inputs(self.config)
        self._latents = {
            root: read_latents(path, self.inverter) for root in roots if is_latents(path := expanded(root))
        }
        most, align = self.config.data.max_megapixels, self.config.align
        known = {"max_megapixels": most, "resolution": None if align else self.inverter.resolution}  # of the largest
        sources = [
            (root, None if root in self._latents or Path(root).suffix == ".safetensors" else open_source(root, **known))
            for root in roots
        ]
        self.places = {place for _, source in sources if source for place in source.places()}
        return sources

    def _photos(self, sources: list[tuple[str, ImageSource | None]]) -> Iterator[Photo]:
        pending: list[Prepared] = []
        for source, item, whole in islice(self._items(sources), self.config.data.max_images):
            if isinstance(item, Inversion):
                yield from self._inverted(pending)
                pending = []
                yield from self._saved(source, item)
                continue
            for prepared in self._prepared(source, item, whole):
                pending.append(prepared)
                if len(pending) == self.config.batch_size:
                    yield from self._inverted(pending)
                    pending = []
        yield from self._inverted(pending)

    def _items(
        self, sources: list[tuple[str, ImageSource | None]]
    ) -> Iterator[tuple[str, Inversion | Image.Image | BadImageError, Callable[[], Image.Image] | None]]:
        """(name, what was read, what reads it again) of every input."""
        for root, source in sources:
            if root in self._latents:
                self._note(root, CODES_NOTE, f"{root}: {CODES_NOTE}")
                for name, one in self._latents[root].items():
                    yield name, one, None
                continue
            if source is None:
                yield root, Inversion.load(expanded(root)), None
                continue
            for index in range(len(source)):
                whole = partial(source.read, index)
                try:
                    yield source.names[index], whole(), whole
                except BadImageError as error:
                    yield source.names[index], error, whole

    def _prepared(
        self, name: str, item: Image.Image | BadImageError, whole: Callable[[], Image.Image]
    ) -> Iterator[Prepared]:
        """The photo or, if asked, its faces; nothing if it cannot be used."""
        if isinstance(item, BadImageError):
            self._bad(name, item.reason)
            return
        pictures: list[tuple[Image.Image, np.ndarray | None, int | None]] = [(item, None, None)]
        if self.config.align:
            size = max(self.inverter.resolution, align.ALIGNED_SIZE)
            try:
                faces = align.align_faces(item, size, name, self.config.face, self.inverter.resolution)
            except align.NoFaceError as error:
                self._bad(name, error.reason)
                return
            pictures = [(face.image, face.quad, face.number) for face in faces]
            note = "; ".join(face.note for face in faces if face.note)
            self._note(name, note, note)
        else:
            self._note(name, self.framing.look(name, item), self.framing.line(name))
        size, taken = self.inverter.resolution, self.inverter.input_shape
        for picture, quad, face in pictures:
            self.fit.note(name, picture.size)
            image = from_uint8(to_tensor(picture, size))
            as_taken = image if taken == (size, size) else from_uint8(to_tensor(picture, taken))
            yield Prepared(name, image, as_taken, whole, quad, face)

    def _note(self, name: str, note: str | None, line: str | None) -> None:
        """Keep what is to be known of a photo's face; say it at once where `line` is not None."""
        if note:
            self.face_notes[name] = note
        if line:
            tqdm.write(f"note: {line if line.startswith(name) else f'{name}: {line}'}")

    def _bad(self, name: str, reason: str) -> None:
        if self.config.data.on_bad_file == "refuse":
            raise UserError(f"{name}: {reason}; remove it, or set data.on_bad_file=skip")
        self.skipped[name] = reason
        if self._total > 1:  # of one alone the error says it
            tqdm.write(f"skipped {name}: {reason}")

    def _inverted(self, pending: list[Prepared]) -> Iterator[Photo]:
        if pending:
            with doing("inverting"):
                inversion = self.inverter.invert(torch.stack([each.taken for each in pending]), self.config.batch_size)
            for each, one in zip(pending, inversion, strict=True):
                label = self._labels.label(each.source)
                yield Photo(label, each.source, each.image, one, each.whole, each.quad, each.face)

    def _saved(self, source: str, inversion: Inversion) -> Iterator[Photo]:
        if getattr(self.config, "paste_back", False):
            is_told = UNPASTED in self.face_notes.values()
            self._note(source, UNPASTED, None if is_told else f"{source}: {UNPASTED}")
        for one in inversion:
            yield Photo(self._labels.label(source), source, None, one)
