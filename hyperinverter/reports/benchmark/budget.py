"""What a Phase II step needs in memory, from a step run on tensors without numbers: any size, on any machine.

The arithmetic (weights, gradients, optimiser states, what autograd keeps) is read off the networks; the peak is that of
a whole step, temporaries included, as `LiveMemory` sees it. A GPU adds its context and the workspaces of its libraries.
Letters: N images, D numbers in a token.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyperinverter.config.schema import DomainConfig
from hyperinverter.reports.benchmark.sides import SideName, random_discriminator, random_network
from hyperinverter.reports.benchmark.training import OurPhase2, make_losses, recompute_from
from hyperinverter.training.phase2 import encoder_losses

BLOCK = 512  # bytes


class LiveMemory(TorchDispatchMode):
    """Bytes held by tensors that were made inside `with LiveMemory():`, real ones or fake ones that hold no numbers.

    In blocks of 512 bytes, as PyTorch's CUDA allocator gives them out. What that cannot reuse is not in it.

    Attributes:
        now: bytes held at this moment.
        peak: the largest of these so far; `start_peak` begins anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def start_peak(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        # the Python object of a storage lives as long as the storage does
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class KeptForBackward(saved_tensors_hooks):
    """`bytes` that the forward pass inside keeps for its backward pass, each storage once, beside the parameters."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(self._note, lambda tensor: tensor)
        self.bytes = 0
        self._seen = {parameter.untyped_storage()._cdata for parameter in parameters}

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor.detach()  # not the output itself, which would hold its own graph alive


MIB = 2**20
LIMIT_GIB = 12.0  # a common card's memory, which a Phase II step at 1024 px with D = 128 and N = 2 is to fit
CONTEXT_GIB = 1.0  # allowance for a CUDA context (about 0.5 GiB) and the workspaces of its libraries


def phase2_budget(
    domain: DomainConfig, batch_size: int, side: str = "fp32", *, adversarial: bool = False
) -> dict[str, Any]:
    """Memory of one Phase II step of ours, in MiB.

    Args:
        side: fp32 or bf16, with or without _recompute.
        adversarial: with the discriminator, its update and R1.
    Returns:
        "frozen_weights", "trained_weights", "gradients", "optimiser", "kept_for_backward" (of the encoders' step),
        "peak" and "fits_12_gib" (`CONTEXT_GIB` set aside).
    """
    with FakeTensorMode(), LiveMemory() as live:
        discriminator = random_discriminator(domain) if adversarial else None
        network, losses = random_network(domain), make_losses(domain)
        name = SideName.of(side)
        recompute = recompute_from(domain, name)
        trainer = OurPhase2(network, losses, name, torch.device("cpu"), discriminator, recompute)
        images = torch.empty(batch_size, 3, domain.resolution, domain.resolution)
        d = [] if trainer.discriminator is None else list(trainer.discriminator.parameters())
        networks = list(trainer.model.parameters()) + list(trainer.losses.parameters()) + d
        trained = trainer.model.trainable_parameters() + d
        kept = KeptForBackward([*networks, images])
        with kept, trainer.autocast:
            values, _ = encoder_losses(trainer.model, trainer.losses, images, trainer.discriminator, 1.0)
        del values
        for _ in range(2):  # the first step makes the optimisers' states
            live.start_peak()
            trainer.step(images, with_r1=True) if adversarial else trainer.step(images)
        states = [o.state.values() for o in (trainer.optimizer, getattr(trainer, "optimizer_D", None)) if o]
        optimiser = sum(held(v for v in state.values() if isinstance(v, Tensor)) for each in states for state in each)
        peak = live.peak
    parts = {
        "frozen_weights": held(networks) - held(trained),
        "trained_weights": held(trained),
        "gradients": held(trained),
        "optimiser": optimiser,
        "kept_for_backward": kept.bytes,
        "peak": peak,
    }
    mib = {name: value / MIB for name, value in parts.items()}
    return {
        **mib,
        "batch_size": batch_size,
        "side": side,
        "adversarial": adversarial,
        "fits_12_gib": peak / 2**30 + CONTEXT_GIB <= LIMIT_GIB,
    }


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of different tensors."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())
