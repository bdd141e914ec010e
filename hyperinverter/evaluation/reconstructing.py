"""Images -> reconstructions as they are measured; of methods that optimise for minutes each is made once and kept.

Letters: N images of a batch, R resolution.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

import hyperinverter
from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.loader import Batches
from hyperinverter.inverters import Inversion, Inverter
from hyperinverter.inverters.images import as_images
from hyperinverter.metrics.timing import Clock, Timing, timing_of
from hyperinverter.utils.images import from_uint8, to_pil, to_uint8, write_picture
from hyperinverter.utils.output_names import file_name

# keys in a kept file: how long the image took, and the share of it in which the process computed
SECONDS, COMPUTING = "seconds", "computing"
TIME = "time_ms"  # in the record of an image, beside COMPUTING: of a method that optimises for it


def rounded(images: Tensor) -> Tensor:
    """Images as they are after being saved with 8 bits: clamped to [-1,1] and rounded."""
    return from_uint8(to_uint8(images))


def as_taken(inverter: Inverter, photos: Batches, images: Tensor, names: Sequence[str]) -> Tensor:
    """Images [N,3,R,R] as the method takes them: where it has a size of its own, resized to that from their files."""
    if inverter.input_shape == images.shape[2:] or not isinstance(photos.source, ImageSource):
        return images
    places = {name: index for index, name in enumerate(photos.names)}
    return as_images([photos.source.read(places[name]) for name in names], inverter.input_shape).to(images.device)


def reconstruct(inverter: Inverter, images: Tensor) -> Tensor:
    """Images [N,3,R,R] -> their reconstruction [N,3,R,R], one batch."""
    return inverter.render(inverter.invert(images, batch_size=len(images)), batch_size=len(images))


class Took(NamedTuple):
    """Seconds of one image, and the share of them in which the process computed; None: an earlier version kept it."""

    seconds: float
    computing: float | None

    def record(self) -> dict[str, float | None]:
        return {TIME: 1000 * self.seconds, COMPUTING: self.computing}


def timing_of_records(records: list[dict[str, Any]], device: torch.device) -> Timing:
    """Of images as `Took.record` tells them; of those alone whose share of the processor is noted, where any is."""
    known = [one for one in records if one[COMPUTING] is not None]
    return timing_of([one[TIME] for one in known or records], device, shares=[one[COMPUTING] for one in known])


class Reconstructor:
    """A method as a function of images; one that optimises for every image keeps what it made.

    A kept file is a PNG, which holds exactly what is measured. Its name says by which weights and settings it was made
    from which pixels: an evaluation that was interrupted, or is measured by other metrics, finds it again.

    Args:
        folder: where finished images of a method that optimises lie.
        photos: the images, for methods that take them from their files.
        keep_inversions: beside the PNG also the Inversion, a .safetensors file of the same name, for edits and blends;
            PTI's is as large as the generator.
    """

    def __init__(self, inverter: Inverter, folder: Path, photos: Batches, keep_inversions: bool = False) -> None:
        self.inverter, self.photos = inverter, photos
        self.keeps, self.keep_inversions = inverter.optimises, keep_inversions
        self.folder = folder
        made_by = [inverter.name, inverter.model_hash, inverter.settings(), hyperinverter.__version__]
        self._made_by = json.dumps(made_by, sort_keys=True)
        self.found = 0  # images that were there already

    def __call__(
        self, images: Tensor, names: Sequence[str], done: Callable[[int], object] = lambda count: None
    ) -> tuple[Tensor, list[Took]]:
        """Reconstructions [N,3,R,R], rounded, on the images' device, and what each took of a method that optimises.

        Args:
            images: [N,3,R,R], rounded.
            done: called with the number of images finished since its last call.
        """
        if not self.keeps:
            outputs = rounded(reconstruct(self.inverter, as_taken(self.inverter, self.photos, images, names)))
            done(len(images))
            return outputs, []
        outputs, times = [], []
        for image, name in zip(images, names, strict=True):
            output, took = self._once(image, name)
            outputs.append(output)
            times.append(took)
            done(1)
        return torch.stack(outputs).to(images.device), times

    def redrawn(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """As `__call__`, of images on any device; what they took is left out."""
        return self(images.to(self.inverter.device), names)[0]

    def invert(self, images: Tensor, names: Sequence[str]) -> Inversion:
        """The images' Inversion; of a method that optimises, those that are kept are read, and new ones kept.

        `images`: [N,3,R,R], rounded.
        """
        if not self.keeps:
            taken = as_taken(self.inverter, self.photos, images, names)
            return self.inverter.invert(taken, batch_size=len(taken))
        if not self.keep_inversions:
            raise ValueError("Inversions of this Reconstructor are not kept: build it with keep_inversions=True")
        result = []
        for image, name in zip(images, names, strict=True):
            self._once(image, name)
            result.append(Inversion.load(self._path(image, name).with_suffix(".safetensors")))
        return Inversion.cat(result).to(self.inverter.device)

    def _once(self, image: Tensor, name: str) -> tuple[Tensor, Took]:
        path = self._path(image, name)
        is_whole = not self.keep_inversions or path.with_suffix(".safetensors").is_file()
        if is_whole and (kept := _read(path)) is not None:
            self.found += 1
            return kept
        with Clock(self.inverter.device) as clock:
            inversion = self.inverter.invert(image[None], batch_size=1)
            output = self.inverter.render(inversion, batch_size=1)
        output = rounded(output)[0].cpu()
        if self.keep_inversions:  # before the PNG, which says that the image is finished
            inversion.save(path.with_suffix(".safetensors"))
        about = PngImagePlugin.PngInfo()
        about.add_text(SECONDS, repr(clock.seconds))
        about.add_text(COMPUTING, repr(clock.computing))
        write_picture(to_pil(output), path, format="PNG", pnginfo=about)
        return output, Took(clock.seconds, clock.computing)

    def _path(self, image: Tensor, name: str) -> Path:
        return self.folder / f"{file_name(name)}_{self._key(image)}.png"

    def _key(self, image: Tensor) -> str:
        digest = hashlib.sha256(self._made_by.encode())
        digest.update(to_uint8(image).cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _read(path: Path) -> tuple[Tensor, Took] | None:
    """A kept image [3,R,R] and what it took; None: it is not there or not whole."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # [3, R, R]
            computing = picture.text.get(COMPUTING)
            took = Took(float(picture.text[SECONDS]), None if computing is None else float(computing))
            return from_uint8(pixels), took
    except (OSError, SyntaxError, ValueError, KeyError):
        return None
