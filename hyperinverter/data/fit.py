"""Which images the resize policy of `utils.decode` had to crop or enlarge: told at the first one, listed at the end."""

import logging

from hyperinverter.utils.decode import is_square

logger = logging.getLogger(__name__)


class FitNotes:
    """Names of images that are not square (centre-cropped), and of those smaller than `resolution` px (enlarged)."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.cropped: set[str] = set()
        self.enlarged: set[str] = set()

    def note(self, name: str, size: tuple[int, int]) -> None:
        """An image of this (width, height), px; the first of each kind is named in a warning."""
        if not is_square(size):
            if not self.cropped:
                logger.warning("%s is %d x %d: images that are not square are centre-cropped", name, *size)
            self.cropped.add(name)
        if min(size) < self.resolution:
            if not self.enlarged:
                logger.warning("%s is %d x %d: images below %d px are enlarged", name, *size, self.resolution)
            self.enlarged.add(name)

    def report(self) -> list[str]:
        """One line per kind that occurred."""
        kinds = {
            "not square, centre-cropped": self.cropped,
            f"smaller than {self.resolution} px, enlarged": self.enlarged,
        }
        return [f"{what}: {len(names)} files, such as {min(names)}" for what, names in kinds.items() if names]
