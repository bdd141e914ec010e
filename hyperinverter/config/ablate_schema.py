"""Settings of ablate; the classes of most other commands are in `schema.py`."""

from dataclasses import dataclass, field

from hyperinverter.config.schema import RunConfig


@dataclass
class AblateConfig(RunConfig):
    """ablate: rows of table 3 and others, each trained for the same number of steps and measured on the same photos.

    `data` is what every row is trained on; E1, generator and discriminator come from `domain.weights`.
    """

    rows: dict[str, str] = field(default_factory=dict)  # title -> config of a Phase II; the first is the base
    # key=value of Phase II, laid over every row: the budget that all have in common
    settings: list[str] = field(default_factory=list)
    photos: str | list[str] | None = None  # held out: measured, never trained on
    # that every row is measured by
    metrics: list[str] = field(default_factory=lambda: ["l2", "psnr", "ms_ssim", "squeezenet_features"])
    batch_size: int = 16  # of the measurement
    sheet_rows: int = 6  # of ablations.png
    publish: str | None = None  # folder for <domain>/ablations.json; the page beside it is made anew
