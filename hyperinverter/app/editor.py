"""What the app does with a photo: align and invert it once, then draw it at any settings. It knows no web.

Letter: R px of the model's images.
"""

import math
import operator
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperinverter.app.session import FIRST, SECOND, Base, Loaded, Session, Settings
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import AppConfig
from hyperinverter.config.schema import EditConfig
from hyperinverter.directions import Direction, edit
from hyperinverter.directions.ganspace import AbsoluteDirection
from hyperinverter.editing.paste_back import paste_back
from hyperinverter.extractors import align
from hyperinverter.extractors.framing import Framing
from hyperinverter.inverters import Inversion, Inverter, load
from hyperinverter.utils.checkout import REPOSITORY, command_of
from hyperinverter.utils.decode import SEVERAL, decode_image
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import file_bytes, from_uint8, to_pil
from hyperinverter.utils.provenance import COMPOSITE, DRAWN, said
from hyperinverter.utils.resize import to_tensor
from hyperinverter.utils.text import printable

REACH = 4.0  # standard deviations that a slider goes to either side
BEYOND = 1.2  # times its published strength, where that is more
STEP = 0.1  # of a slider; one that starts between two steps would seem to be moved
SCREEN_PX, SMALL_PX = 1600, 640  # longer side of a whole photo on the screen, and while a slider moves
FILE, SCREEN, PREVIEW = "file", "screen", "preview"  # sizes of what is drawn
LOSSLESS_PX = 256  # up to which pictures go to the browser as PNG, above as JPEG
VIEWS = ("original", "phase1", "inversion", "edit")


@dataclass(frozen=True)
class Slider:
    """A direction of the domain; strengths in standard deviations. `sets`: where the photo is, not how far to move."""

    name: str
    direction: Direction
    std: float  # in W
    least: float
    most: float
    sets: bool


