"""Methods that turn images into Inversions. To add one, write `inverters/x.py` and add its class to INVERTERS."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from hyperinverter.config.schema import DomainConfig, ProjectionConfig, RefineConfig
from hyperinverter.inverters.base import Inverter
from hyperinverter.inverters.hub import is_on_hub
from hyperinverter.inverters.hyperinverter import HyperInverter
from hyperinverter.inverters.inversion import Inversion
from hyperinverter.pretrained.files import PARTS, PUBLISHED_METHODS, weights_file
from hyperinverter.utils.waiting import shown_on_terminal

__all__ = ["INVERTERS", "HyperInverter", "Inversion", "Inverter", "check_methods", "load"]


class _Inverters(Mapping[str, type[Inverter]]):
    """Name of a method -> its class, imported when it is asked for."""

    places: ClassVar = {
        "hyperinverter": "hyperinverter:HyperInverter",
        "w_encoder": "w_encoder:WEncoderInverter",
        "phase3": "phase3:Phase3",
        "psp": "published:PspInverter",
        "e4e": "published:E4eInverter",
        "restyle": "published:ReStyleInverter",
        "hyperstyle": "published:HyperStyleInverter",
        "sg2": "optimising:ProjectorInverter",
        "sg2_plus": "optimising:WPlusProjectorInverter",
        "pti": "optimising:PtiInverter",
    }

    def __getitem__(self, name: str) -> type[Inverter]:
        module, _, kind = self.places[name].partition(":")
        return getattr(import_module(f"{__name__}.{module}"), kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


INVERTERS = _Inverters()


def check_methods(source: str | Path | DomainConfig, methods: Sequence[str]) -> None:
    """Look for the files of several methods, before any of them is read.

    Raises FileNotFoundError: more than one is missing; names all (one alone is told by `load`).
    """
    from hyperinverter.releases.obtain import released_name

    if released_name(source):
        return  # made from released files where it is loaded
    faults = []
    for part in dict.fromkeys(part for method in methods for part in INVERTERS[method].parts):
        try:
            weights_file(source, part)
        except FileNotFoundError as error:
            faults.append(str(error))
    if len(faults) > 1:
        raise FileNotFoundError("\n".join(dict.fromkeys(faults)))


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
        method: a key of INVERTERS: hyperinverter (both phases), w_encoder (Phase I only, plain generator), phase3 (both
            phases and a residual of features, beyond the paper), a released encoder (psp, e4e, restyle, hyperstyle), or
            one that optimises for every image: sg2 (a code in W), sg2_plus (in W+), pti (a code, then the generator).
        device: cpu, cuda, cuda:N, mps, or auto.
        projection: steps, seed and perceptual network of the methods that optimise; None: the published numbers.
        download: fetch what is missing of a released model; and OWNER/REPO, where no such folder is here, from the
            Hugging Face hub. Released files that are here are converted either way.
        precision: what the networks compute in: fp32, or on hardware that has it bf16 or fp16; results are float32.
            See `Inverter.accelerate` for their error.
        compile: torch.compile; the first image of each batch size takes minutes.
        resolution: side of the images that are taken and drawn, in px; None: the generator's. See `Inverter.draw_at`.
        refine: steps on each photo's tokens (hyperinverter) or w (w_encoder), or all settings of that.
    Raises:
        ValueError: no source, unknown method or precision, or refine with another method.
        FileNotFoundError: unknown model, or one of its files is missing; lists where it looked and what to run, of a
            released model which file to put where.
        UserError: the files do not belong together, are damaged, or the device is not there; a download failed.
    """
    if method not in INVERTERS:
        raise ValueError(f"method is {method!r}; write one of {', '.join(INVERTERS)}")
    from hyperinverter.releases.obtain import make_model, released_name

    settings: dict[str, Any] = {"device": device, "precision": precision, "compile": compile, "resolution": resolution}
    settings |= {"projection": projection, "refine": refine}
    if download and is_on_hub(source):
        return INVERTERS[method].from_pretrained(source, **settings)
    if download and (released := released_name(source)):
        part = method if method in (*PARTS, *PUBLISHED_METHODS) else "generator"
        make_model(released, [part], download=True)
    with shown_on_terminal("loading the model"):
        return INVERTERS[method].load(source).set_up(**settings)
