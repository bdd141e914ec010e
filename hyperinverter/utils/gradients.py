"""Gradients as their means over processes; large ones travel while the backward pass still makes the others.

With D = 256 Phase II has 2.9 GiB of them at 1024 px: sent after the backward pass, they are waited for; sent during it,
mostly not. No DistributedDataParallel: its wrapper changes names and forwards, and it would hold a second copy of all.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hyperinverter.utils.distributed import world_size

# Gradients with fewer numbers travel together; a message costs about as much as this many numbers.
SMALL = 2**16


@contextmanager
def averaged_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[Callable[[], None]]:
    """Backward passes inside add up; afterwards every gradient is its mean over processes.

    Parameters without a gradient (in all processes) keep none.

    Yields:
        To be called before the last backward pass: during it large gradients are sent as soon as they are whole.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if world_size() == 1:
        yield lambda: None
        return
    # The last layers' gradients come first. All processes must send in one order, so each waits for those before it.
    order = [parameter for parameter in reversed(parameters) if parameter.numel() >= SMALL]
    sent: list[tuple[Tensor, dist.Work]] = []
    whole: set[nn.Parameter] = set()
    next_one = 0

    def send_in_turn(parameter: nn.Parameter) -> None:
        nonlocal next_one
        whole.add(parameter)
        while next_one < len(order) and order[next_one] in whole:
            sent.append(_send(cast(Tensor, order[next_one].grad)))
            next_one += 1

    hooks: list[RemovableHandle] = []

    def last() -> None:
        hooks.extend(parameter.register_post_accumulate_grad_hook(send_in_turn) for parameter in order)

    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()
    sent += [_send(parameter.grad) for parameter in order[next_one:] if parameter.grad is not None]
    small = [p.grad for p in parameters if p.numel() < SMALL and p.grad is not None]
    if small:
        sent.append(_send(torch.cat([gradient.reshape(-1) for gradient in small])))
    for _, work in sent:
        work.wait()
    if small:
        together, _ = sent.pop()
        for gradient, part in zip(small, together.split([g.numel() for g in small]), strict=True):
            gradient.copy_(part.view_as(gradient))
    torch._foreach_div_([gradient for gradient, _ in sent] + small, world_size())


def _send(tensor: Tensor) -> tuple[Tensor, dist.Work]:
    return tensor, dist.all_reduce(tensor, async_op=True)
