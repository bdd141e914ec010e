"""What is timed against what: the released way and ours, each under a name such as `reference`, `fp32`, `bf16_compile`.

fp32 computes in float32 throughout; tf32 lets a GPU round the factors of products to 10 bits, as PyTorch does with
convolutions unless set otherwise; bf16 and fp16 run networks under autocast. `_compile` adds torch.compile;
in training, `_recompute` lets the large blocks compute their activations again in the backward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperinverter.inverters import HyperInverter
from hyperinverter.pretrained.load import LoadedModel
from hyperinverter.reports.benchmark.clock import REST
from hyperinverter.reports.benchmark.counting import Laps, StageHooks
from hyperinverter.reports.benchmark.release import Release


@dataclass(frozen=True)
class SideName:
    """A name of `hyperinverter.config.report_schema`, taken apart."""

    is_reference: bool
    precision: str  # fp32 | tf32 | bf16 | fp16
    compiled: bool
    recomputes: bool

    @classmethod
    def of(cls, name: str) -> "SideName":
        words = name.split("_")
        precision = next((word for word in words if word in ("tf32", "bf16", "fp16")), "fp32")
        return cls(words[0] == "reference", precision, "compile" in words, "recompute" in words)


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Whether CUDA may compute float32 products with TF32 factors inside; elsewhere it changes nothing."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


class ReferenceSide:
    """The released way, from an image to its reconstruction. `batch_size`: generators to hold."""

    def __init__(self, model: LoadedModel, batch_size: int, name: SideName) -> None:
        self.release = Release(model.network, model.domain, batch_size)
        self.allows_tf32 = name.precision == "tf32"

    @torch.no_grad()
    def __call__(self, images: Tensor, watch: Laps | None = None) -> Tensor:
        with tf32_allowed(self.allows_tf32):
            return self.release(images, watch).reconstruction


class OurSide:
    """Our way as a user calls it: `invert`, then `render`."""

    def __init__(self, model: LoadedModel, name: SideName, device: torch.device) -> None:
        self.inverter = make_inverter(model, name, device)
        self.allows_tf32 = name.precision == "tf32"
        # hooks would break the compiled graphs: a compiled side has no stages
        self.hooks = None if name.compiled else StageHooks(self.inverter.network)

    def __call__(self, images: Tensor, watch: Laps | None = None) -> Tensor:
        with tf32_allowed(self.allows_tf32):
            if self.hooks is not None:
                self.hooks.start(watch)
            inversion = self.inverter.invert(images, batch_size=len(images))
            reconstruction = self.inverter.render(inversion, batch_size=len(images))
            if watch is not None:
                watch.lap(REST)
            return reconstruction


def make_inverter(model: LoadedModel, name: SideName, device: torch.device) -> HyperInverter:
    """The method as `hyperinverter.load` gives it; tf32 is its fp32 with TF32 allowed."""
    precision = "fp32" if name.precision == "tf32" else name.precision
    return HyperInverter(model).to(device).accelerate(precision, name.compiled)


def make_side(name: str, model: LoadedModel, batch_size: int, device: torch.device) -> "ReferenceSide | OurSide":
    """A side by its name. The model is moved to the device; the reference shares its tensors, ours gets a copy."""
    parts = SideName.of(name)
    model.network.to(device)
    if parts.is_reference:
        return ReferenceSide(model, batch_size, parts)
    return OurSide(copied(model), parts, device)


def copied(model: LoadedModel) -> LoadedModel:
    """A copy whose networks a side may convert."""
    own = copy(model)
    own.network = deepcopy(model.network)
    own.generator, own.w_encoder = own.network.generator, own.network.w_encoder
    return own
