"""Every setting of the project as typed dataclasses: one class per section, one per command.

A YAML file plus `key.sub=value` overrides becomes one of the `*Config` classes at the end (`load.py`). Defaults are the
paper's (Dinh et al., CVPR 2022, section 4.1) where it gives one; `checks.py` checks values, `names.py` has names.
"""

from dataclasses import dataclass, field

from hyperinverter.config.domain_schema import (  # noqa: F401
    AUGMENTATIONS,
    DECAY_SHAPES,
    DISCRIMINATOR_LOSSES,
    FROM_E1,
    METRIC_FILTERS,
    MOBILE,
    PRECISIONS,
    DiscriminatorConfig,
    DomainConfig,
    EncoderConfig,
    GeneratorConfig,
    HypernetworkConfig,
    LayerwiseEncoderConfig,
    WeightsConfig,
)
from hyperinverter.config.names import LOSSES, METHODS, METRICS, PERCEPTUAL  # noqa: F401


@dataclass
class PhotosConfig:
    """Photos to invert, edit or align."""

    # a folder (searched recursively), a .zip, an LMDB folder, a file, a quoted glob of these, or a list
    root: str | list[str] | None = None
    max_images: int | None = None  # at most; None: all
    on_bad_file: str = "skip"  # skip (reported by name) | refuse (stop with the list of names)
    max_megapixels: float = 24.5  # larger JPEGs are reduced while they are decoded, other larger images are bad files


@dataclass
class FilesConfig(PhotosConfig):
    """Photos that are read in batches."""

    kind: str = "auto"  # auto (by what is there) | folder | zip | lmdb
    workers: int | None = None  # threads that decode; None: one per core that this process may use, at most 16; 0: none


@dataclass
class ImagesConfig(FilesConfig):
    """Photos, or samples of the domain's generator with nothing on disk."""

    kind: str = "auto"  # auto (by what is there) | folder | zip | lmdb | generated (samples of the domain's generator)
    num_generated: int = 10_000  # only kind=generated: how many
    generated_seed: int = 0  # only kind=generated: of these samples
    truncation_psi: float = 1.0  # only kind=generated: 1 is all of W, less lies nearer to its mean
    truncation_psi_from: float | None = None  # every image its own truncation, from here to truncation_psi
    cache_mib: int = 1024  # decoded uint8 images are kept in memory when all of them fit in this many MiB


@dataclass
class DataConfig(ImagesConfig):
    """Images to train on."""

    store: str | None = None  # only kind=generated: a folder that keeps them, so that each is sampled once
    flip: bool = True  # each image is mirrored with probability one half
    validation_root: str | list[str] | None = None  # None: split off `validation_fraction` by file name
    validation_fraction: float = 0.02  # of the images, kept for validation


@dataclass
class OptimizerConfig:
    # its kind: adam | ranger (the paper's RAdam + Lookahead + gradient centralisation) | ranger_adabelief
    # | muon (for matrices; betas and eps are for the vectors, which Adam moves)
    name: str = "adam"
    lr: float = 1e-4  # learning rate
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the means of gradient and square
    eps: float = 1e-8  # added to the root of the square


@dataclass
class AdversarialConfig:
    """Phase II's GAN term: joins at `start_step` with its own batch size (paper: 200,000 and 4; weight 0 is off)."""

    weight: float = 0.0  # of the GAN term; 0: none
    discriminator_loss: str = "released"  # one of DISCRIMINATOR_LOSSES: half of the sum | the sum, the paper's eq. 9
    start_step: int = 200_000  # from which it joins the loss
    batch_size: int = 4  # from that step on
    r1_gamma: float = 10.0  # weight of the R1 penalty
    r1_every: int = 16  # R1 is computed in every so many steps
    cold_steps: int = 20_000  # best-checkpoint tracking restarts at start_step and again this many steps later
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class ScheduleConfig:
    """Counted in optimiser steps."""

    max_steps: int = 500_000  # after which the run is done
    batch_size: int = 8  # images of all processes together
    log_every: int = 50  # losses
    images_every: int = 500  # pictures in samples/
    validate_every: int = 1000  # validation, which chooses the best model
    validation_images: int | None = None  # at most; None: all of them
    save_every: int = 1000  # checkpoints, from which a run goes on
    keep_checkpoints: int = 2  # the newest ones
    lr_decay_steps: int = 0  # the rates fall over this many last steps, at most all; 0: constant, as in the paper
    lr_decay_to: float = 0.1  # part of the rate that is left at the last step
    lr_decay_shape: str = "cosine"  # one of DECAY_SHAPES


