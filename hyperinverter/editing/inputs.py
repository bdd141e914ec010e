"""What edit, invert and interpolate are given: photos (files, folders, zips; aligned on request), saved Inversions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hyperinverter.config.schema import EditConfig
from hyperinverter.data.fit import FitNotes
from hyperinverter.data.sources import open_source
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.utils.decode import BadImageError, to_tensor
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import from_uint8
from hyperinverter.utils.output_names import OutputNames

ALIGNED_SIZE = 256  # px; crops for smaller domains are made at this size and then reduced by the one resize policy


@dataclass
class Photo:
    """One input and its Inversion.

    Attributes:
        label: unique, fit for a file name.
        source: its name where it came from.
        image: what the networks saw, [3, R, R] in [-1, 1]; None for a saved Inversion.
        inversion: of one image.
    """

    label: str
    source: str
    image: Tensor | None
    inversion: Inversion


class Inputs:
    """The photos of `config.data.root`, inverted batch by batch in the order given.

    `skipped` fills with name -> reason while iterating: unreadable files, and photos without a face under align=true;
    `fit` with what had to be cropped or enlarged. `places` are the files of all photos, known once iterating begins.

    Raises (while iterating):
        UserError: no input was named, none could be used, or on_bad_file is refuse and one cannot be used.
        FileNotFoundError: a named file is not there.
    """

    def __init__(self, config: EditConfig, inverter: Inverter) -> None:
        self.config, self.inverter = config, inverter
        self.skipped: dict[str, str] = {}
        self.fit = FitNotes(inverter.resolution)
        self.places: set[Path] = set()
        self._labels = OutputNames(reserved=("sheet", "frames"))  # a photo sheet.jpg must not meet the commands' own

    def __iter__(self) -> Iterator[Photo]:
        pending: list[tuple[str, Tensor]] = []
        count = 0
        for source, item in self._items():
            if isinstance(item, Inversion):
                yield from self._inverted(pending)
                pending = []
                yield from self._saved(source, item)
                count += 1
            elif (image := self._prepared(source, item)) is not None:
                pending.append((source, image))
                count += 1
                if len(pending) == self.config.batch_size:
                    yield from self._inverted(pending)
                    pending = []
        yield from self._inverted(pending)
        if count == 0:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise UserError(f"no image could be used: {reasons or 'there are none in data.root'}; give other images")

    def _items(self) -> Iterator[tuple[str, Inversion | Image.Image | BadImageError]]:
        """(name, what was read) of every input."""
        data = self.config.data
        roots = [data.root] if isinstance(data.root, str) else (data.root or [])
        if not roots:
            raise UserError("no images were given; name files, folders or zips, or set data.root=FOLDER")
        sources = [None if Path(root).suffix == ".safetensors" else open_source(root) for root in roots]
        self.places = {place for source in sources if source for place in source.places()}
        left = data.max_images if data.max_images is not None else float("inf")
        for root, source in zip(roots, sources, strict=True):
            if source is None:
                yield root, Inversion.load(Path(root).expanduser())
                continue
            for index in range(len(source)):
                if left <= 0:
                    return
                left -= 1
                try:
                    yield source.names[index], source.read(index)
                except BadImageError as error:
                    yield source.names[index], error

    def _prepared(self, name: str, item: Image.Image | BadImageError) -> Tensor | None:
        """Aligned if asked, as [3, R, R]; None when it cannot be used."""
        if isinstance(item, BadImageError):
            return self._bad(name, item.reason)
        if self.config.align:
            from hyperinverter.data.align import NoFaceError, align_face  # dlib is an extra

            try:
                item = align_face(item, max(self.inverter.resolution, ALIGNED_SIZE), name)
            except NoFaceError as error:
                return self._bad(name, str(error))
        self.fit.note(name, item.size)
        return from_uint8(to_tensor(item, self.inverter.resolution))

    def _bad(self, name: str, reason: str) -> None:
        if self.config.data.on_bad_file == "refuse":
            raise UserError(f"{name}: {reason}; remove it, or set data.on_bad_file=skip")
        self.skipped[name] = reason
        print(f"skipped {name}: {reason}")

    def _inverted(self, pending: list[tuple[str, Tensor]]) -> Iterator[Photo]:
        if pending:
            inversion = self.inverter.invert(torch.stack([image for _, image in pending]), self.config.batch_size)
            for (source, image), one in zip(pending, inversion, strict=True):
                yield Photo(self._labels.label(source), source, image, one)

    def _saved(self, source: str, inversion: Inversion) -> Iterator[Photo]:
        for one in inversion:
            yield Photo(self._labels.label(source), source, None, one)
