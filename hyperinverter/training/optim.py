"""Optimisers by name, and how a step's gradients are measured, clipped and refused when they are no longer numbers.

The paper trains E1 with Ranger (section 4.1): RAdam (Liu et al., arXiv:1908.03265) whose fast weights are pulled back
every 6 steps half-way to slow ones (Lookahead, Zhang et al., arXiv:1907.08610), on gradients with their mean removed
(gradient centralisation, Yong et al., arXiv:2004.01461). The `ranger-adabelief` package computes exactly that with
AdaBelief switched off; its default is another optimiser, kept here under its own name.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from ranger_adabelief import RangerAdaBelief
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hyperinverter.config.schema import OptimizerConfig, ScheduleConfig
from hyperinverter.training.muon import Muon
from hyperinverter.utils.distributed import world_size
from hyperinverter.utils.errors import UserError

Part = TypeVar("Part")

# Gradients with fewer numbers travel together; a message costs about as much as this many numbers.
SMALL = 2**16


class Ranger(RangerAdaBelief):
    """The published Ranger with all of its settings, at their published defaults; Lookahead's slow weights are state.

    The package's optimiser without its prints. Weight decay is the published one, θ shrinks by the factor
    1 - lr·weight_decay before each update. (The package scales it with RAdam's step size, 20 times at step 1.) The
    paper has none.

    Args:
        lr: largest rate; RAdam's factor comes on top.
        betas, eps: of RAdam.
        k: updates between two pulls of Lookahead.
        alpha: how far the slow weights follow at each.
        N_sma_threshhold: RAdam's factor is used once its approximated average is longer than this; plain momentum till
            then.
        adabelief: True is the package's own default, another optimiser.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        betas: Sequence[float] = (0.95, 0.999),
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        published = {"lr": 1e-3, "eps": 1e-5, "k": 6, "alpha": 0.5, "N_sma_threshhold": 5, "adabelief": False}
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(params, betas=tuple(betas), weight_decay=0.0, **(published | options))
        self.weight_decay = weight_decay

    def step(self, closure: None = None) -> None:
        if self.weight_decay:
            self._decay()
        super().step(closure)

    @torch.no_grad()
    def _decay(self) -> None:
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                if not self.state[parameter]:  # Lookahead starts from the weights before their first decay
                    zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                    self.state[parameter] = {"step": 0, **zeros, "slow_buffer": parameter.detach().clone()}
                parameter.add_(parameter, alpha=-group["lr"] * self.weight_decay)

    def __setstate__(self, state: dict) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            super().__setstate__(state)


def _adam(params: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    # One fused pass over memory: three times as fast as the loop on a CPU; other devices keep torch's own choice.
    fused = all(p.device.type in ("cpu", "cuda") for p in params)
    return torch.optim.Adam(params, fused=fused or None, **options)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": _adam,
    "ranger": Ranger,
    "ranger_adabelief": partial(Ranger, adabelief=True),
    "muon": Muon,
}


def build_optimizer(params: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser named in the config over `params`, which must already be on their device.

    Raises ValueError: no such optimiser, or nothing to train.
    """
    params = [p for p in params if p.requires_grad]
    if config.name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name is {config.name!r}; write one of {', '.join(OPTIMIZERS)}")
    if not params:
        raise ValueError("no parameter requires a gradient; unfreeze the network before its optimiser is built")
    optimizer = OPTIMIZERS[config.name](params, lr=config.lr, betas=tuple(config.betas), eps=config.eps)
    # Fused Adam and Ranger change weights without counting it; networks keep products of their weights by that count.
    optimizer.register_step_post_hook(lambda *_: torch.autograd.graph.increment_version(params))
    return optimizer


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict, config: OptimizerConfig) -> None:
    """Load a saved state; lr, betas and eps of the config win over the saved ones, so a resumed run can change them."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(lr=config.lr, betas=tuple(config.betas), eps=config.eps)


def rate_factor(step: int, schedule: ScheduleConfig) -> float:
    """What the learning rates are multiplied with in a step, from 1 down to `lr_decay_to` over the last steps.

    `step`: updates done before it.
    """
    falling = min(schedule.lr_decay_steps, schedule.max_steps)  # a shorter run falls from its first step on
    done = (step + 1 - schedule.max_steps) / max(falling, 1) + 1  # of the decay, when the step ends
    if falling == 0 or done <= 0:
        return 1.0
    done = min(done, 1.0)
    if schedule.lr_decay_shape == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return 1 - done * (1 - schedule.lr_decay_to)


def set_rates(step: int, schedule: ScheduleConfig, rates: Mapping[torch.optim.Optimizer, OptimizerConfig]) -> None:
    """Give every optimiser its rate in a step, a function of the step alone; constant rates are left as they are."""
    if schedule.lr_decay_steps == 0:
        return
    factor = rate_factor(step, schedule)
    for optimizer, config in rates.items():
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor


def split_microbatches(batch: Tensor, count: int) -> list[Tensor]:
    """A batch [N, ...] in `count` equal parts [N / count, ...], dealt out as cards are.

    Images 0, count, 2 count, ... come together, because the minibatch standard deviation compares images that far
    apart: its groups are then those of the whole batch wherever a part holds whole groups.
    """
    if len(batch) % count:
        raise UserError(
            f"gradient_accumulation is {count}, but a batch here has {len(batch)} images, which do not divide into "
            f"that many equal parts; write a number that divides {len(batch)}"
        )
    return [batch] if count == 1 else [batch[start::count] for start in range(count)]


def whole(parts: Sequence[Tensor]) -> Tensor:
    """The batch that `split_microbatches` took apart, in its order."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts), dim=1).flatten(0, 1)


def step_over_parts(
    optimizer: torch.optim.Optimizer,
    compute: Callable[[Part], dict[str, Tensor]],
    parts: Sequence[Part],
    *,
    clip: float | None = None,
    measure: bool = False,
) -> dict[str, Tensor | None]:
    """One update from a batch that is computed in equal parts, one after the other, so that memory holds one of them.

    Gradients are those of the mean over the whole batch, but for what a network computes across images: BatchNorm
    normalises with the statistics of a part (and its running averages move once per part).

    Args:
        compute: part -> "loss" with gradients, the mean over its images, and other scalars.
        parts: the whole batch is its only part without accumulation.
    Returns:
        Every scalar as its mean over the parts, and "gradient_norm".
    """
    result: list[dict[str, Tensor]] = []

    def losses() -> Iterable[Tensor]:
        for part in parts:
            values = compute(part)
            result.append({name: value.detach() for name, value in values.items()})
            yield values["loss"] if len(parts) == 1 else values["loss"] / len(parts)

    norm = backward_and_step(optimizer, losses(), count=len(parts), clip=clip, measure=measure)
    if len(result) == 1:
        return {**result[0], "gradient_norm": norm}
    means = {name: torch.stack([values[name] for values in result]).mean() for name in result[0]}
    return {**means, "gradient_norm": norm}


def backward_and_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor | Iterable[Tensor],
    *,
    count: int = 1,
    clip: float | None = None,
    measure: bool = False,
) -> Tensor | None:
    """One update from `loss`, the mean over this process's images; with several processes, over those of all.

    Args:
        loss: one, or several that are made one by one and add up (each is freed before the next is made).
        clip: largest global gradient norm; None leaves gradients alone.
        measure: return the norm although nothing is clipped (a pass over all gradients).
    Returns:
        The global gradient norm before clipping [] on the device (nothing is fetched), or None when not measured.
    """
    optimizer.zero_grad(set_to_none=True)
    with averaged_gradients(p for group in optimizer.param_groups for p in group["params"]) as last:
        for number, part in enumerate([loss] if isinstance(loss, Tensor) else loss, start=1):
            if number == count:
                last()
            part.backward()
    norm = None
    if clip is not None or measure:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in params])  # before step(): Ranger rewrites gradients in place
        if clip is not None:
            nn.utils.clip_grads_with_norm_(params, clip, norm)
    optimizer.step()
    return norm


@contextmanager
def averaged_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[Callable[[], None]]:
    """Backward passes inside add up; afterwards every gradient is its mean over processes.

    Large ones travel while the backward pass still makes the others: with D = 256 Phase II has 2.9 GiB of them at 1024
    px. No DistributedDataParallel: its wrapper changes names and forwards, and it would hold a second copy of all.

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
