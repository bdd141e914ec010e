"""Muon for matrices and convolutions, Adam for vectors, as one optimiser.

Beyond the paper. Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) gives all directions of an update the
same length, where Adam's follows the few that a batch agrees on. An update is as long as Adam's usually are (root mean
square 0.2 of the rate; J. Liu et al., arXiv:2502.16982). PyTorch's own computes in bfloat16 only, which takes seconds a
step on a CPU without such instructions, and knows no convolutions.
"""

import math
from collections.abc import Callable
from typing import Any

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
            for parameter in filter(_is_matrix, group["params"]):
                self._move(parameter, group["lr"])
                moved.append((parameter, parameter.grad))
                parameter.grad = None  # Adam passes over it
        super().step()
        for parameter, gradient in moved:
            parameter.grad = gradient
        return loss

    @torch.no_grad()
    def _move(self, parameter: Tensor, rate: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros([])  # Adam looks for it when a state is loaded
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonal(gradient.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's
        parameter.add_(update.reshape(parameter.shape), alpha=-rate * RMS * math.sqrt(max(update.shape)))


def orthogonal(matrix: Tensor) -> Tensor:
    """[rows, columns] -> the same with all singular values near 1 (0.7 to 1.2), by a Newton-Schulz iteration.

    Every step multiplies by a polynomial in x x^T, so the steps are taken on that small square and only their product
    meets the matrix: for a wide one a fifth of the work, for a square one no less. Always in float32, whose digits the
    squares need.
    """
    x = (matrix if len(matrix) <= matrix.shape[1] else matrix.mT).float()
    x = x / (x.norm() + 1e-7)
    square = x @ x.mT
    step = product = _polynomial(square)
    for _ in range(ITERATIONS - 1):
        square = step @ square @ step
        step = _polynomial(square)
        product = step @ product
    x = product @ x
    return (x if len(matrix) <= matrix.shape[1] else x.mT).to(matrix.dtype)


def _polynomial(square: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    result = torch.addmm(square, square, square, beta=b, alpha=c)  # b s + c s^2
    result.diagonal().add_(a)
    return result


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and parameter.grad is not None
