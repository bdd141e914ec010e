"""Rules for one value or two of a config section, from which `checks.py` builds what a section must fulfil.

Each takes the section and the names of keys, and gives a problem for every value, or entry of one, that breaks it.
"""

import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin

from hyperinverter.config.faults import unknown_name
from hyperinverter.config.names import MOST_STRENGTH, OPTIMISING_METHODS, REFINED_METHODS


@dataclass(frozen=True)
class Problem:
    """A value that does not fit.

    Attributes:
        keys: the key at fault first, then those it disagrees with.
        if_typed: it counts only where the first key stands on the command line: a file may hold settings for later.
    """

    keys: tuple[str, ...]
    message: str
    if_typed: bool = False


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


Check = Callable[[Any], Iterable[Problem]]
Checks = Mapping[type, Check]


def by_section(*checks: Check) -> Checks:
    """A section's class -> its check, whose argument `c` is annotated with the class."""
    return {check.__annotations__["c"]: check for check in checks}


def problems_by(checks: Checks, config: Any, prefix: str = "") -> Iterator[Problem]:
    """Every problem of a config dataclass and of the sections inside it, with full dotted keys."""
    for cls in reversed(type(config).__mro__):
        for problem in checks.get(cls, lambda _: ())(config):
            yield replace(problem, keys=tuple(prefix + key for key in problem.keys))
    for item in fields(config):
        section = getattr(config, item.name)
        if is_dataclass(section):
            yield from problems_by(checks, section, f"{prefix}{item.name}.")


def idle_refinement(c: Any) -> Iterator[Problem]:
    """Settings of `refine` that do nothing, as there are no steps."""
    if c.refine.steps == 0:
        for item in fields(c.refine):
            if getattr(c.refine, item.name) != item.default:
                message = "does nothing without steps; write refine.steps=20 too, or leave it out"
                yield Problem((f"refine.{item.name}", "refine.steps"), message, if_typed=True)


def _entries(section: Any, keys: str) -> Iterator[tuple[str, Any, Any]]:
    """Full key, name and value of what these keys hold: a mapping's entries, a list's, or one value; null holds none.

    Where an entry has no name its value stands for it.
    """
    for key in keys.split():
        value = getattr(section, key)
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", name, entry) for name, entry in value.items())
        else:
            entries = value if isinstance(value, list) else [value]
            yield from ((key, entry, entry) for entry in entries if entry is not None)


def at_least(section: Any, bound: int, keys: str) -> Iterator[Problem]:
    for key, _, value in _entries(section, keys):
        if not bound <= value < math.inf:
            finite = " and finite" if isinstance(value, float) else ""
            yield Problem((key,), f"must be {bound} or more{finite}, got {value}")


def positive(section: Any, keys: str) -> Iterator[Problem]:
    for key, _, value in _entries(section, keys):
        if not 0 < value < math.inf:
            yield Problem((key,), f"must be above 0 and finite, got {value}")


def not_negative(section: Any, keys: str) -> Iterator[Problem]:
    for key, _, value in _entries(section, keys):
        if not 0 <= value < math.inf:
            yield Problem((key,), f"must be 0 (off) or above and finite, got {value}")


def between_0_and_1(section: Any, keys: str) -> Iterator[Problem]:
    for key, _, value in _entries(section, keys):
        if not 0 <= value <= 1:
            yield Problem((key,), f"must lie between 0 and 1, got {value}")


def strength_fault(value: float) -> str | None:
    """What is wrong with how far an edit goes, in either unit."""
    if abs(value) <= MOST_STRENGTH:
        return None
    return f"must lie between -{MOST_STRENGTH} and {MOST_STRENGTH}, usual are -3 to 3; got {value}"


def strengths(section: Any, key: str) -> Iterator[Problem]:
    """How far each edit goes."""
    for full_key, _, value in _entries(section, key):
        if message := strength_fault(value):
            yield Problem((full_key,), message)


def choice(section: Any, keys: str, choices: Sequence[str]) -> Iterator[Problem]:
    for key in keys.split():
        if (value := getattr(section, key)) not in choices:
            yield Problem((key,), f"must be one of {', '.join(choices)}; got {value!r}")


def known(section: Any, keys: str, kind: str, choices: Sequence[str]) -> Iterator[Problem]:
    for key, name, _ in _entries(section, keys):
        yield from unknown(key, kind, [name], choices)


def unknown(key: str, kind: str, values: Iterable[str], choices: Sequence[str]) -> Iterator[Problem]:
    for value in values:
        if value not in choices:
            yield Problem((key,), unknown_name(kind, value, choices))


def weights(section: Any, key: str, choices: Sequence[str]) -> Iterator[Problem]:
    """Losses by name with their weights, one of them above 0."""
    yield from known(section, key, "loss", choices)
    yield from not_negative(section, key)
    if not any(weight > 0 for weight in getattr(section, key).values()):
        yield Problem((key,), f"needs one loss with a weight above 0; known: {', '.join(choices)}")


def power_of_two(section: Any, keys: str, smallest: int) -> Iterator[Problem]:
    for key, _, value in _entries(section, keys):
        if value < smallest or value & (value - 1):
            lower = 2 ** max(value.bit_length() - 1, smallest.bit_length() - 1) if value > 0 else smallest
            upper = f" or {2 * lower}" if lower < value else ""
            yield Problem((key,), f"must be a power of two, {smallest} or more; got {value}, write {lower}{upper}")


def not_empty(section: Any, keys: str) -> Iterator[Problem]:
    for key in keys.split():
        if not getattr(section, key):
            yield Problem((key,), "must not be empty")


def file_names(section: Any, keys: str) -> Iterator[Problem]:
    """Names that results are called by: none may lead into another folder."""
    from hyperinverter.utils.output_names import file_name

    for key, name, _ in _entries(section, keys):
        if file_name(name) != name:
            yield Problem((key,), f"{name!r} is no name for a file; write for instance {file_name(name)!r}")


def every(section: Any, keys: str, how_to_switch_off: str) -> Iterator[Problem]:
    for key in keys.split():
        if (value := getattr(section, key)) < 1:
            yield Problem((key,), f"must be 1 or more, got {value}; to switch it off write {how_to_switch_off}")


def fits_methods(section: Any, key: str, methods: Sequence[str]) -> Iterator[Problem]:
    """Settings that some of the chosen methods cannot be run with, said before any work."""
    slow = [method for method in methods if method in OPTIMISING_METHODS]
    plain = {"precision": "fp32", "compile": False, "resolution": None}
    changed = [name for name, value in plain.items() if getattr(section, name) != value] if slow else []
    for name in changed:
        message = f"is {getattr(section, name)}, but {', '.join(slow)} optimise for every image: leave {name} out"
        yield Problem((name, key), message)
    if section.refine.steps > 0 and not set(methods) & set(REFINED_METHODS):
        message = f"is {section.refine.steps}, but refining is for {' and '.join(REFINED_METHODS)}: leave it at 0"
        yield Problem(("refine.steps", key), message)
