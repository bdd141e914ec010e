"""Settings of the demo; the classes of most other commands are in `schema.py`."""

from dataclasses import dataclass

from hyperinverter.config.schema import CommandConfig


@dataclass
class DemoConfig(CommandConfig):
    """demo: both phases trained for a short while, then evaluation, edits and interpolation with trained weights.

    The first five name the configs of its steps; what the numbers below and the keys above say goes over theirs.
    """

    phase1: str = "configs/demo/phase1.yaml"  # config of Phase I
    phase2: str = "configs/demo/phase2.yaml"  # config of Phase II
    evaluate: str = "configs/evaluate/${domain.name}.yaml"  # config of the evaluation
    edit: str = "configs/edit/${domain.name}.yaml"  # edits and interpolation
    portrait: str | None = "configs/edit/ffhq_mobile.yaml"  # edits the real photo once more; null leaves it out
    phase1_steps: int = 400  # of Phase I
    phase2_steps: int = 200  # of Phase II
    adversarial_steps: int = 30  # the last ones of Phase II
    training_images: int = 1024  # generated; the validation images are others
    validation_images: int = 32  # generated, for the curves
    evaluated_images: int = 128  # generated, by a stream that no training draws from
    edited_images: int = 3  # generated; beside them the one real photo
