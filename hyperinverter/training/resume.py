"""Which checkpoint a run goes on from, and whether this config may go on from it.

A training state holds everything that the next step depends on: step, position in the data (counted in images), trained
networks, optimisers with their moments and slow weights, random generators, best score, losses not yet logged, and the
config it was written under. Resumed on the same machine, a run gives the same numbers as one never stopped. With
several processes all of them hold the same networks and the first writes; another number of processes may go on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.checkpoint import load_training_state, save_training_state, write_atomically
from hyperinverter.config.schema import DomainConfig, TrainConfig
from hyperinverter.training.progress import Progress
from hyperinverter.utils.distributed import check_agreement, from_main, is_main, world_size
from hyperinverter.utils.errors import UserError

# Settings that change neither a step nor a score: where, how often and how fast. Everything else is compared.
NEUTRAL = (
    *("output", "device", "threads", "resume", "data.workers", "data.cache_mib"),
    *("schedule.max_steps", "schedule.log_every", "schedule.images_every", "schedule.validate_every"),
    *("schedule.save_every", "schedule.keep_checkpoints"),
)
# A change of these gives another validation loss, so that the best one so far no longer compares.
SCORE = ("loss_weights", "data", "schedule.validation_images", "adversarial.weight", "domain.loss_resolution")
# An optimiser's state fits no other optimiser.
OPTIMIZER_NAMES = ("optimizer.name", "adversarial.optimizer.name")


@dataclass
class Resumed:
    """What a run continues from; `state` None is a fresh start."""

    state: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)  # to be logged
    score_changed: bool = False


def find_state(
    config: TrainConfig,
    *,
    trainer: str,
    networks: Sequence[str],
    frozen: dict[str, str],
) -> Resumed:
    """Find and check the state that `config.resume` asks for.

    Args:
        trainer: "stylegan2", "phase1" or "phase2"; a state of another trainer is refused.
        networks: sections of `domain` whose sizes must agree with the state's, e.g. ["generator", "w_encoder"].
        frozen: part -> weights hash of the networks that are used but not trained; they must be the state's.
    Raises:
        UserError: checkpoints are in the way (resume=never), or the state does not fit; names every difference.
        FileNotFoundError: the named checkpoint is not there.
    """
    folder = Path(config.output) / "checkpoints"
    if config.resume == "never":
        if any(folder.glob("step_*.pt")):
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
    later = [path for path in sorted(folder.glob("step_*.pt")) if int(path.stem[5:]) > state["step"]]
    if config.resume != "auto" and later:
        raise UserError(
            f"resume names step {state['step']}, but {folder} holds later ones ({later[-1].name}): write resume=auto "
            f"to go on from these, delete them, or give another output"
        )
    if state.get("trainer") != trainer:
        raise UserError(
            f"{source}: is a checkpoint of {state.get('trainer', 'another trainer')}, not of {trainer}; give another "
            f"output, or the right checkpoint"
        )

    sizes = tuple(["domain.resolution", *(f"domain.{section}" for section in networks)])
    # A state of an earlier version lacks the settings of networks that came later: they had their defaults.
    old, new = flatten({"domain": asdict(DomainConfig())}) | flatten(state["config"]), flatten(asdict(config))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    refused, notes, score_changed = [], [], False
    if (before := state.get("processes", 1)) != world_size():
        notes.append(f"resumed with {world_size()} process(es), saved with {before}: same batches, other last digits")
    for part, digest in frozen.items():
        if state["frozen"].get(part) != digest:
            refused.append(f"{part}: trained with weights {state['frozen'].get(part)}, these are {digest}")
    for key in changed:
        told = f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        if key in OPTIMIZER_NAMES or (under(key, sizes) and not key.endswith(".init")):
            refused.append(told)
        elif key == "domain.loss_resolution" or not under(key, (*NEUTRAL, "domain")):
            notes.append(f"resumed with another {told}")
            score_changed |= under(key, SCORE)
    if refused:
        listed = "\n  ".join(refused)
        raise UserError(
            f"{source}: its checkpoint (step {state['step']}) does not fit this config:\n  {listed}\n"
            f"set these back to go on from it, or give another output to start anew"
        )
    return Resumed(state, notes, score_changed)


def _load(source: Path) -> dict[str, Any] | None:
    """`load_training_state`, where the first process chooses and the others read the same file."""
    state = load_training_state(source) if is_main() else None
    step = from_main(state and state["step"])
    if is_main() or step is None:
        return state
    return load_training_state(source if source.suffix == ".pt" else source / f"step_{step:08d}.pt")


def save_state(
    folder: Path,
    config: TrainConfig,
    *,
    trainer: str,
    frozen: dict[str, str],
    progress: Progress,
    parts: dict[str, nn.Module | torch.optim.Optimizer],
    more: dict[str, Tensor] | None = None,
) -> None:
    """Write a training state that `find_state` accepts again. Every process calls this, the first one writes.

    `parts` are what is trained, and the optimisers; `more` are running values of the trainer's own.
    """
    state = {"trainer": trainer, "config": asdict(config), "frozen": frozen, **progress.state(), **(more or {})}
    state |= {name: part.state_dict() for name, part in parts.items()}
    if is_main():
        save_training_state(folder, progress.step, state, config.schedule.keep_checkpoints)


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


def forget_later_stats(output: str | Path, step: int) -> None:
    """Drop the lines of stats.jsonl after `step`: a killed run wrote them, and its continuation writes them again."""
    path = Path(output) / "stats.jsonl"
    if not is_main() or not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue  # cut short by the kill
    with write_atomically(path) as temporary:
        temporary.write_text("".join(kept))
