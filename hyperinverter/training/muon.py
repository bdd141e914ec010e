"""Muon for matrices and convolutions, Adam for vectors, as one optimiser.

Beyond the paper. Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) gives all directions of an update the
same length, where Adam's follows the few that a batch agrees on. An update is as long as Adam's usually are (root mean
square 0.2 of the rate; J. Liu et al., arXiv:2502.16982). PyTorch's own computes in bfloat16 only, which takes seconds a
step on a CPU without such instructions, and knows no convolutions.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

MOMENTUM = 0.95
RMS = 0.2  # of an update, in units of the rate
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # bring every singular value to about 1 in that many iterations


class Muon(torch.optim.Adam):
    """Parameters of two dimensions or more move by Muon, as matrices [first, all others]; the rest by Adam.

    Args: those of Adam; `lr` is for both, `betas` and `eps` are for Adam's part.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        moved = []
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.ndim > 1 and p.grad is not None]
            for alike in _alike(matrices):
                self._move(alike, group["lr"])
            for parameter in matrices:
                moved.append((parameter, parameter.grad))
                parameter.grad = None  # Adam passes over it
        super().step()
        for parameter, gradient in moved:
            parameter.grad = gradient
        return loss

    @torch.no_grad()
    def _move(self, parameters: list[Tensor], rate: float) -> None:
        """Parameters of one shape."""
        for state, parameter in ((self.state[parameter], parameter) for parameter in parameters):
            if not state:
                state["step"] = torch.zeros([])  # Adam looks for it when a state is loaded
                state["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        updates = orthogonal(torch.stack(ahead).flatten(2))
        scale = -rate * RMS * math.sqrt(max(updates.shape[1:]))
        torch._foreach_add_(parameters, list(updates.view(-1, *parameters[0].shape)), alpha=scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """[M, rows, columns] -> the same with all singular values near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    Every step multiplies by a polynomial in x x^T, so the steps are taken on that small square and only their product
    meets the matrix: for a wide one a fifth of the work, for a square one no less. Always in float32, whose digits the
    squares need.
    """
    x = (matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    square = x @ x.mT
    step = product = _polynomial(square)
    for _ in range(ITERATIONS - 1):
        square = step @ square @ step
        step = _polynomial(square)
        product = step @ product
    x = product @ x
    return (x if matrices.shape[1] <= matrices.shape[2] else x.mT).to(matrices.dtype)


def _polynomial(square: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    result = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b s + c s^2
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result


def _alike(parameters: list[Tensor]) -> list[list[Tensor]]:
    """By shape and type: on a GPU the products of many small matrices take no longer than one's; not so on a CPU."""
    groups: dict[tuple, list[Tensor]] = {}
    for parameter in parameters:
        alone = id(parameter) if parameter.device.type == "cpu" else None
        groups.setdefault((alone, parameter.shape, parameter.dtype), []).append(parameter)
    return list(groups.values())