class Editor:
    """One model for all sessions.

    Args:
        inverter: the method, set up.
        config: how it was, for the command line that makes the same picture.
    """

    def __init__(self, inverter: Inverter, config: AppConfig) -> None:
        self.inverter, self.config = inverter, config
        self.sliders = {name: self._slider(name) for name in self._names()}
        self.can_align = inverter.domain.alignment == "ffhq" and inverter.domain.kind != "scenes"
        self.preview_px = min(config.preview_px, inverter.resolution)
        self.views = [view for view in VIEWS if view != "phase1" or inverter.code_title]

    def _names(self) -> list[str]:
        """The domain's directions in their own order, then others of the model folder."""
        there = self.inverter.directions
        return [*(name for name in self.inverter.domain.directions if name in there),
                *(name for name in there if name not in self.inverter.domain.directions)]  # fmt: skip

    def _slider(self, name: str) -> Slider:
        direction = self.inverter.direction(name)
        (std,) = self.inverter.in_w([1.0], "std", direction)
        reach = max(REACH, BEYOND * abs(direction.info.get("published_strength_in_std", 0.0)))
        reach = math.ceil(reach)
        return Slider(name, direction, std, -reach, reach, isinstance(direction, AbsoluteDirection))

    def open(self, session: Session, slot: str, data: bytes, name: str, aligned: bool, face: int = 1) -> None:
        """Read, align and invert a photo, and put it into the session.

        Args:
            slot: FIRST or SECOND.
            data: the file's bytes; they are not kept.
            name: of the file.
            aligned: find the face and crop it.
            face: which, 1 is the largest.
        Raises:
            UserError: it is no image, too large, without a face, or there is no first photo yet.
        """
        if slot == SECOND:
            session.photo(FIRST)
        name = printable(Path(name).name, longest=100) or "photo"
        whole = decode_image(data, name, self.config.data.max_megapixels)
        self._put(session, slot, whole, name, aligned, face)

    def choose(self, session: Session, slot: str, aligned: bool, face: int) -> None:
        """Take another face of a photo that is there; arguments and errors as of `open`."""
        there = session.photo(slot)
        self._put(session, slot, there.whole, there.name, aligned, face)

    def _put(self, session: Session, slot: str, whole: Image.Image, name: str, aligned: bool, face: int) -> None:
        picture, quad, count, notes = whole, None, 0, []
        if aligned and self.can_align:
            drawn_px = self.inverter.resolution
            faces = align.align_faces(whole, max(drawn_px, align.ALIGNED_SIZE), name, align.ALL_FACES, drawn_px)
            count = len(faces)
            if not 1 <= face <= count:
                raise UserError(f"{name} has {count} face{'s' * (count > 1)}, so there is no face number {face}")
            picture, quad = faces[face - 1].image, faces[face - 1].quad
            notes = [f"{name}: {note}"] if (note := faces[face - 1].note) else []
        else:
            framing = Framing(self.inverter.domain, 'tick "find the face"')
            framing.look(name, whole)
            face, notes = 0, [line] if (line := framing.line(name)) else []
        if whole.info.get(SEVERAL):
            notes.append(f"{name} holds several pictures: this is the first")
        size, taken = self.inverter.resolution, self.inverter.input_shape
        image = from_uint8(to_tensor(picture, size))
        as_taken = image if taken == (size, size) else from_uint8(to_tensor(picture, taken))
        inversion = self.inverter.invert(as_taken[None])
        shown, small = _within(whole, SCREEN_PX), _within(whole, SMALL_PX)
        photo = Loaded(name, whole, shown, small, image, inversion, quad, count, face, notes)
        with session.lock:
            session.put(slot, photo)

    def settings(self, given: Mapping[str, Any], session: Session) -> Settings:
        """Settings out of what a browser sent.

        Raises:
            UserError: a direction that is not there, a strength beyond its slider, or something else than a number.
        """
        starts, edits = self.starts(session), {}
        strengths = given.get("edits", {})
        if not isinstance(strengths, dict):
            raise UserError("edits must name directions and their strengths")
        if unknown := [name for name in strengths if name not in self.sliders]:
            raise UserError(f"no direction {str(unknown[0])[:40]!r}; there are: {', '.join(self.sliders)}")
        for name, slider in self.sliders.items():  # in one order, whatever was moved first
            value = _number(strengths.get(name, starts[name]), name, slider.least, slider.most)
            if value != starts[name]:
                edits[name] = value
        blend = _number(given.get("blend", 0.0), "blend", 0.0, 1.0)
        if blend:
            session.photo(SECOND)
        pasted = given.get("paste_back", False) is True
        if pasted and session.photo().quad is None:
            raise UserError("pasting back needs a photo whose face was found here")
        return Settings(edits, blend, pasted)

    def starts(self, session: Session) -> dict[str, float]:
        """Where every slider stands before it is moved: 0, or where the photo is on a component."""
        photo = session.photos.get(FIRST)
        starts = dict.fromkeys(self.sliders, 0.0)
        for name, slider in self.sliders.items():
            if isinstance(slider.direction, AbsoluteDirection) and photo is not None:
                vector, mean = slider.direction.vector, slider.direction.mean
                at = float((photo.inversion.ws[0, 0].cpu() - mean) @ vector) / slider.std
                starts[name] = round(round(min(max(at, slider.least), slider.most) / STEP) * STEP, 2) + 0.0
        return starts

    def draw(self, session: Session, view: str, settings: Settings, size: str = FILE) -> Image.Image:
        """A picture.

        Args:
            view: one of VIEWS: the photo, what the code alone draws, with weights, or edited.
            size: FILE; SCREEN, where a whole photo is reduced; PREVIEW, which is small and comes sooner.
        Raises:
            UserError: there is no photo.
        """
        photo = session.photo()
        px = self.preview_px if size == PREVIEW else self.inverter.resolution
        if view == "original":
            picture = to_pil(photo.image)
            picture = picture if picture.width == px else picture.resize((px, px), Image.Resampling.BOX)
        else:
            base = self._base(session, settings.blend)
            inversion = {
                "phase1": base.inversion.without_weights,
                "inversion": lambda: base.prepared,
                "edit": lambda: self.edited(session, settings),
            }[view]()
            drawn = self.inverter.render(inversion, resolution=None if px == self.inverter.resolution else px)
            picture = to_pil(drawn[0].cpu().clamp(-1, 1))
        if not settings.paste_back or photo.quad is None:
            return picture
        under = {FILE: photo.whole, SCREEN: photo.shown, PREVIEW: photo.small}[size]
        if view == "original":
            return under
        return paste_back(under, photo.quad * (under.width / photo.whole.width), picture)

    def edited(self, session: Session, settings: Settings) -> Inversion:
        """What is drawn at settings, with its weights."""
        inversion = self._base(session, settings.blend).prepared
        for name, strength in settings.edits.items():
            slider = self.sliders[name]
            inversion = edit(inversion, slider.direction, strength * slider.std)
        return inversion

    @torch.no_grad()
    def _base(self, session: Session, blend: float) -> Base:
        """What edits start from; the last one is kept."""
        with session.lock:
            base = session.base
            first = session.photo().inversion
            inversion = first if not blend else first.interpolate(session.photo(SECOND).inversion, blend)
            photos = list(session.photos.values())
        if base is None or base.blend != blend:
            base = Base(blend, inversion, self.inverter.prepare(inversion))
            with session.lock:
                if all(map(operator.is_, photos, session.photos.values())):  # none came in the meantime
                    session.base = base
        return base

    def file(self, session: Session) -> bytes:
        """The present picture in full, as `edit` writes it."""
        settings = session.settings
        picture = self.draw(session, "edit", settings)
        exif = {"exif": picture.info["exif"]} if "exif" in picture.info else {}
        made = COMPOSITE if settings.paste_back else DRAWN
        return file_bytes(picture, format="PNG", **said(made, "PNG"), **exif)

    def saved(self, session: Session) -> bytes:
        """The file of the inversion that edits start from, as `invert` writes it."""
        with tempfile.TemporaryDirectory(prefix="hyperinverter-") as folder:
            path = Path(folder) / "inversion.safetensors"
            self._base(session, session.settings.blend).inversion.save(path)
            return path.read_bytes()

    def command(self, session: Session) -> str:
        """The command line that makes the present picture: of the photo, or of the saved inversion of a blend."""
        photo, settings = session.photo(), session.settings
        name = photo.name if not settings.blend else f"{self.stem(session)}.safetensors"
        words = [f"./{name}" if name.startswith("-") or "=" in name else name]  # no option, and no setting
        if not settings.blend and photo.face:
            words += ["align=true", *([f"face={photo.face}"] if photo.face > 1 else [])]
        edits = settings.edits or (dict.fromkeys(list(self.sliders)[:1], 0.0) if settings.paste_back else {})
        if edits:
            listed = ", ".join(f"{name}: {strength:g}" for name, strength in edits.items())
            words += [f"edits={{{listed}}}", "strength_unit=std"]
        if settings.paste_back and not settings.blend:
            words.append("paste_back=true")
        return f"{command_of('edit' if edits else 'invert')} {shlex.join([*self._same_settings, *words])}"

    @cached_property
    def _same_settings(self) -> list[str]:
        """The config of this domain's edits, and what is set otherwise here."""
        domain = self.config.domain.name
        file = f"configs/edit/{domain}.yaml"
        known = (REPOSITORY / file).is_file()
        plain = load_config(EditConfig, file if known else None, [] if known else [f"domain={domain}"])
        words = ["--config", file] if known else [f"domain={domain}"]
        for key in ("model", "method", "precision", "resolution", "device", "threads", "seed"):
            if (value := getattr(self.config, key)) != getattr(plain, key):
                words.append(f"{key}={value}")
        if (most := self.config.data.max_megapixels) != plain.data.max_megapixels:
            words.append(f"data.max_megapixels={most:g}")
        for key, value in vars(self.config.refine).items():
            does_something = key == "steps" or self.config.refine.steps > 0  # else the command refuses it
            if does_something and value != getattr(plain.refine, key):
                words.append(f"refine.{key}={value}")
        return words

    def stem(self, session: Session) -> str:
        """What downloads are called, without suffix."""
        return Path(session.photo().name).stem[:60] + ("_blend" if session.settings.blend else "")

    def state(self, session: Session) -> dict[str, Any]:
        """All that a page needs to show a session."""
        with session.lock:
            photos = {slot: {"name": each.name, "faces": each.faces, "face": each.face, "notes": each.notes,
                             "can_paste": each.quad is not None}
                      for slot, each in session.photos.items()}  # fmt: skip
            history = [self._step(*pair) for pair in zip([None, *session.history], session.history, strict=False)]
            return {
                "photos": photos,
                "settings": vars(session.settings),
                "starts": self.starts(session),
                "history": history,
                "at": session.at,
                "command": self.command(session) if photos else "",
            }

    def _step(self, before: Settings | None, after: Settings) -> str:
        """What a step of the history changed."""
        if before is None or after == Settings():
            return "start" if before is None else "reset"
        parts = []
        for name in self.sliders:
            if before.edits.get(name) != after.edits.get(name):
                value = after.edits.get(name)
                parts.append(f"{name} back" if value is None else f"{name} {value:+g}")
        if before.blend != after.blend:
            parts.append(f"blend {after.blend:g}")
        if before.paste_back != after.paste_back:
            parts.append("whole photo" if after.paste_back else "face alone")
        return ", ".join(parts).replace("_", " ")


