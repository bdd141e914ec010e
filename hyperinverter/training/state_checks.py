"""What a training state must hold before anything of it is used: a file is believed for its checksums, not for more."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.state_dicts import is_finite

DEEPEST = 10  # levels of a config
LARGEST = 2**53


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _number(value: object) -> bool:
    return type(value) in (int, float)


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)


def _numbers_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and _number(v) for k, v in value.items())


def _config(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        if not all(isinstance(tree, dict) and all(isinstance(key, str) for key in tree) for tree in level):
            return False
        inside = [value for tree in level for value in tree.values()]
        level = [value for value in inside if isinstance(value, dict)]
        plain = [value for value in inside if not isinstance(value, dict | list | tuple)]
        plain += [entry for value in inside if isinstance(value, list | tuple) for entry in value]
        if not all(value is None or isinstance(value, bool | int | float | str) for value in plain):
            return False
    return not level


def _best(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"loss", "step"}:
        return False
    loss, step = value["loss"], value["step"]
    return (loss is None or _number(loss)) and (step is None or _whole(step))


def _history(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list | tuple) and len(row) == 2 and _whole(row[0]) and _numbers_by_name(row[1]) for row in value
    )


def _rng(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"python", "numpy", "torch", "cuda"}:
        return False
    lists = isinstance(value["python"], list | tuple) and isinstance(value["numpy"], list | tuple)
    tensors = [value["torch"], *value["cuda"]] if isinstance(value["cuda"], list | tuple) else [None]
    return lists and all(isinstance(tensor, Tensor) and tensor.dtype == torch.uint8 for tensor in tensors)


CHECKS: dict[str, Callable[[object], bool]] = {
    "step": _whole,
    "format": _whole,
    "trainer": lambda value: isinstance(value, str),
    "config": _config,
    "frozen": _texts,
    "position": _whole,
    "best": _best,
    "history": _history,
    "scalars": _numbers_by_name,
    "images": lambda value: isinstance(value, dict) and all(
        use in ("training", "validation") and _whole(count) for use, count in value.items()),
    "rng": _rng,
    "rng_of_others": lambda value: isinstance(value, list) and all(map(_rng, value)),
    "processes": _whole,
    "mean_path_length": lambda value: isinstance(value, Tensor) and value.numel() == 1 and is_finite(value),
    "augment": lambda value: isinstance(value, dict),
}  # fmt: skip


def check_values(state: Mapping[str, Any], text: str) -> None:
    """Refuse a state with a value that is not what it is in every state this package writes.

    `text`: how the message calls the state; its file is in it. Raises UserError: names the values.
    """
    if wrong := [name for name, check in CHECKS.items() if name in state and not check(state[name])]:
        raise UserError(
            f"{text} was changed or damaged ({', '.join(wrong)} is not what it should be): delete it to go on from the "
            f"one before, or give another output to start anew"
        )


@contextmanager
def read_from(text: str) -> Iterator[None]:
    """What goes wrong inside is reported as a fault of this state."""
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(
            f"{text} does not fit ({reason_of(error)}); another version of this package wrote it, or it was "
            f"changed: go on with that version, or give another output to start anew"
        ) from error


def check_weights(state: object) -> None:
    """Refuse the state of a network that is none, or is not finite. Raises ValueError: names the tensor."""
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds no tensors by name")
    if bad := [name for name, tensor in state.items() if not is_finite(tensor)]:
        raise ValueError(f"{bad[0]} holds NaN or infinite numbers")


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Refuse the state of another optimiser, or one whose values are of another type or size than the optimiser's.

    Raises ValueError: says what differs.
    """
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if not isinstance(groups, list) or not isinstance(state.get("state"), dict):
        raise ValueError("it is the state of no optimiser")
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(f"it has {len(groups)} groups of parameters, here are {len(optimizer.param_groups)}")
    for own, saved in zip(optimizer.param_groups, groups, strict=True):
        for name, value in own.items():
            if name != "params" and not (isinstance(saved, dict) and name in saved and _alike(value, saved[name])):
                raise ValueError(f"its setting {name} is absent or of another type")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, kept in state["state"].items():
        if not _whole(number) or number >= len(parameters) or not isinstance(kept, dict):
            raise ValueError("it keeps values of parameters that are not here")
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameters[number].shape:
                raise ValueError(f"{name} of parameter {number} has shape {tuple(value.shape)}")


def _alike(own: object, saved: object) -> bool:
    if isinstance(own, list | tuple):
        return isinstance(saved, list | tuple) and len(own) == len(saved) and all(map(_alike, own, saved))
    return type(own) is type(saved) or (_number(own) and _number(saved)) or own is None or saved is None
