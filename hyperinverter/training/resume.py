"""Which checkpoint a run goes on from, and whether this config may go on from it.

A training state holds everything that the next step depends on: step, position in the data (counted in images), trained
networks, optimisers with their moments and slow weights, random generators, best score, losses not yet logged, and the
config it was written under. Resumed on the same machine, a run gives the same numbers as one never stopped. With
several processes all of them hold the same networks and the first writes; another number of processes may go on.
"""

from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyperinverter.checkpoint import load_training_state, save_training_state, training_states
from hyperinverter.config.schema import OptimizerConfig, TrainConfig
from hyperinverter.training.common import Run
from hyperinverter.training.optim import restore_optimizer
from hyperinverter.training.progress import Progress
from hyperinverter.training.state_checks import check_optimizer, check_values, check_weights, read_from
from hyperinverter.utils.distributed import check_agreement, from_main, is_main, world_size
from hyperinverter.utils.errors import UserError

Parts = dict[
    str, nn.Module | torch.optim.Optimizer
]  # what a state holds, by name: networks that are trained, optimisers

# Settings that change neither a step nor a score: where, how often and how fast. Everything else is compared.
NEUTRAL = (
    *("output", "device", "threads", "resume", "data.workers", "data.cache_mib", "recompute_from_px"),
    *("schedule.max_steps", "schedule.log_every", "schedule.images_every", "schedule.validate_every"),
    *("schedule.save_every", "schedule.keep_checkpoints"),
)
# A change of these gives another validation loss, so that the best one so far no longer compares.
SCORE = ("loss_weights", "data", "schedule.validation_images", "adversarial.weight", "domain.loss_resolution")
# Of the layout of a training state: 1 had none, and the random generators of one process alone.
FORMAT = 2
NEEDED = ("config", "frozen", "position", "best", "history", "scalars", "rng")
# An optimiser's state fits no other optimiser.
OPTIMIZER_NAMES = ("optimizer.name", "adversarial.optimizer.name")


@dataclass
class Resumed:
    """What a run continues from; `state` None is a fresh start."""

    state: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)  # to be logged
    score_changed: bool = False
    source: Path = Path()  # where the state was found, for messages


def find_state(
    config: TrainConfig, *, trainer: str, networks: Sequence[str], frozen: dict[str, str], settings: Sequence[str] = ()
) -> Resumed:
    """Find and check the state that `config.resume` asks for.

    Args:
        trainer: "stylegan2", "phase1", "phase2" or "encoder"; a state of another trainer is refused.
        networks: sections of `domain` whose sizes must agree with the state's, e.g. ["generator", "w_encoder"].
        frozen: part -> weights hash of the networks that are used but not trained; they must be the state's.
        settings: other keys that decide what is trained, and must be the state's.
    Raises:
        UserError: checkpoints are in the way (resume=never), or the state does not fit; names every difference.
        FileNotFoundError: the named checkpoint is not there.
    """
    folder = Path(config.output) / "checkpoints"
    if config.resume == "never":
        if training_states(folder):
            raise UserError(
                f"{folder}: holds checkpoints of an earlier run, and resume is never; write resume=auto to go on from "
                f"them, or give another output"
            )
        return Resumed()
    source = folder if config.resume == "auto" else Path(config.resume)
    state = _load(source)
    check_agreement("the weights that are not trained", frozen)
    if state is None:
        if config.resume == "auto":
            return Resumed()
        raise UserError(
            f"resume is {config.resume}, where no checkpoint is; give a step_XXXXXXXX.pt file or resume=auto"
        )
    newest = [path for path in training_states(folder) if int(path.stem.removeprefix("step_")) > state["step"]][:1]
    if config.resume != "auto" and newest:
        raise UserError(
            f"resume names step {state['step']}, but {folder} holds later ones ({newest[0].name}): write resume=auto "
            f"to go on from these, delete them, or give another output"
        )
    check_origin(state, source, trainer)

    sizes = ("domain.resolution", *(f"domain.{section}" for section in networks), *settings)
    # A state of an earlier version lacks the settings that came later: they had their defaults.
    usual = {key: value for key, value in flatten(asdict(type(config)())).items() if not under(key, ["loss_weights"])}
    old, new = usual | flatten(state["config"]), flatten(asdict(config))
    telling = ["domain.loss_resolution"] + ["schedule.max_steps"] * (config.schedule.lr_decay_steps > 0)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    refused, notes, score_changed = [], [], False
    if (before := state.get("processes", 1)) != world_size():
        notes.append(f"resumed with {world_size()} process(es), saved with {before}: same batches, other last digits")
    for part, digest in frozen.items():
        if state["frozen"].get(part, digest) != digest:  # a loss may have come since
            refused.append(f"{part}: trained with weights {state['frozen'].get(part)}, these are {digest}")
    for key in changed:
        if key == "domain.name":
            raise UserError(
                f"{source}: its checkpoint (step {state['step']}) is of domain {old[key]}, this run is of domain "
                f"{new[key]}; give another output (output=outputs/{trainer}_{new[key]} is usual), or domain= of the run"
            )
        message = f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        if key in OPTIMIZER_NAMES or (under(key, sizes) and not key.endswith(".init")):
            refused.append(message)
        elif key in telling or not under(key, (*NEUTRAL, "domain")):
            notes.append(f"resumed with another {message}")
            score_changed |= under(key, SCORE)
    if refused:
        listed = "\n  ".join(refused)
        raise UserError(
            f"{source}: its checkpoint (step {state['step']}) does not fit this config:\n  {listed}\n"
            f"set these back to go on from it, or give another output to start anew"
        )
    return Resumed(state, notes, score_changed, source)


