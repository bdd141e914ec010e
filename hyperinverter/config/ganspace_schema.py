"""Settings of find_directions; the classes of most other commands are in `schema.py`."""

from dataclasses import dataclass, field

from hyperinverter.config.schema import CommandConfig


@dataclass
class GanspaceConfig(CommandConfig):
    """find_directions: principal components of W (GANSpace), shown, and the named ones saved as directions."""

    model: str | None = None  # model folder or name; None: the domain's
    components: int = 80  # K of the PCA, at most w_dim
    samples: int = 100_000  # of W; GANSpace takes a million
    shown: int = 12  # components on each sheet, the widest first
    styles: list[str] = field(default_factory=list)  # START-END of each sheet, END excluded; []: all, and three thirds
    strength: float = 3.0  # at the ends of a row, in standard deviations from the mean
    images: int = 2  # of the generator, each moved along every component
    truncation_psi: float = 0.7  # of these images
    directions: dict[str, str] = field(default_factory=dict)  # name -> COMPONENT:START-END, to be saved
