"""Muon for matrices and convolutions, Adam for vectors, as one optimiser.

Beyond the paper. A batch moves all its images alike in a few directions, and an update of Adam follows these: what
tells the images apart is learned last. Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) gives all
directions of an update the same length. `torch.optim.Muon` does it; scaled to the usual length of Adam's updates
(J. Liu et al., arXiv:2502.16982), so that Adam's rates carry over.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

FITTED_RATE = "match_rms_adamw"  # 0.2 sqrt(max(rows, columns)) on an update of spectral norm 1


class MuonWithAdam(torch.optim.Optimizer):
    """`torch.optim.Muon` on parameters of two dimensions or more, as [first, all others], `adam` on the rest.

    Args:
        params: on their device.
        lr: of both.
        betas, eps: of Adam; Muon keeps its own momentum of 0.95.
        adam: (parameters, lr=, betas=, eps=) -> the optimiser of the rest.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        adam: Callable[..., torch.optim.Optimizer],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        params = list(params)
        matrices, rest = ([p for p in params if (p.ndim > 1) == wanted] for wanted in (True, False))
        super().__init__(
            [{"params": group} for group in (matrices, rest) if group], {"lr": lr, "betas": tuple(betas), "eps": eps}
        )
        self._matrices = [(p, _shared(p)) for p in matrices]  # two shapes of the same memory
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            seen = [matrix for _, matrix in self._matrices]
            self._parts["muon"] = torch.optim.Muon(seen, lr=lr, weight_decay=0.0, adjust_lr_fn=FITTED_RATE)
        if rest:
            self._parts["adam"] = adam(rest, lr=lr, betas=tuple(betas), eps=eps)

    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient, at the rates of `param_groups`."""
        for (name, part), settings in zip(self._parts.items(), self.param_groups, strict=True):
            wanted = ["lr"] if name == "muon" else ["lr", "betas", "eps"]
            part.param_groups[0].update({key: settings[key] for key in wanted})
        for parameter, matrix in self._matrices:
            matrix.grad = None if parameter.grad is None else _as_matrix(parameter.grad, parameter)
        for part in self._parts.values():
            part.step()
        for _, matrix in self._matrices:
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises KeyError or ValueError where the state is another optimiser's or of other parameters."""
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])


def _shared(parameter: nn.Parameter) -> nn.Parameter:
    matrix = nn.Parameter(_as_matrix(parameter.detach(), parameter))
    if matrix.data_ptr() != parameter.data_ptr():
        raise ValueError(
            f"muon needs weights that lie in memory without gaps; one is {tuple(parameter.shape)} at strides "
            f"{parameter.stride()}: call .contiguous() on it"
        )
    return matrix


def _as_matrix(tensor: Tensor, like: nn.Parameter) -> Tensor:
    """[O, ...] -> [O, all others], the columns in the order in which `like` lies in memory."""
    channels_last = like.ndim == 4 and not like.is_contiguous()
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).reshape(len(tensor), -1)
