"""What an inverter takes as images, as one batch of tensors."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hyperinverter.data.sources import open_source
from hyperinverter.extractors.align import ALIGNED_SIZE
from hyperinverter.extractors.align import align as align_photo
from hyperinverter.utils.decode import upright_rgb
from hyperinverter.utils.images import from_uint8
from hyperinverter.utils.resize import centre_crop, to_tensor

logger = logging.getLogger(__name__)

ImagesLike = Tensor | Image.Image | str | Path | Sequence[Tensor | Image.Image | str | Path]


def as_images(
    images: ImagesLike,
    shape: tuple[int, int],
    look: Callable[[str, Image.Image], object] = lambda name, photo: None,
    align: bool | int = False,
) -> Tensor:
    """Anything image-like as a batch [N, 3, H, W] in [-1, 1].

    Args:
        images: a tensor [N, 3, H, W] or [3, H, W] in [-1, 1], a PIL image, a path, or a list of these.
        shape: H and W wanted; other sizes are centre-cropped to its proportions and resized (bilinear with
            antialiasing), the one policy of the project; PIL images are turned upright and laid over white, as files
            are.
        look: called with name and upright RGB photo of each image that is no tensor, before its crop.
        align: True finds the largest face in each photo and takes the FFHQ crop of it, at which nothing looks any more;
            2 takes the second largest, and so on.
    Raises:
        NoFaceError: `align`, and a photo shows no face.
        ValueError: another shape, type or (of a tensor on the CPU) range; says what was given.
    """
    if not isinstance(align, int) or align < 0:
        raise ValueError(f"align is {align!r}; give True for the largest face, 2 for the second largest, and so on")
    if isinstance(images, Tensor) and align:
        raise ValueError("align=True takes photos, as paths or PIL images; a tensor has to be cropped already")
    if isinstance(images, Tensor):
        return _checked_tensor(images, shape)
    if isinstance(images, Image.Image):
        return _taken_in("an image", upright_rgb(images), shape, look, align)
    if isinstance(images, str | Path):
        source = open_source(images, resolution=None if align else max(shape))  # a face is a part of the photo
        return torch.cat([_taken_in(name, source.read(i), shape, look, align) for i, name in enumerate(source.names)])
    if isinstance(images, Sequence) and len(images) > 0 and not isinstance(images, bytes):
        return torch.cat([as_images(image, shape, look, align) for image in images])
    what = "is empty" if isinstance(images, list | tuple) else f"is {type(images).__name__}"
    array = "; of an array write PIL's Image.fromarray(array)" if hasattr(images, "__array_interface__") else ""
    raise ValueError(f"images {what}; give a tensor [N, 3, H, W] in [-1, 1], PIL images, paths, or a list{array}")


def _taken_in(
    name: str,
    photo: Image.Image,
    shape: tuple[int, int],
    look: Callable[[str, Image.Image], object],
    align: bool | int,
) -> Tensor:
    if align:
        face = align_photo(photo, max(*shape, ALIGNED_SIZE), name, int(align), max(shape))
        if face.note:
            logger.warning(f"{name}: {face.note}")
        photo = face.image
    else:
        look(name, photo)
    return from_uint8(to_tensor(photo, shape)).unsqueeze(0)


def _checked_tensor(images: Tensor, shape: tuple[int, int]) -> Tensor:
    if images.ndim == 3:
        images = images.unsqueeze(0)
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected [N, 3, H, W] with N at least 1")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; expected floats in [-1, 1]: divide by 127.5 and subtract 1")
    if images.device.type == "cpu":  # elsewhere reading the range back would stop the device
        low, high = images.aminmax()
        if not (low >= -1.01 and high <= 1.01):  # also refuses NaN; 1 % of slack for rounding after a resize
            raise ValueError(f"images lie in [{low:.3g}, {high:.3g}]; expected [-1, 1], finite")
        if 0 <= low < high:  # as torchvision's ToTensor gives them; a photo has dark places
            logger.warning(
                f"images lie in [{low:.3g}, {high:.3g}], the bright half of [-1, 1]; if 0 is black, give images * 2 - 1"
            )
    images = images.float()
    if box := centre_crop((images.shape[3], images.shape[2]), shape):
        left, top, right, bottom = box
        images = images[:, :, top:bottom, left:right]
    if images.shape[-2:] != shape:
        images = F.interpolate(images, shape, mode="bilinear", antialias=True)
    return images
