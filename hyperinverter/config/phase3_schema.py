"""Settings of train phase3, beyond the paper: a feature residual on top of Phase II."""

from dataclasses import dataclass, field

from hyperinverter.config.schema import PhaseConfig


@dataclass
class Phase3Config(PhaseConfig):
    """Train the feature residual with E1, E2, hypernetworks and the generator frozen."""

    # of pairs of samples, of which the first is inverted and edited to become the second; 0 leaves them out
    pair_weight: float = 1.0
    cycle_weight: float = 0.5  # of photos that are edited, inverted again, and edited back; 0 leaves them out
    cycle_every: int = 2  # in every so many steps, with the weight times that number
    edit_reach: float = 0.5  # these edits are random steps in W, up to this share of the way to another w
    edit_directions: list[str] = field(default_factory=list)  # a part of the images steps along these instead
    edit_directed: float = 0.5  # this part
