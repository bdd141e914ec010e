"""Settings of reproduce; the classes of all other commands are in `schema.py`."""

from dataclasses import dataclass, field

from hyperinverter.config.names import JUDGES, METRICS
from hyperinverter.config.schema import CommandConfig

# What may be measured, each into a JSON file of its name; `figures` are the paper's, `pictures` the model card's.
REPRODUCED = (
    "photos",
    "other_photos",
    "generated",
    "editability",
    "generator",
    "analysis",
    "figures",
    "bounds",
    "learning_curve",
    "pictures",
)


@dataclass
class ReproduceConfig(CommandConfig):
    """reproduce: all that docs/results.md says of a model, and the page itself.

    A part whose images are not given is left out; what an earlier call measured of it stays on the page.
    """

    parts: list[str] = field(default_factory=lambda: list(REPRODUCED))  # []: the page alone, from earlier measurements
    model: str | None = None  # model folder or name; None: the domain's
    photos: str | list[str] | None = None  # held-out photos of the collection that it was trained on
    other_photos: str | list[str] | None = None  # of another collection
    training_photos: str | list[str] | None = None  # from which the judges called `attributes` learn
    # CSV (.gz allowed) with a `file` column and 0/1 columns, of `photos` and training_photos; `identity` tells people
    labels: str | None = None
    runs: dict[str, str] = field(default_factory=dict)  # name -> run folder of a trainer, for the learning curve
    # metrics.json of evaluate, globs allowed: quality against time (figure 1) among the figures
    results: list[str] = field(default_factory=list)
    generated: int = 256  # images of the generator that are inverted
    augment: list[str] = field(default_factory=list)  # that the generator was trained with, looked for in its samples
    compare_with: str | None = None  # analysis.json of a domain of faces, which scenes are held against
    edited_photos: int = 200  # at most, one of each person where the labels tell people apart
    bounds_photos: int = 32  # whose codes are optimised, to see what the encoders leave
    bounds_steps: int = 150  # of that optimisation
    bounds_losses: dict[str, float] = field(default_factory=lambda: {"l2": 1.0})  # what the optimised codes minimise
    strengths: list[float] = field(default_factory=lambda: [1.0, 2.0, 3.0])  # of edits, each in both ways
    strength_unit: str = "std"  # std (of w·d over the photos a direction was learned on) | w (the paper's γ)
    # of edits: attributes (classifiers fitted to training_photos and labels) | ssrnet_age | faceres_age | fsanet_yaw |
    # emotion_happy; a network that is absent is told
    judges: list[str] = field(default_factory=lambda: list(JUDGES))
    metrics: list[str] = field(default_factory=lambda: list(METRICS))  # some of METRICS
    batch_size: int = 16  # images that are inverted at a time
    time_repeats: int = 30  # how often the time of an image is measured
    publish: str | None = None  # folder for the JSON files, and beside it the page <folder>.md made of all in it
    pictures: str | None = None  # folder for samples.png, reconstructions.png, edits.png; None: in output
