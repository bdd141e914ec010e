"""Settings of train encoder (pSp, e4e, ReStyle and HyperStyle) and, beyond the paper, of train phase3.

Defaults are the published ones: pSp (Richardson et al., CVPR 2021, arXiv:2008.00951), e4e (Tov et al., SIGGRAPH 2021,
arXiv:2102.02766), ReStyle (Alaluf et al., ICCV 2021, arXiv:2104.02699), HyperStyle (Alaluf et al., CVPR 2022,
arXiv:2111.15666) and their public training scripts.
"""

from dataclasses import dataclass, field

from hyperinverter.config.schema import EncoderConfig, OptimizerConfig, PhaseConfig

RESTYLE_OVER = ("psp", "e4e")
TRUNKS_FROM = ("w_encoder", "layerwise_encoder", "own")


@dataclass
class LatentDiscriminatorConfig:
    """e4e's discriminator, which tells w of samples from the encoder's codes."""

    weight: float = 0.1  # of its term in the encoder's loss; 0: no discriminator
    r1_gamma: float = 10.0  # weight of the R1 penalty
    r1_every: int = 16  # R1 is computed in every so many steps
    pool_size: int = 50  # codes of earlier steps, of each kind, half of which it sees in place of new ones; 0: none
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-5))


@dataclass
class HyperStyleSizes:
    """Sizes of HyperStyle's hypernetworks."""

    width: int = 256  # channels in the block of a layer that has one of its own
    shared_width: int = 128  # channels in the block of a layer that the shared hypernetwork serves
    code_size: int = 512  # numbers of the code at the end of a block
    # 3x3 kernels of a block's own as products of two small kernels; published for cars
    separable: bool = False


@dataclass
class TrainEncoderConfig(PhaseConfig):
    """Train one of the other published encoders, with the generator frozen."""

    method: str = "psp"  # psp | e4e | restyle | hyperstyle
    restyle_over: str = "psp"  # restyle: psp | e4e, whose encoder and losses its steps have
    n_iters: int = 5  # restyle, hyperstyle: steps, each of which sees the image beside what the one before drew
    # whose sizes and start the trunk has: w_encoder or layerwise_encoder (the domain's E1 or E2) | own (section trunk)
    trunk_from: str = "w_encoder"
    trunk: EncoderConfig = field(default_factory=EncoderConfig)  # only with trunk_from=own
    head_width: int | None = None  # psp, e4e, restyle: channels in the head of each style; None: w_dim, as published
    w_norm_weight: float = 0.0  # psp, restyle: of the distance of the codes to w_avg; published: 0 for inversion
    progressive_start: int = 20_000  # e4e: style 0 alone learns till this step
    progressive_every: int = 2_000  # e4e: from then on the difference of one more style joins every so many steps
    delta_weight: float = 2e-4  # e4e: of the sum of these differences' norms
    latent_discriminator: LatentDiscriminatorConfig = field(default_factory=LatentDiscriminatorConfig)  # e4e
    hyperstyle: HyperStyleSizes = field(default_factory=HyperStyleSizes)  # hyperstyle
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="ranger", lr=1e-4, betas=[0.95, 0.999], eps=1e-5)
    )


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