def _load(source: Path) -> dict[str, Any] | None:
    """`load_training_state`, where the first process chooses and the others read the same file."""
    state = load_training_state(source, set_aside=True) if is_main() else None
    step = from_main(state and state["step"])
    if is_main() or step is None:
        return state
    return load_training_state(source if source.suffix == ".pt" else source / f"step_{step:08d}.pt")


def check_origin(state: dict[str, Any], source: Path, trainer: str) -> None:
    """Refuse what another trainer or another version wrote, each in its own words. Raises UserError: says which."""
    text = f"{source}: its checkpoint (step {state['step']})"
    if state.get("trainer", trainer) != trainer:
        raise UserError(f"{text} is a checkpoint of {str(state['trainer'])[:40]}, not of {trainer}; give another "
                        f"output, or the right checkpoint")  # fmt: skip
    version = state.get("format", 1)
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{text} was written by a later version of this package (layout {version}, this one knows {FORMAT}): go on "
            f"with that version, or give another output to start anew"
        )
    if missing := [name for name in ("trainer", *NEEDED) if name not in state]:
        raise UserError(
            f"{text} was written by an earlier version of this package (it lacks {', '.join(missing)}), and this one "
            f"cannot go on from it exactly: go on with that version, or give another output and train on from the "
            f"weights in {source.parent}/model or model_last"
        )
    check_values(state, text)


def restore(
    resumed: Resumed,
    parts: Parts,
    rates: dict[torch.optim.Optimizer, OptimizerConfig],
    *,
    data: tuple[Sized, Sized],
    may_be_missing: Sequence[str] = (),
) -> Progress:
    """Fill networks and optimisers from the state that was found; where the run stands, and its random generators.

    Args:
        rates: optimiser -> its settings now, which win over the saved ones.
        data: training and validation images; other numbers of them than the state's are noted.
        may_be_missing: parts that joined the run after the state was saved; noted, they keep their values.
    Raises:
        UserError: a part is missing or does not fit; names it.
    """
    images = {"training": len(data[0]), "validation": len(data[1])}
    if resumed.state is None:
        return Progress(images=images)
    step = resumed.state["step"]
    for name, part in parts.items():
        if name not in resumed.state and name in may_be_missing:
            resumed.notes.append(f"the checkpoint has no {name}: it starts from the domain's")
            continue
        text = f"{resumed.source}: the checkpoint of step {step}"
        if name not in resumed.state:
            raise UserError(
                f"{text} holds no {name}; another version of this package wrote it: go on with that version, or give "
                f"another output to start anew"
            )
        with read_from(f"{text}: its {name}"):
            if isinstance(part, torch.optim.Optimizer):
                check_optimizer(part, resumed.state[name])
                restore_optimizer(part, resumed.state[name], rates[part])
            else:
                check_weights(resumed.state[name])
                part.load_state_dict(resumed.state[name])
    for use, before in resumed.state.get("images", {}).items():
        if images[use] != before:
            resumed.notes.append(f"resumed with {images[use]} {use} images, saved with {before}: not the same run")
            resumed.score_changed |= use == "validation"
    with read_from(f"{resumed.source}: the checkpoint of step {step}"):
        progress = Progress.from_state(resumed.state, resumed.score_changed)
    progress.images = images
    return progress


def save_state(
    run: Run,
    config: TrainConfig,
    *,
    trainer: str,
    frozen: dict[str, str],
    progress: Progress,
    parts: Parts,
    more: dict[str, Any] | None = None,
) -> None:
    """Write a training state that `find_state` accepts again. Every process calls this, the first one writes.

    `parts` are what is trained, and the optimisers; `more` are running values of the trainer's own.
    """
    state = {"format": FORMAT, "trainer": trainer, "config": asdict(config), "frozen": frozen}
    state |= {**progress.state(), **(more or {})}
    state |= {name: part.state_dict() for name, part in parts.items()}
    run.sync()  # a state counts on the rows up to its step
    if is_main():
        save_training_state(run.checkpoints, progress.step, state, config.schedule.keep_checkpoints)


def under(key: str, parents: Sequence[str]) -> bool:
    """Is `key` one of `parents`, or inside one of them (domain.generator.w_dim is inside domain.generator)?"""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; tuples become lists, as a file gives them back."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