@dataclass
class OutputConfig:
    """What every command that writes pictures or networks has."""

    domain: DomainConfig = field(default_factory=DomainConfig)
    output: str = "outputs/run"  # folder of everything that is written


@dataclass
class CommandConfig(OutputConfig):
    """What every command that computes with networks has."""

    seed: int = 2107  # the published seed
    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps
    threads: int | None = None  # CPU threads; None leaves torch's choice


@dataclass
class RunConfig(CommandConfig):
    """What every command that trains on images has."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class TrainConfig(RunConfig):
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: str = "fp32"  # fp32 | bf16 (autocast; losses, R1 and path length stay in fp32)
    gradient_clip: float | None = None  # largest global norm; None leaves gradients alone
    gradient_accumulation: int = 1  # every batch is computed in this many equal parts, for less memory
    recompute_from_px: int | None = None  # blocks of G and D from this resolution on keep no activations; None: all do
    resume: str = "auto"  # auto (newest loadable checkpoint in output) | never | a checkpoint file
    init_from: str | None = None  # start from a model folder's weights, with fresh optimisers; frozen parts may differ


@dataclass
class PhaseConfig(TrainConfig):
    """What both phases have."""

    # with several processes: BatchNorm over all of them, as in one process; false: over each one's images
    sync_batchnorm: bool = True
    # loss -> weight, some of LOSSES
    loss_weights: dict[str, float] = field(default_factory=lambda: {"l2": 1.0, "lpips": 0.8, "identity": 0.1})
    # few photos: training images are changed at random, by some of AUGMENTATIONS; see training/augment.py
    augment: list[str] = field(default_factory=list)
    augment_p: float = 0.5  # how likely each change is


@dataclass
class Phase1Config(PhaseConfig):
    """Train E1 with the generator frozen."""

    w_loss_weight: float = 0.0  # beyond the paper, data.kind=generated only: distance to the w an image was made from

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="ranger", lr=1e-4, betas=[0.95, 0.999], eps=1e-5)
    )


@dataclass
class EarlyHeadConfig(TrainConfig):
    """Train a generator's early head on its own images."""

    px: int | None = None  # side of the images that it draws, that of one of the generator's layers; null: R/4
    channels: int = 64  # of its two convolutions
    model: str | None = None  # folder: it learns to draw what these networks make of photos (data.root), not samples
    # loss -> weight, some of LOSSES
    loss_weights: dict[str, float] = field(default_factory=lambda: {"l2": 1.0, "lpips": 0.2})


@dataclass
class Phase2Config(PhaseConfig):
    """Train E2 and the hypernetworks with E1 and the generator frozen."""

    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    edit_consistency_weight: float = 0.0  # beyond the paper: edits keep their effect; training/edit_consistency.py
    edit_consistency_reach: float = 0.5  # a random step in W goes up to this share of the way to another w
    edit_consistency_every: int = 1  # in every so many steps, with the weight times that number
    edit_consistency_directions: list[str] = field(default_factory=list)  # a part of the images steps along these
    edit_consistency_directed: float = 0.5  # this part; 1 costs least reconstruction, below 1 keeps other edits too
    edit_consistency_relative: bool = False  # divided by how much the step changes: a smile counts as much as a pose
    edit_consistency_bands: int = 1  # octaves of detail, each held against itself; above 1 with `relative` only


