"""Settings of commands that work on a finished model: learn and find directions, export it, the app, films.

And of those around files: download and convert of released weights, inspect-image.
"""

from dataclasses import dataclass, field

from hyperinverter.config.schema import CommandConfig, FilesConfig, InvertConfig, MethodConfig

EXPORTED = ("generator", "discriminator", "w_encoder", "layerwise_encoder", "hypernetwork")  # tried one by one


@dataclass
class DirectionConfig(CommandConfig):
    """learn_direction: a linear SVM on w by labels or a network's scores, or the difference of two groups of photos."""

    data: FilesConfig = field(default_factory=FilesConfig)
    model: str | None = None  # model folder or name; None: the domain's
    labels: str | None = None  # CSV (.gz allowed) with a `file` column and one 0/1 column per attribute
    attributes: dict[str, str] = field(default_factory=dict)  # direction name -> column; a leading "-" flips it
    # direction name -> a network of CLASSIFIERS but attributes, which scores samples of the generator, or the photos of
    # data.root, in the place of labels; a leading "-" flips it. Without labels no attributes are learned beside
    predictors: dict[str, str] = field(default_factory=dict)
    ends: float = 0.2  # part of the images, with the highest scores and with the lowest, that a predictor's SVM sees
    samples: int = 4000  # of the generator, for predictors without data.root
    truncation_psi: float = 0.7  # of these samples
    # direction name -> [FROM, TO], photos or folders: it leads from the mean w of the ones to that of the others.
    # Without data.root and labels no attributes are learned beside
    differences: dict[str, list[str]] = field(default_factory=dict)
    # direction name -> others that it is to leave alone (of this run, of the model, or files): {smile: [age, glasses]}
    without: dict[str, list[str]] = field(default_factory=dict)
    held_out_fraction: float = 0.2  # of the photos, by which the accuracy is measured
    estimate: str = "normal"  # normal (of the SVM, as InterFaceGAN) | shrunk | pattern, see editing/learn.py


@dataclass
class ExportConfig(CommandConfig):
    """export_model: a trained model folder in the form in which it is shipped."""

    model: str | None = None  # the trained model folder
    half: bool = True  # try every part in float16, and keep it so where outputs stay within the bounds below
    as_they_are: list[str] = field(default_factory=list)  # parts not to try, as a generator that is fetched
    tolerance: float = 1e-3  # mean change of a pixel in [-1, 1] that all rounding together may cause
    largest: float = 0.02  # change of any one pixel
    max_mb: float = 40.0  # millions of bytes that the .safetensors files may take
    test_images: int = 64  # generated
    record: str | None = None  # name of a shipped model: its files' SHA-256 are taken anew, from output


@dataclass
class GanspaceConfig(CommandConfig):
    """find_directions: components of W, shown, and the named ones saved as directions."""

    method: str = "ganspace"  # ganspace (principal components of W) | sefa (eigenvectors of the generator's weights)
    model: str | None = None  # model folder or name; None: the domain's
    components: int = 80  # K of the PCA, at most w_dim
    samples: int = 100_000  # of W, for the PCA; GANSpace takes a million
    shown: int = 12  # components on each sheet, the widest first
    styles: list[str] = field(default_factory=list)  # START-END of each sheet, END excluded; []: all, and three thirds
    # at the ends of a row, in standard deviations: ganspace from the mean, sefa from the sample
    strength: float = 3.0
    images: int = 2  # of the generator, each moved along every component
    truncation_psi: float = 0.7  # of these images
    directions: dict[str, str] = field(default_factory=dict)  # name -> COMPONENT:START-END, to be saved


@dataclass
class ListConfig(CommandConfig):
    """list_directions: what directions show, and what else they move."""

    model: str | None = None  # model folder or name; None: the domain's
    directions: list[str] = field(default_factory=list)  # names, or files; []: all that the model brings along
    # judges of the leakage, some of CLASSIFIERS but attributes; one whose network is absent is named
    judges: list[str] = field(default_factory=lambda: ["ssrnet_age", "fsanet_yaw", "emotion_happy"])
    strength: float = 2.0  # at the ends of a row, and of the leakage, in standard deviations
    images: int = 3  # samples on a sheet
    samples: int = 48  # for the leakage
    photos: str | None = None  # photos in the domain's crop, in the place of samples: a file or folder
    truncation_psi: float = 0.7  # of the samples
    resolution: int | None = None  # side in px of what is drawn; None: the domain's


@dataclass
class AppConfig(InvertConfig):
    """app: photos edited in a browser. They are chosen there; data.max_megapixels bounds them, align ticks a box."""

    host: str = "127.0.0.1"  # to listen at; this one is reached from this machine alone, 0.0.0.0 from others too
    port: int = 7860  # to listen at; 0 takes a free one
    preview_px: int = 256  # side of the picture while a slider moves; it is drawn whole when the slider stops
    max_upload_mb: float = 25.0  # millions of bytes of a photo
    session_minutes: float = 30.0  # without use, after which a person's photos are forgotten
    max_sessions: int = 8  # people at a time
    max_waiting: int = 32  # requests that wait for their turn; more are told to come again


@dataclass
class VideoConfig(MethodConfig):
    """edit_video: the faces of a film."""

    files: list[str] = field(default_factory=list)  # the film to read and the MP4 to write
    edits: dict[str, float] = field(default_factory=lambda: {"smile": 2.0})  # direction -> strength, all at once
    strength_unit: str = "w"  # w (the paper's gamma, a distance in W) | std (of w·d over the photos it was learned on)
    styles: str | None = None  # START-END, END excluded: only these move, 0 is the coarsest; None: all
    face: int | str = 1  # of several: 1 is the largest when it is first seen, 2 the next; all: every one
    smooth_crop_ms: float = 100.0  # landmarks are smoothed in time by a Gaussian of this deviation; 0: not at all
    smooth_codes_ms: float = 150.0  # and so are codes and tokens


@dataclass
class DownloadConfig:
    """download: fetch entries of the catalog, and make model folders of released models."""

    names: list[str] = field(default_factory=list)  # entries or models of the catalog; none: list what there is
    output: str | None = None  # folder of pretrained models; None: HYPERINVERTER_MODELS, else pretrained_models
    base_url: str | None = None  # a mirror: the files lie below it under their catalog names
    hub: str | None = None  # a mirror on the Hugging Face hub: OWNER/REPO or OWNER/REPO@REVISION
    convert: bool = True  # names of models also become model folders
    max_gib: float = 16.0  # larger files are refused
    attempts: int = 6  # tries in a row that may end without a single new byte
    list: bool = False  # show models and files, what is here, sources and licences; do nothing else


@dataclass
class InspectConfig:
    """inspect-image: what files say of their origin."""

    files: list[str] = field(default_factory=list)  # pictures and films


@dataclass
class ConvertConfig:
    """convert: released files become .safetensors of this project. The last of `files` is what is written."""

    files: list[str] = field(default_factory=list)  # IN OUT; several IN make one model folder OUT
    kind: str | None = None  # as `from_published` takes it; None: recognised by content
    domain: str | None = None  # a domain whose sizes the files must have, and whose name they get
    sha256: str | None = None  # of the first file: all 64 hex digits, or the first ones
    options: dict[str, str] = field(default_factory=dict)  # what the tensors cannot show, by its published name
    half: bool = False  # store E2 and hypernetworks as float16
    inspect: bool = False  # say what the files are and write nothing