def make_editor(config: AppConfig) -> Editor:
    """The model with the config's settings."""
    how: dict[str, Any] = {key: getattr(config, key) for key in ("precision", "compile", "resolution")}
    source = config.model or config.domain
    return Editor(load(source, config.method, config.device, config.projection, refine=config.refine, **how), config)


def _within(photo: Image.Image, px: int) -> Image.Image:
    """The photo, of sides of at most `px`."""
    small = photo.copy()
    small.thumbnail((px, px), Image.Resampling.LANCZOS)
    return small


def encoded(picture: Image.Image, view: str, settings: Settings, passing: bool = False) -> tuple[bytes, str]:
    """A view for the browser, where it may be saved, and its media type.

    Args:
        passing: a larger one follows: JPEG, which takes a fifth of a millisecond where PNG takes five.
    """
    small = max(picture.size) <= LOSSLESS_PX and not passing
    how: dict[str, Any] = {"format": "PNG", "compress_level": 1} if small else {"format": "JPEG", "quality": 92}
    if view != "original":
        how |= said(COMPOSITE if settings.paste_back else DRAWN, how["format"])
    return file_bytes(picture, **how), "image/png" if small else "image/jpeg"


def _number(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"{name} is {str(value)[:40]}; it goes from {least:g} to {most:g}")
    return round(float(value), 2) + 0.0  # as the command line says it; sliders have one digit