@dataclass
class StyleGAN2Config(TrainConfig):
    """Train the domain's generator and discriminator (Karras et al., CVPR 2020)."""

    # of D
    discriminator_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=2e-3, betas=[0.0, 0.99], eps=1e-8)
    )
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-3, betas=[0.0, 0.99], eps=1e-8))
    r1_gamma: float = 10.0  # weight of the R1 penalty
    r1_every: int = 16  # R1 is computed in every so many steps
    path_length_weight: float = 2.0  # of path-length regularisation
    path_length_every: int = 8  # 0 switches path-length regularisation off
    path_length_batch_shrink: int = 2  # it takes the batch divided by this
    style_mixing_probability: float = 0.9  # how often an image gets two codes
    noise_mode: str = "random"  # random (StyleGAN2) | none: no noise inputs, so that w alone decides the image
    ema_kimg: float = 10.0  # half-life of the averaged generator, in thousands of images
    ema_rampup: float | None = 0.05  # None: no ramp-up
    # few photos (below some 50,000): what D sees is changed at random, some of AUGMENTATIONS; see training/augment.py
    augment: list[str] = field(default_factory=list)
    augment_target: float = 0.6  # mean sign of D's logits of training photos; augmentation gets more frequent above it
    augment_kimg: float = 500.0  # thousands of images in which its probability may rise from 0 to 1


@dataclass
class ProjectionConfig:
    """Methods that optimise for every image (sg2, sg2_plus, pti). None keeps the method's published number."""

    steps: int | None = None  # of the code: sg2 600, sg2_plus 2000, pti 450
    tuning_steps: int | None = None  # of the generator: pti 350
    # the network behind it: one of PERCEPTUAL, or auto: the published one (of the code lpips_vgg, of the tuning lpips)
    # where its weights are, else the next that is there; the protocol says which
    perceptual: str = "auto"
    tuning_perceptual: str = "auto"  # the same, for the tuning
    seed: int = 0  # of the noise that explores W


@dataclass
class RefineConfig:
    """Steps on what was predicted: tokens of hyperinverter, w and scales of w_encoder; beyond the paper."""

    steps: int = 0  # per photo; 0 leaves the prediction as it is
    # of Adam on the tokens, as a part of the size that each was predicted with, or on w_encoder's scale per channel of
    # the generator; None: 0.25 for hyperinverter, 0.3 for w_encoder
    learning_rate: float | None = None
    w_learning_rate: float | None = None  # of Adam on w; None: 0.02 for w_encoder, and 0, w stays, for hyperinverter
    l2: float = 1.0  # weights of the losses
    perceptual: float = 0.8  # LPIPS, or squeezenet_features where LPIPS's network is absent
    identity: float = 0.1  # mobilefacenet, for faces
    edit_consistency: float = 0.0  # of random steps in W, as in Phase II's training; a step takes twice as long
    early: float = 0.0  # this share of the steps, the first ones, draws by an early head where there is one: faster


@dataclass
class EvaluateConfig(CommandConfig):
    data: ImagesConfig = field(default_factory=ImagesConfig)
    methods: list[str] = field(default_factory=lambda: ["w_encoder", "hyperinverter"])  # some of METHODS
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    model: str | None = None  # model folder or name; None: the domain's
    precision: str = "fp32"  # fp32 | bf16 | fp16: what networks compute in; methods that optimise take only fp32
    resolution: int | None = None  # side in px at which photos are read and images drawn; None: the domain's
    compile: bool = False  # torch.compile: minutes at the first image, then faster on a GPU
    # some of METRICS; one whose network is absent is reported as not measured
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    # images above the domain's loss_resolution are reduced to it for every distance but discriminator_features:
    # bilinear (published: Pillow's, from and to 8 bits) | box (mean, as the training losses do)
    metric_filter: str = "bilinear"
    kid_subset_size: int = 1000  # published: faces 1000, churches 100; all images where there are fewer
    batch_size: int = 8  # images that are inverted at a time
    time_batch_size: int = 1  # images at a time where the time is measured
    time_repeats: int = 30  # how often it is measured
    sheet_rows: int = 8  # of sheet.png: a third each of the best, median and worst


