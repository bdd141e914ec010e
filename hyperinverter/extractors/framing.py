"""Whether photos are in the crop that a domain's images have: a warning, since a wrong crop gives no error.

A domain of faces with `alignment: ffhq` expects one face at FFHQ's place; one of scenes expects no face that fills the
photo. Limits were chosen on photos: all of 1,106 crops of FFHQ, CelebA and portraits lie within them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
from PIL import Image

from hyperinverter.config.schema import DomainConfig
from hyperinverter.data.image_source import ImageSource
from hyperinverter.extractors.crop import side_and_place
from hyperinverter.extractors.face_finder import FaceFinder, FoundFace, face_finder
from hyperinverter.utils.decode import BadImageError
from hyperinverter.utils.resize import centre_crop

MOST_ASIDE = 0.12  # of the crop's centre from the photo's centre, in sides of the photo
SIZES = (0.75, 1.35)  # side of the crop over that of the photo
MOST_TILT = 20.0  # degrees
SECOND_FACE = 0.5  # narrower ones beside the widest are people in the background
FILLS = 0.25  # width of a face over the photo's side, from which on a scene is doubted
LOOKED_AT = 24  # photos of a training or an evaluation
NO_FACE = "no face was found"
NAMED = 3  # photos that are reported one by one, before they are counted only


@dataclass
class Framing:
    """Looks at photos one by one, and remembers what it found.

    `remedy`: what to do with photos of faces that are not in the crop.
    """

    domain: DomainConfig
    remedy: str
    looked_at: int = 0
    faults: dict[str, str] = field(default_factory=dict)  # photo -> what is wrong with it

    @property
    def checks(self) -> bool:
        """Whether this domain expects anything of faces."""
        return self.domain.kind == "scenes" or self.domain.alignment == "ffhq"

    @cached_property
    def _finder(self) -> FaceFinder | None:
        return face_finder() if self.checks else None

    @property
    def finder(self) -> str | None:
        """Name of the detector; None: nothing is looked at."""
        return self._finder.name if self._finder else None

    def look(self, name: str, photo: Image.Image) -> str | None:
        """What is wrong with an upright RGB photo, before its centre square is taken; None: nothing."""
        self.looked_at += 1
        if self._finder is None:
            return None
        faces = self._finder.find(photo)
        message = self._scene(faces, photo) if self.domain.kind == "scenes" else self._face(faces, photo)
        if message:
            self.faults[name] = message
        return message

    def line(self, name: str) -> str | None:
        """What to say of a photo as soon as it was looked at; of the fourth and later ones nothing."""
        if name not in self.faults or len(self.faults) > NAMED:
            return None
        if self.domain.kind == "scenes":
            return f"{name} {self.faults[name]}, {self._what_to_do()}"
        if self.faults[name] == NO_FACE:
            return f"{name}: {NO_FACE}; this model shows faces in the FFHQ crop only"
        return f"{name} is not in the FFHQ crop ({self.faults[name]}), so its result is wrong: {self.remedy}"

    def report(self) -> list[str]:
        """For all photos together, at the end."""
        if not self.checks or not self.looked_at:
            return []
        if self._finder is None:
            if self.domain.kind == "scenes":
                return []
            return [
                "photos were taken to be in the FFHQ crop, as no face detector is here (pip install "
                f"opencv-python-headless); if they are not: {self.remedy}"
            ]
        if not self.faults:
            return []
        name, fault = next(iter(self.faults.items()))
        count = f"{len(self.faults)} of {self.looked_at} photos"
        if self.domain.kind == "scenes":
            return [f"{count} show faces, such as {name}, {self._what_to_do()}"]
        return [f"{count} are not in the FFHQ crop, such as {name} ({fault}), so results are wrong: {self.remedy}"]

    def unreported(self) -> list[str]:
        """What `report` says beyond `line`."""
        return self.report() if self.finder is None or len(self.faults) > NAMED else []

    def _what_to_do(self) -> str:
        return f"but domain {self.domain.name} is of scenes: for faces take one of faces, such as faces64"

    def _face(self, faces: list[FoundFace], photo: Image.Image) -> str | None:
        if not faces:
            return NO_FACE
        wrong = [_off_place(face, photo.size) for face in faces]
        if None in wrong:
            return None
        many = sum(face.box[2] > SECOND_FACE * faces[0].box[2] for face in faces)
        return wrong[0] if many == 1 else f"{many} faces, and of the largest: {wrong[0]}"

    def _scene(self, faces: list[FoundFace], photo: Image.Image) -> str | None:
        fills = FILLS * min(photo.size)
        least = cast(FaceFinder, self._finder).sure
        sure = [face for face in faces if face.score >= least and face.box[2] >= fills]
        return "shows a face" if sure else None


def look_at_some(source: object, domain: DomainConfig, remedy: str) -> Iterator[str]:
    """What `Framing` says of some photos of a source, spread over it; nothing of one that is generated."""
    if not isinstance(source, ImageSource):
        return
    framing = Framing(domain, remedy)
    if framing.finder is not None:
        for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).round().astype(int)).tolist():
            try:
                framing.look(source.names[index], source.read(index))
            except BadImageError:  # reported by what reads it in earnest
                continue
    yield from framing.report()


def _off_place(face: FoundFace, size: tuple[int, int]) -> str | None:
    """How FFHQ's crop of this face differs from the centre square of a photo of this (width, height), in words."""
    left, top, right, _ = centre_crop(size, (1, 1)) or (0, 0, *size)
    side = right - left
    centre, own_side, tilt = side_and_place(face.left_eye, face.right_eye, face.mouth)
    aside = (centre - [left + side / 2, top + side / 2]) / side
    if own_side / side < SIZES[0]:
        return "the face is too small"
    if own_side / side > SIZES[1]:
        return "the face is too large"
    if np.abs(aside).max() > MOST_ASIDE:
        return "the face is not in the middle"
    if abs(tilt) > MOST_TILT:
        return "the face is tilted"
    return None
