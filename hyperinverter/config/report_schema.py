"""Settings of the commands that make reports: ablate, analyze, benchmark, demo, reproduce."""

from dataclasses import dataclass, field

from hyperinverter.config.names import CLASSIFIERS, METRICS, PAPER_METHODS
from hyperinverter.config.schema import CommandConfig, ImagesConfig, ProjectionConfig, RefineConfig, RunConfig


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
    method: str = "hyperinverter"  # one of METHODS; two of the figures need one that changes the generator's weights
    batch_size: int = 8  # images that are inverted at a time
    rows: int = 6  # images on the sheet of difference maps: a third each least, middle and most changed
    pairs: int = 3  # of images, blended into each other
    steps: int = 7  # of a blend, both ends included
    compare_with: str | None = None  # weight_changes.json of another domain: over which layers is the change more even?
    results: list[str] = field(default_factory=list)  # metrics.json of evaluate, globs allowed: quality against time
    quality: str = "l2"  # the metric of that drawing


# What may be timed: the released code's way (`reference`), and ours by precision. tf32: as PyTorch runs convolutions on
# a GPU unless set otherwise. `_compile`: torch.compile. `_recompute`: in training, large blocks keep no activations.
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
INFERENCE_SIDES = ("reference", "reference_tf32", *PRECISIONS, *(f"{name}_compile" for name in PRECISIONS))
TRAINING_SIDES = ("reference", "reference_tf32", *(p + r for p in ("fp32", "tf32", "bf16") for r in ("", "_recompute")))
TRAINING_PHASES = ("phase1", "phase2", "phase2_adversarial")


@dataclass
class BenchmarkConfig(CommandConfig):
    """benchmark: time and memory of inference and training, beside the released code's way of working.

    Sides of one comparison run in turn; the first one is what the others are held against.
    """

    sides: dict[str, list[int]] = field(default_factory=lambda: {"reference": [1, 8], "fp32": [1, 8]})  # -> batch sizes
    hidden_sizes: list[int] = field(default_factory=list)  # D; []: the domain's own. After the first: smallest batch
    slider: str | None = "fp32"  # side whose re-rendering after an edit is measured; None: not measured
    training: dict[str, list[str]] = field(default_factory=dict)  # phase -> sides
    training_batch_size: int = 2  # images of a training step
    memory: bool = True  # peak memory of every side, each in a process of its own
    budget: list[str] = field(default_factory=list)  # training sides whose Phase II memory is computed, for any machine
    loading: list[int] = field(default_factory=list)  # decoding threads to measure reading from disk with; 0: none
    trained: bool = False  # the domain's trained weights instead of random ones: for the fast modes' differences
    rounds: int = 15  # of a comparison, at most
    least_rounds: int = 3  # however long they take
    seconds: float = 40.0  # of a comparison: no more rounds after the least ones than fit
    apps: list[str] = field(default_factory=list)  # app configs whose time from a slider to the picture is measured
    runs: list[str] = field(default_factory=list)  # benchmark configs to run one after the other instead of all this
    publish: str | None = None  # folder for <device>.json, and beside it <folder>.md made of all .json in it


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


# Tables and figures of the paper, each by its name there; fig26 is figure 9 by every method. What the paper has once
# for each kind of domain is no part of `all` on the other kind.
PAPER = ("table1", "table2", "table3", "fig1", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "fig11",
         "fig12", "fig13", "fig14", "fig26")  # fmt: skip
