"""What lies around the weights in a published checkpoint: other entries, other networks, prefixes."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import shortened

# entry of a checkpoint -> why it is not used
UNUSED = {
    "opts": "the training run's options; what matters is read off the tensors",
    "latent_avg": "the generator's own w_avg is used",
    "encoder_optimizer": "an optimiser's state",
    "discriminator_optimizer": "an optimiser's state",
    "optimizer": "an optimiser's state",
    "discriminator_optimizer_state_dict": "an optimiser's state",
    "discriminator_state_dict": "a discriminator, which only training needs",
    "loss_dict": "the training run's losses",
    "best_val_loss": "the training run's losses",
}
# entry of a generator's checkpoint -> why it is not used
UNUSED_BESIDE = {
    "g": "the generator as it was trained; its average g_ema is used",
    "G": "the generator as it was trained; its average G_ema is used",
    "generator": "the generator as it was trained; its average is used",
    "d": "the discriminator in rosinality's layout, which is not read; training starts a new one",
    "D": "the discriminator, which only training needs",
    "discriminator": "the discriminator, which only training needs",
    "g_optim": "an optimiser's state",
    "d_optim": "an optimiser's state",
    "args": "the training run's options",
    "training_set_kwargs": "the training run's options",
    "augment_pipe": "the training run's augmentation",
    "ada_aug_p": "the training run's augmentation",
}
MADE = "not in the file, made here: "  # how the reason begins of what is no part that was left out
OTHER_ENTRY = "another entry of the file"
PLAIN = (bool, int, float, str, type(None))


def beside(names: Iterable[str]) -> dict[str, str]:
    """Entries beside a generator, each with why it is not used."""
    return {name: UNUSED_BESIDE.get(name, UNUSED.get(name, OTHER_ENTRY)) for name in names}


def unused_keys(ignored: Mapping[str, str]) -> list[str]:
    """For messages: what of a file is not used and what was made in place of what it lacks.

    Names of one reason stand together, those below one prefix as one.
    """
    reasons: dict[str, dict[str, int]] = {}
    for name, why in ignored.items():
        first, dot, _ = name.partition(".")
        group = f"{first}.*" if dot else name
        counts = reasons.setdefault(why, {})
        counts[group] = counts.get(group, 0) + 1
    unused = [f"{shortened(list(counts))} ({why})" for why, counts in reasons.items() if not why.startswith(MADE)]
    made = [f"{', '.join(counts)}: {why}" for why, counts in reasons.items() if why.startswith(MADE)]
    return [*(["not used: " + "; ".join(unused)] if unused else []), *made]


def unwrap(content: Any, what: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a checkpoint `{"state_dict": ..., ...}`, or of a bare state dict.

    Returns:
        The state dict, and for each other entry of the checkpoint why it is not used.
    Raises:
        UserError: it is neither, or it holds an entry that is not known.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: not {what}: it holds a {type(content).__name__}, expected a state dict")
    if "state_dict" not in content:
        return _named(content, what, source), {}
    if not isinstance(content["state_dict"], Mapping):
        result = type(content["state_dict"]).__name__
        raise UserError(f"{source}: not {what}: its state_dict is a {result}, expected names with tensors")
    ignored, unknown = {}, []
    for entry, value in content.items():
        if entry == "state_dict":
            continue
        if entry in UNUSED:
            ignored[entry] = UNUSED[entry]
        elif isinstance(value, PLAIN):
            ignored[entry] = "a note of the training run"
        else:
            unknown.append(entry)
    if unknown:
        raise UserError(f"{source}: not {what}: its entries {shortened(unknown)} are not known")
    return _named(content["state_dict"], what, source), ignored


def _named(state: Mapping[Any, Any], what: str, source: str) -> dict[str, Any]:
    """The state dict, in which every key is a name."""
    if odd := [key for key in state if not isinstance(key, str)]:
        raise UserError(f"{source}: not {what}: {shortened(odd)} stands for a name among its keys, expected text alone")
    return dict(state)


def prefix_of(state: Iterable[str], candidates: Iterable[str], marks: Iterable[str]) -> str | None:
    """The first of the prefixes under which one of the marking keys lies; None if there is none."""
    names = set(state)
    marks = list(marks)
    return next((prefix for prefix in candidates if any(prefix + mark in names for mark in marks)), None)
