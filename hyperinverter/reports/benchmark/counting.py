"""Work and traffic of every stage: in a call of a measured side, or on tensors without numbers (no device, any size).

Multiply-accumulates are those of convolutions and matrix products (half of what `torch.utils.flop_counter` counts).
Bytes are what every operation reads and writes, one operation at a time, as an eager run without caches would; weights
are in there as often as they are read. A call of a side counts its own kernels and number formats; tensors without
numbers take the path of a GPU in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.build import build_hyperinverter
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.reports.benchmark.clock import REST, UNHEARD, Laps
from hyperinverter.reports.benchmark.release import Release
from hyperinverter.utils.state_dicts import shapes_only

STAGES = ("w_encoder", "first_synthesis", "layerwise_encoder", "hypernetworks", "second_synthesis")


class StageHooks:
    """Tells `laps` when the stages of our forward pass end, from the calls of its networks.

    E1 and E2 are calls of their modules, both syntheses calls of the generator's; the hypernetworks are what lies
    between E2 and the second synthesis.
    """

    def __init__(self, network: HyperInverterNetwork) -> None:
        self.laps = UNHEARD
        self._drawn = self._encoded = False
        synthesis = network.generator.synthesis
        self._handles = [
            network.w_encoder.register_forward_pre_hook(lambda *_: self.laps.lap(REST)),
            network.w_encoder.register_forward_hook(lambda *_: self.laps.lap("w_encoder")),
            network.layerwise_encoder.register_forward_pre_hook(lambda *_: self.laps.lap(REST)),
            network.layerwise_encoder.register_forward_hook(self._after_encoder),
            synthesis.register_forward_pre_hook(self._before_synthesis),
            synthesis.register_forward_hook(self._after_synthesis),
        ]

    def start(self, laps: Laps) -> None:
        """The next call is measured by `laps`."""
        self.laps, self._drawn, self._encoded = laps, False, False

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _after_encoder(self, *_: Any) -> None:
        self.laps.lap("layerwise_encoder")
        self._encoded = True

    def _before_synthesis(self, *_: Any) -> None:
        self.laps.lap("hypernetworks" if self._encoded else REST)

    def _after_synthesis(self, *_: Any) -> None:
        self.laps.lap("second_synthesis" if self._drawn else "first_synthesis")
        self._drawn = True


class Tally(Laps):
    """Multiply-accumulates and bytes, by stage; `with tally:` around the work."""

    def __init__(self) -> None:
        self._flops, self._traffic = FlopCounterMode(display=False), _Traffic()
        self._seen = (0, 0)
        self.stages: dict[str, dict[str, int]] = {}

    def __enter__(self) -> "Tally":
        self._flops.__enter__()
        self._traffic.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._traffic.__exit__(*error)
        self._flops.__exit__(*error)

    def lap(self, stage: str) -> None:
        flops, traffic = self._flops.get_total_flops(), self._traffic.total
        own = self.stages.setdefault(stage, {"macs": 0, "bytes": 0})
        own["macs"] += (flops - self._seen[0]) // 2
        own["bytes"] += traffic - self._seen[1]
        self._seen = (flops, traffic)


class _Traffic(TorchDispatchMode):
    """Sizes of what operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not is_view(func):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.total += sum(held_bytes(tensor) for tensor in tensors)
        return result


def is_view(func: Any) -> bool:
    """Whether an operation only gives another view of its input."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def held_bytes(tensor: Tensor) -> int:
    """Bytes of the different numbers in a tensor: an expanded dimension repeats the same ones."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def count_inference(domain: DomainConfig, batch_size: int = 1, *, reference: bool = False) -> dict[str, dict[str, int]]:
    """One forward pass of ours, or of the released way.

    Returns:
        Stage (and "total") -> "macs" and "bytes" of the whole batch, "parameter_bytes" of the stage's network.
    """
    with shapes_only():
        network = build_hyperinverter(domain).eval()
    images = torch.empty(batch_size, 3, domain.resolution, domain.resolution, device="meta")
    tally = Tally()
    with torch.no_grad():
        if reference:
            release = Release(network, domain, batch_size)
            with tally:
                release(images, tally)
        else:
            network.prepare()  # as a loaded model is; and what a first call keeps for later ones belongs to none
            network(images)
            hooks = StageHooks(network)
            hooks.start(tally)
            with tally:
                network(images)
                tally.lap(REST)
            hooks.remove()
    owners = (network.w_encoder, network.generator.synthesis, network.layerwise_encoder, network.hypernetwork)
    sizes = dict(zip(STAGES, [*map(parameter_bytes, owners), parameter_bytes(owners[1])], strict=True))
    stages = {stage: {**tally.stages[stage], "parameter_bytes": sizes[stage]} for stage in STAGES}
    return {**stages, "total": {**_sums(tally), "parameter_bytes": sum(map(parameter_bytes, owners))}}


def count_call(call: Callable[[Tensor, Tally], object], images: Tensor) -> dict[str, dict[str, int]]:
    """One call of a side that is warm: what it did for later calls is not part of it.

    Returns:
        Stage (and "total") -> "macs" and "bytes" of the whole batch.
    """
    tally = Tally()
    with tally:
        call(images, tally)
    return {**tally.stages, "total": _sums(tally)}


def _sums(tally: Tally) -> dict[str, int]:
    return {key: sum(stage[key] for stage in tally.stages.values()) for key in ("macs", "bytes")}


def count_generators(
    domain: DomainConfig, batch_sizes: list[int], *, reference: bool = True
) -> dict[str, dict[str, float]]:
    """Memory of the generators held for a batch, MiB, as it is after the batch was reconstructed.

    Ours is all that the synthesis network and what was prepared of it hold, caches included; the released way, counted
    with `reference`, holds a copy per image.

    Returns:
        "ours" and "reference" -> batch size (as text, a key of JSON) -> MiB.
    """
    with shapes_only():
        network = build_hyperinverter(domain).eval()
    result: dict[str, dict[str, float]] = {"ours": {}, "reference": {}}
    for n in batch_sizes:
        images = torch.empty(n, 3, domain.resolution, domain.resolution, device="meta")
        with torch.no_grad():
            network.prepare()
            network(images)
        result["ours"][str(n)] = bytes_held(network.generator.synthesis, network.own_kernels) / 2**20
        if reference:
            result["reference"][str(n)] = Release(network, domain, n).generator_bytes() / 2**20
    return result


def bytes_held(*holders: Any) -> int:
    """Of every tensor in modules (parameters, buffers, plain attributes) and containers, each storage once."""
    storages: dict[int, int] = {}
    waiting = list(holders)
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, Tensor):
            storage = holder.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        elif isinstance(holder, nn.Module):
            waiting += vars(holder).values()
        elif isinstance(holder, Mapping):
            waiting += holder.values()
        elif isinstance(holder, list | tuple | set):
            waiting += holder
    return sum(storages.values())


def parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