BEYOND = ("edit_fid", "refine_curve")  # made as these are, and no part of `all`
ALL = "all"
OF_FACES = ("fig6", "fig8", "fig13")
OF_SCENES = ("fig10", "fig11", "fig14")  # the same of scenes, in this order
# What else may be measured, each into a JSON file of its name; `figures` are the paper's, `pictures` the model card's.
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
    """reproduce: all that docs/results.md says of a model, the paper's tables and figures, and the page itself.

    A part whose images are not given is left out; what an earlier call measured of it stays on the page.
    """

    # some of REPRODUCED, PAPER and BEYOND; all: the paper's; []: the page alone, from earlier measurements
    parts: list[str] = field(default_factory=lambda: list(REPRODUCED))
    model: str | None = None  # model folder or name; None: the domain's
    photos: str | list[str] | None = None  # held-out photos of the collection that it was trained on
    other_photos: str | list[str] | None = None  # of another collection
    training_photos: str | list[str] | None = None  # from which the classifiers called `attributes` learn
    # CSV (.gz allowed) with a `file` column and 0/1 columns, of `photos` and training_photos; `identity` tells people
    labels: str | None = None
    runs: dict[str, str] = field(default_factory=dict)  # name -> run folder of a trainer, for the learning curve
    # metrics.json of evaluate, globs allowed: quality against time (figure 1) among the figures
    results: list[str] = field(default_factory=list)
    generated: int = 256  # images of the generator that are inverted
    augment: list[str] = field(default_factory=list)  # that the generator was trained with, looked for in its samples
    compare_with: str | None = None  # analysis.json of a domain of faces, which scenes are held against
    edited_photos: int = 200  # at most, one of each person where the labels distinguish people
    bounds_photos: int = 32  # whose codes are optimised, to see what the encoders leave
    bounds_steps: int = 150  # of that optimisation
    bounds_losses: dict[str, float] = field(default_factory=lambda: {"l2": 1.0})  # what the optimised codes minimise
    strengths: list[float] = field(default_factory=lambda: [1.0, 2.0, 3.0])  # of edits, each in both ways
    strength_unit: str = "std"  # std (of w·d over the photos a direction was learned on) | w (the paper's γ)
    # of edits: attributes (classifiers fitted to training_photos and labels) | ssrnet_age | faceres_age | fsanet_yaw |
    # emotion_happy; a network that is absent is reported
    classifiers: list[str] = field(default_factory=lambda: list(CLASSIFIERS))
    metrics: list[str] = field(default_factory=lambda: list(METRICS))  # some of METRICS
    batch_size: int = 16  # images that are inverted at a time
    time_repeats: int = 30  # how often the time of an image is measured
    methods: list[str] = field(
        default_factory=lambda: list(PAPER_METHODS)
    )  # of the paper's tables and figures: some of METHODS
    # method -> model folder with its file; others are looked for in `model`, then in outputs/METHOD_DOMAIN/model
    models: dict[str, str] = field(default_factory=dict)
    table_metrics: list[str] = field(default_factory=list)  # of table 1, some of METRICS; []: those of `metrics`
    table_photos: int | None = None  # that encoders are measured on, at equal distances in name order; None: all
    optimised_photos: int = 32  # of these, for methods that optimise for every photo
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)  # of methods that optimise
    refine: RefineConfig = field(default_factory=RefineConfig)  # of both phases and Phase I, in tables and figures
    refine_steps: list[int] = field(default_factory=lambda: [0, 1, 3, 5, 10, 20, 50])  # of edit_fid and refine_curve
    # each of these with each of refine.edit_consistency's weights here
    refine_edit_consistency: list[float] = field(default_factory=lambda: [0.0])
    curve_photos: int = 32  # of refine_curve, one of each person where the labels distinguish people
    trained_directions: list[str] = field(default_factory=list)  # that Phase II was trained to keep: seen, in edit_fid
    shown: str | list[str] | None = None  # photos that may be shown, for the figures; None: images of the generator
    shown_photos: int = 3  # rows of a figure, a third each of the best, median and worst
    shown_credit: str = ""  # whose photos these are, and their licence: written under the figures
    blends: list[str] = field(default_factory=lambda: ["w_encoder", "psp", "e4e", "restyle", "hyperinverter"])  # fig26
    ranked: list[str] = field(default_factory=lambda: ["e4e", "restyle", "hyperinverter"])  # by people, fig6 and fig10
    ranked_photos: int = 30  # of that page, each reconstructed and edited
    votes: list[str] = field(default_factory=list)  # files of votes that the page saved, globs allowed
    ablations: str | None = None  # table 3: config of the ablate command; None: configs/ablate/DOMAIN.yaml
    publish: str | None = None  # folder for the JSON files, and beside it the page <folder>.md made of all in it
    pictures: str | None = None  # folder for samples.png, reconstructions.png, edits.png; None: in output
