"""Optimisers by name, and how a step's gradients are measured, clipped and refused when they are no longer numbers.

The paper trains E1 with Ranger (section 4.1): RAdam (Liu et al., arXiv:1908.03265) whose fast weights are pulled back
every 6 steps half-way to slow ones (Lookahead, Zhang et al., arXiv:1907.08610), on gradients with their mean removed
(gradient centralisation, Yong et al., arXiv:2004.01461). The `ranger-adabelief` package computes exactly that with
AdaBelief switched off; its default is another optimiser, kept here under its own name.
"""

import contextlib
import io
from collections.abc import Callable, Iterable
from functools import partial

import torch
from ranger_adabelief import RangerAdaBelief
from torch import Tensor, nn

from hyperinverter.config.schema import OptimizerConfig
from hyperinverter.utils.distributed import average_gradients

LOOKAHEAD_STEPS = 6  # k and alpha as in the published Ranger
LOOKAHEAD_ALPHA = 0.5


class QuietRanger(RangerAdaBelief):
    """The package's optimiser without its prints; Lookahead's slow weights are part of `state_dict`.

    Weight decay is the published one, θ shrinks by the factor 1 - lr·weight_decay before each update. (The package
    scales it with RAdam's step size, 20 times at step 1.) The paper has none.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, weight_decay: float = 0.0, **options: object) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(params, weight_decay=0.0, **options)
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


def ranger(
    params: Iterable[nn.Parameter],
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.95, 0.999),
    eps: float = 1e-5,
    k: int = LOOKAHEAD_STEPS,
    alpha: float = LOOKAHEAD_ALPHA,
    weight_decay: float = 0.0,
    adabelief: bool = False,
) -> torch.optim.Optimizer:
    """The published Ranger with all of its settings, at their published defaults.

    Args:
        params: on their device.
        lr: largest rate; RAdam's factor comes on top.
        betas, eps: of RAdam.
        k: updates between two pulls of Lookahead.
        alpha: how far the slow weights follow at each.
        weight_decay: per unit of lr and update.
        adabelief: True is the package's own default, another optimiser.
    """
    options = {"lr": lr, "betas": tuple(betas), "eps": eps, "k": k, "alpha": alpha, "weight_decay": weight_decay}
    return QuietRanger(params, adabelief=adabelief, **options)


def _adam(params: list[nn.Parameter], **options: object) -> torch.optim.Optimizer:
    # One fused pass over memory: three times as fast as the loop on a CPU; other devices keep torch's own choice.
    fused = all(p.device.type in ("cpu", "cuda") for p in params)
    return torch.optim.Adam(params, fused=fused or None, **options)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": _adam,
    "ranger": ranger,
    "ranger_adabelief": partial(ranger, adabelief=True),
}


def build_optimizer(params: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser named in the config over `params`, which must already be on their device.

    Raises:
        ValueError: no such optimiser, or nothing to train.
    """
    params = [p for p in params if p.requires_grad]
    if config.name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name is {config.name!r}; write one of {', '.join(OPTIMIZERS)}")
    if not params:
        raise ValueError("no parameter requires a gradient; unfreeze the network before its optimiser is built")
    return OPTIMIZERS[config.name](params, lr=config.lr, betas=tuple(config.betas), eps=config.eps)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict, config: OptimizerConfig) -> None:
    """Load a saved state; lr, betas and eps of the config win over the saved ones, so a resumed run can change them."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(lr=config.lr, betas=tuple(config.betas), eps=config.eps)


def backward_and_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    *,
    clip: float | None = None,
    measure: bool = False,
) -> Tensor | None:
    """One update from `loss`, the mean over this process's images; with several processes, over those of all.

    Args:
        clip: largest global gradient norm; None leaves gradients alone.
        measure: return the norm although nothing is clipped (a pass over all gradients).
    Returns:
        The global gradient norm before clipping [] on the device (nothing is fetched), or None when not measured.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(p for group in optimizer.param_groups for p in group["params"])
    norm = None
    if clip is not None or measure:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in params])  # before step(): Ranger rewrites gradients in place
        if clip is not None:
            nn.utils.clip_grads_with_norm_(params, clip, norm)
    optimizer.step()
    return norm
