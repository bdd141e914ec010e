"""Settings of the commands that work on a finished model: learn_direction, find_directions, export_model, app."""

from dataclasses import dataclass, field

from hyperinverter.config.schema import CommandConfig, FilesConfig, InvertConfig


@dataclass
class DirectionConfig(CommandConfig):
    """learn_direction: a linear SVM on w."""

    data: FilesConfig = field(default_factory=FilesConfig)
    model: str | None = None  # model folder or name; None: the domain's
    labels: str | None = None  # CSV (.gz allowed) with a `file` column and one 0/1 column per attribute
    attributes: dict[str, str] = field(default_factory=dict)  # direction name -> column; a leading "-" flips it
    held_out_fraction: float = 0.2  # of the photos, by which the accuracy is measured
    estimate: str = "normal"  # normal (of the SVM, as InterFaceGAN) | shrunk | pattern, see editing/learn.py


@dataclass
class ExportConfig(CommandConfig):
    """export_model: a trained model folder in the form in which it is shipped."""

    model: str | None = None  # the trained model folder
    half: bool = True  # try every part in float16, and keep it so where outputs stay within the bounds below
    tolerance: float = 1e-3  # mean change of a pixel in [-1, 1] that all rounding together may cause
    largest: float = 0.02  # change of any one pixel
    max_mb: float = 40.0  # millions of bytes that the .safetensors files may take
    test_images: int = 64  # generated
    record: str | None = None  # name of a shipped model: its files' SHA-256 are taken anew, from output


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
