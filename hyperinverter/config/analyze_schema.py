"""Settings of analyze; the classes of most other commands are in `schema.py`."""

from dataclasses import dataclass, field

from hyperinverter.config.schema import CommandConfig, ImagesConfig

# What may be drawn: figures 8 and 11, 12 to 14, 9, and 1 of the paper.
FIGURES = ("weight_changes", "difference_maps", "interpolation", "quality_time")


@dataclass
class AnalyzeConfig(CommandConfig):
    """analyze: the paper's analysis figures, each as numbers (JSON, CSV) and as a picture (SVG and PNG).

    A figure whose input is not given is left out, and said so.
    """

    data: ImagesConfig = field(default_factory=ImagesConfig)
    figures: list[str] = field(default_factory=lambda: list(FIGURES))  # some of FIGURES
    model: str | None = None  # model folder or name; None: the domain's
    method: str = "hyperinverter"  # one that changes the generator's weights
    batch_size: int = 8  # images that are inverted at a time
    rows: int = 6  # images on the sheet of difference maps: a third each least, middle and most changed
    pairs: int = 3  # of images, blended into each other
    steps: int = 7  # of a blend, both ends included
    compare_with: str | None = None  # weight_changes.json of another domain: over which layers is the change more even?
    results: list[str] = field(default_factory=list)  # metrics.json of evaluate, globs allowed: quality against time
    quality: str = "l2"  # the metric of that drawing
