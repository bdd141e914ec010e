"""Where a run stands: step, position in the data, losses not yet logged, last scalars, best validation loss.

Everything here travels in the training state, so that a resumed run goes on as if it had never stopped.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.checkpoint import rng_state, set_rng_state
from hyperinverter.config.schema import ScheduleConfig, TrainConfig
from hyperinverter.training.common import Run
from hyperinverter.training.guard import STOP_SIGNALS
from hyperinverter.training.validation import Best
from hyperinverter.utils.distributed import any_process, average, gather_to_all, is_main, rank, world_size
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.held_folders import check_held
from hyperinverter.utils.text import counted


class LossHistory:
    """Scalars by step since the last log; `rows` of an earlier `state()` continue it.

    Nothing is fetched from the device in an ordinary step. Whenever a step logs, shows pictures, validates or saves,
    all losses since the last look come over in one transfer and each is checked, so the message names the first bad
    step exactly, and nothing that followed a bad step can reach a checkpoint or the best model. The gradient norm is
    measured on these steps too (on every step when gradient_clip is set).
    """

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

        Raises UserError: a loss or a gradient is NaN or infinite; says which, since which step, and what to try.
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


@dataclass(frozen=True)
class Due:
    """What a step has to do beyond training; the last step does everything."""

    log: bool
    images: bool
    validation: bool
    save: bool
    stop: bool = False

    @property
    def look(self) -> bool:
        """Losses are fetched and checked, gradients measured."""
        return self.log or self.images or self.validation or self.save


def due_at(step: int, schedule: ScheduleConfig) -> Due:
    """`step` counts from 1: the number of updates done when it ends."""
    last = step == schedule.max_steps
    every = (schedule.log_every, schedule.images_every, schedule.validate_every, schedule.save_every)
    return Due(*(last or step % n == 0 for n in every))


@dataclass
class Progress:
    step: int = 0  # finished updates of the encoder
    position: int = 0  # training images used so far
    best: Best = field(default_factory=Best)
    history: LossHistory = field(default_factory=LossHistory)
    scalars: dict[str, float] = field(default_factory=dict)  # the last value of everything that was logged
    images: dict[str, int] = field(default_factory=dict)  # how many there are for training and for validation
    _clock: tuple[float, int] | None = None  # time and position of the last log, for the speed

    @classmethod
    def from_state(cls, state: dict, score_changed: bool) -> "Progress":
        """Take up a training state, random generators included; a best loss under another measure is forgotten."""
        set_rng_state(_own_rng(state))
        best = Best() if score_changed else Best(**state["best"])
        return cls(state["step"], state["position"], best, LossHistory(state["history"]), state["scalars"])

    def state(self) -> dict:
        """Plain types and tensors, alike in every process; `step` is added by `save_training_state`."""
        rng, *others = gather_to_all(rng_state())
        return {
            "position": self.position,
            "best": {"loss": self.best.loss, "step": self.best.step},
            "history": self.history.state(),
            "scalars": self.scalars,
            "images": self.images,
            "rng": rng,
            "rng_of_others": others,
            "processes": world_size(),
        }

    def step_done(self, due: Due, schedule: ScheduleConfig, values: dict[str, Tensor | None], images: int) -> Due:
        """Count an update that was made from so many training images, and keep its losses till they are logged.

        Returns:
            What is to be done now: as planned, or save and stop because a signal came to one of the processes, all of
            which call this after every step. The last step ends anyway.
        """
        self.step += 1
        self.position += images
        self.history.add(self.step, values)
        check_held()  # a folder that was removed or replaced is reported at once, not with the next file
        if any_process(STOP_SIGNALS.received is not None) and self.step < schedule.max_steps:
            return replace(due, save=True, stop=True)
        return due

    def log_losses(self, run: Run) -> float:
        """Write the mean losses since the last log and the speed; returns the total loss."""
        values = {f"train/{name}": value for name, value in self.history.take_means().items()}
        now = time.perf_counter()
        if self._clock is not None:
            values["time/images_per_s"] = (self.position - self._clock[1]) / max(now - self._clock[0], 1e-9)
        self._clock = (now, self.position)
        run.scalars(self.step, {**values, "train/images": float(self.position)})
        self.scalars |= values
        return values["train/loss"]

    def log_validation(self, run: Run, losses: dict[str, float]) -> bool:
        """Write validation losses; True when this step is to be kept as the best (always without validation images)."""
        if not losses:
            return True
        values = {f"validation/{name}": value for name, value in losses.items()}
        improved = self.best.improves(losses["loss"], self.step)
        run.scalars(self.step, values)
        listed = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        run.log(f"step {self.step}: validation {listed}{' (best so far)' if improved else ''}")
        self.scalars |= {**values, "validation/step": self.step}
        return improved

    def data(self) -> str:
        """How many images the run has, in words."""
        return f"{self.images['training']} training and {counted(self.images['validation'], 'validation image')}"

    def last_validation(self) -> dict[str, float]:
        """The losses of the last validation and, as "step", when it was: the last step need not be validated."""
        prefix = "validation/"
        return {name.removeprefix(prefix): value for name, value in self.scalars.items() if name.startswith(prefix)}

    def conclusion(self, output: str | Path, then: str = "") -> str:
        """The last line of a run's log; `then` is the command that goes on from its model folder."""
        best = "" if self.best.step is None else f", best step {self.best.step}"
        return f"done at step {self.step}{best}: {output}/model" + (f"; next: {then}" if then else "")

    def summary(self) -> dict[str, float]:
        """What a trainer returns."""
        best, step = self.best.loss, self.best.step
        kept = {} if best is None or step is None else {"best/loss": best, "best/step": step}
        return {"step": self.step, **self.scalars, **kept}


@contextmanager
def open_run(config: TrainConfig, progress: Progress) -> Iterator[tuple[Run, tqdm]]:
    """The run folder and a progress bar over the steps, both where the run goes on."""
    schedule = config.schedule
    with (
        Run(config.output, config, progress.step) as run,
        tqdm(total=schedule.max_steps, initial=progress.step, leave=False, mininterval=1, disable=not is_main()) as bar,
    ):
        yield run, bar


def _own_rng(state: dict) -> dict:
    """What this process's random generators go on from.

    All processes draw the same numbers, so that with another number of processes the first one's state serves all.
    """
    states = [state["rng"], *state.get("rng_of_others", [])]
    if len(states) == world_size():
        return states[rank()]
    # of the devices on its machine, the first process used the first
    return {**states[0], "cuda": [states[0]["cuda"][0] for _ in states[0]["cuda"]]}
