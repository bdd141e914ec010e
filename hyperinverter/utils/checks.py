"""Shape doors: public functions check their arguments here and say what they got and what they expect."""

from torch import Tensor


def check_images(images: Tensor, resolution: int | None = None, name: str = "images") -> Tensor:
    """Check a batch of images: float [N, 3, R, R] with N >= 1; returns it.

    Args:
        resolution: the R that is required; None accepts any square.
        name: what to call the argument in the error.
    Raises:
        ValueError: anything else; says what it got, what is expected and how to get there.
    """
    side = "R" if resolution is None else str(resolution)
    wanted = f"{name}: expected float images [N, 3, {side}, {side}] in [-1, 1]"
    if not isinstance(images, Tensor):
        raise ValueError(
            f"{wanted}, got {type(images).__name__}: read files with hyperinverter.utils.images.load_image"
        )
    shape = list(images.shape)
    if images.dim() == 3 and shape[0] == 3:
        raise ValueError(f"{wanted}, got one image {shape}: add the batch dimension with images[None]")
    if images.dim() == 4 and shape[-1] == 3 and shape[1] != 3:
        raise ValueError(f"{wanted}, got {shape} (channels last): use images.permute(0, 3, 1, 2)")
    if images.dim() != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[0] == 0:
        raise ValueError(f"{wanted}, got shape {shape}")
    if not images.is_floating_point():
        raise ValueError(f"{wanted}, got {images.dtype}: convert with hyperinverter.utils.images.from_uint8")
    if resolution is not None and shape[2] != resolution:
        raise ValueError(f"{wanted}, got {shape}: resize to {resolution} px (load_image(path, {resolution}) does)")
    return images


def check_pairs(a: Tensor, b: Tensor, names: str) -> None:
    """Check two batches that are compared image by image: both [N, 3, H, W] of one shape with N >= 1.

    Args:
        names: what to call the two in the error, such as "output and target".
    Raises:
        ValueError: anything else; says both shapes.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or len(a) == 0:
        raise ValueError(f"{names} must both be [N, 3, R, R], got {list(a.shape)} and {list(b.shape)}")