@dataclass
class AlignConfig(OutputConfig):
    """align: crops in the domain's resolution."""

    data: FilesConfig = field(default_factory=FilesConfig)
    face: int | str = 1  # of several in a photo: 1 is the largest, 2 the next; all: every one


@dataclass
class PrepareConfig:
    """prepare-data: a published dataset, split, counted, and without one photo in two splits."""

    data: PhotosConfig = field(default_factory=PhotosConfig)
    dataset: str = "folder"  # some of DATASETS: celeba_hq | ffhq | lsun_church | folder (any images)
    test_root: str | list[str] | None = None  # images to test on, where they are not split off data.root
    mapping: str | None = None  # only celeba_hq: CelebA-HQ-to-CelebA-mapping.txt
    partition: str | None = None  # only celeba_hq: CelebA's list_eval_partition.txt
    incomplete: bool = False  # work with a part of the dataset
    output: str = "outputs/data"  # folder of everything that is written


@dataclass
class MethodConfig(CommandConfig):
    """What every command that inverts has."""

    model: str | None = None  # model folder or name; None: the domain's
    method: str = "hyperinverter"  # one of METHODS; w_encoder is Phase I alone
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    precision: str = "fp32"  # fp32 | bf16 | fp16: what networks compute in
    compile: bool = False  # torch.compile: minutes at the first image, then faster on a GPU
    resolution: int | None = None  # side in px of what is drawn; None: the domain's. Smaller is faster
    refine: RefineConfig = field(default_factory=RefineConfig)
    batch_size: int = 8  # photos that are inverted at a time
    provenance: bool = True  # pictures say in their metadata that a network drew or edited them


@dataclass
class InvertConfig(MethodConfig):
    """invert, and what edit and interpolate have too."""

    data: PhotosConfig = field(default_factory=PhotosConfig)
    align: bool = False  # find the face and crop it as FFHQ does; for photos that are not cropped yet
    face: int | str = 1  # with align, of several in a photo: 1 is the largest, 2 the next; all: every one
    methods: list[str] = field(default_factory=list)  # in place of method: several, with a sheet across them


@dataclass
class EditConfig(InvertConfig):
    """edit: photos along directions."""

    directions: list[str] = field(default_factory=lambda: ["smile"])  # names from the model folder, or files
    # how far, one picture each; 0 is the reconstruction
    strengths: list[float] = field(default_factory=lambda: [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    strength_unit: str = "w"  # w (the paper's gamma, a distance in W) | std (of w·d over the photos it was learned on)
    edits: dict[str, float] = field(default_factory=dict)  # all at once, in place of directions: {smile: 2, age: -1}
    styles: str | None = None  # START-END, END excluded: only these move, 0 is the coarsest; None: all
    sweep: int = 0  # frames of the GIF, from least to largest strength (edits: from none to all); 0: pictures alone
    mp4: bool = False  # beside each GIF the same as a film (H.264)
    paste_back: bool = False  # with align: also each whole photo with the edited face in its place


@dataclass
class InterpolateConfig(InvertConfig):
    """interpolate: from one photo to the next."""

    steps: int = 7  # frames from one photo to the next, both included
    circle: bool = False  # from the last photo back to the first
    mp4: bool = False  # beside each GIF the same as a film (H.264)


# One file serves all commands of a line: each passes over the others' keys. On the command line it takes its own alone.
SHARED_FILES = (
    (AlignConfig, MethodConfig, InvertConfig, EditConfig, InterpolateConfig),
    (PhotosConfig, FilesConfig, ImagesConfig, DataConfig),
)
