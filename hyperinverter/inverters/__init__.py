"""Methods that turn images into Inversions. To add one, write `inverters/x.py` and add its class to INVERTERS."""

from pathlib import Path

from hyperinverter.config.schema import DomainConfig, ProjectionConfig, RefineConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.e4e import E4eInverter
from hyperinverter.inverters.hub import is_on_hub
from hyperinverter.inverters.hyperinverter import HyperInverter
from hyperinverter.inverters.hyperstyle import HyperStyleInverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.inverters.psp import PspInverter
from hyperinverter.inverters.pti import PtiInverter
from hyperinverter.inverters.restyle import ReStyleInverter
from hyperinverter.inverters.sg2 import ProjectorInverter, WPlusProjectorInverter
from hyperinverter.inverters.w_encoder import WEncoderInverter
from hyperinverter.pretrained.files import PARTS
from hyperinverter.pretrained.methods import PUBLISHED_METHODS
from hyperinverter.pretrained.obtain import make_model, released_name

__all__ = [
    "INVERTERS",
    "E4eInverter",
    "HyperInverter",
    "HyperStyleInverter",
    "Inversion",
    "Inverter",
    "ProjectorInverter",
    "PspInverter",
    "PtiInverter",
    "ReStyleInverter",
    "WEncoderInverter",
    "WPlusProjectorInverter",
    "load",
]

INVERTERS: dict[str, type[Inverter]] = {
    cls.name: cls
    for cls in (
        HyperInverter,
        WEncoderInverter,
        PspInverter,
        E4eInverter,
        ReStyleInverter,
        HyperStyleInverter,
        ProjectorInverter,
        WPlusProjectorInverter,
        PtiInverter,
    )
}


def load(
    source: str | Path | DomainConfig,
    method: str = "hyperinverter",
    device: str = "cpu",
    projection: ProjectionConfig | None = None,
    download: bool = False,
    precision: str = "fp32",
    compile: bool = False,
    resolution: int | None = None,
    refine: int | RefineConfig = 0,
) -> Inverter:
    """A ready method: `load("faces64").invert(images)`.

    Args:
        source: a model folder by name or path, a released model by name (ffhq, church; see `download`), or a
            DomainConfig whose `weights` section names the files.
        method: a key of INVERTERS: hyperinverter (both phases), w_encoder (Phase I only, plain generator), a released
            encoder (psp, e4e, restyle, hyperstyle), or one that optimises for every image: sg2 (a code in W), sg2_plus
            (in W+), pti (a code, then the generator).
        device: cpu, cuda, cuda:N, mps, or auto.
        projection: steps, seed and perceptual network of the methods that optimise; None: the published numbers.
        download: fetch what is missing of a released model; and OWNER/REPO, where no such folder is here, from the
            Hugging Face hub. Released files that are here are converted either way.
        precision: what the networks compute in: fp32, or on hardware that has it bf16 or fp16; results are float32.
            See `Inverter.accelerate` for their error.
        compile: torch.compile; the first image of each batch size takes minutes.
        resolution: side of the images that are taken and drawn, in px; None: the generator's. See `Inverter.draw_at`.
        refine: steps on the predicted tokens of each photo, or all settings of that; method hyperinverter only.
    Raises:
        ValueError: unknown method or precision, or a method without tokens is to refine them.
        FileNotFoundError: unknown model, or one of its files is missing; lists where it looked and what to run, of a
            released model which file to put where.
        UserError: the files do not belong together, are damaged, or the device is not there; a download failed.
    """
    if method not in INVERTERS:
        raise ValueError(f"method is {method!r}; write one of {', '.join(INVERTERS)}")
    if download and is_on_hub(source):
        return INVERTERS[method].from_pretrained(
            source, projection=projection, device=device, precision=precision, compile=compile, resolution=resolution
        )
    if download and (released := released_name(source)):
        part = method if method in (*PARTS, *PUBLISHED_METHODS) else "generator"
        make_model(released, [part], download=True)
    return INVERTERS[method].load(source).set_up(device, precision, compile, resolution, projection, refine)
