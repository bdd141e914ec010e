"""Losses of a run: kept on the device until somebody looks, averaged for the log, refused when no longer finite.

Policy: nothing is fetched in an ordinary step. Whenever a step logs, shows pictures, validates or saves, all losses
since the last look come over in one transfer and each is checked, so the message names the first bad step exactly, and
nothing that followed a bad step can reach a checkpoint or the best model. The gradient norm is measured on these steps
too (on every step when gradient_clip is set).
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.config.schema import TrainConfig
from hyperinverter.utils.distributed import average
from hyperinverter.utils.errors import UserError


class LossHistory:
    """Scalars by step since the last log; `rows` of an earlier `state()` continue it."""

    def __init__(self, rows: list | None = None) -> None:
        self._rows: list[tuple[int, dict[str, float]]] = [(step, dict(values)) for step, values in rows or []]
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, values: dict[str, Tensor | None]) -> None:
        """Remember scalars [] of a step without fetching them; None is left out."""
        self._waiting.append((step, {name: value.detach() for name, value in values.items() if value is not None}))

    def state(self) -> list:
        """Everything since the last log as plain types, for a checkpoint."""
        self._fetch()
        return [[step, values] for step, values in self._rows]

    def take_means(self) -> dict[str, float]:
        """Mean of every scalar over the steps that had it since the last call, and start anew."""
        self._fetch()
        result: dict[str, list[float]] = {}
        for _, values in self._rows:
            for name, value in values.items():
                result.setdefault(name, []).append(value)
        self._rows = []
        return {name: math.fsum(values) / len(values) for name, values in result.items()}

    def stop_if_not_finite(self, config: TrainConfig, checkpoints: Path) -> None:
        """Check everything fetched so far.

        Raises:
            UserError: a loss or a gradient is NaN or infinite; says which, since which step, and what to try.
        """
        self._fetch()
        for step, values in self._rows:
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if not bad:
                continue
            parts = [name for name in bad if name != "loss"] or bad  # the sum is bad because a part of it is
            listed = ", ".join(f"{name} is {values[name]}" for name in parts)
            good = sorted(checkpoints.glob("step_*.pt"))
            kept = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
            clip = "a lower one" if config.gradient_clip else "gradient_clip=1.0"
            precision = ", precision=fp32" if config.precision != "fp32" else ""
            raise UserError(
                f"step {step}: {listed}; training stopped before anything was saved, {kept}. Try a lower optimizer.lr "
                f"(now {config.optimizer.lr}), {clip}{precision}, or a lower weight of that loss, and start again: "
                f"resume=auto goes on from the checkpoint"
            )

    def _fetch(self) -> None:
        if not self._waiting:
            return
        flat = torch.stack([v.float().reshape([]) for _, values in self._waiting for v in values.values()])
        numbers = iter(average(flat).tolist())  # over all processes, so that all of them stop at the same NaN
        self._rows += [(step, {name: next(numbers) for name in values}) for step, values in self._waiting]
        self._waiting = []
