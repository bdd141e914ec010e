"""Settings of the commands around files: download and convert of released weights, inspect-image."""

from dataclasses import dataclass, field


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
