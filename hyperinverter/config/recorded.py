"""Sections of the schema from plain values that a file carries, as strictly as from YAML: keys, types and ranges."""

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from hyperinverter.config.domain_checks import DOMAIN_CHECKS
from hyperinverter.config.rules import options, problems_by

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
LONGEST_LIST = 64  # stages of a trunk, taps of a filter


def recorded_section(section_class: type[T], values: object, name: str) -> T:
    """One section; keys that are absent keep their defaults.

    Args:
        values: as JSON gives them.
        name: how the refusal calls the section.
    Raises:
        ValueError: no mapping, an unknown key, a value of another type or out of range; names the first few.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no mapping")
    if foreign := sorted(set(values) - {field.name for field in fields(section_class)}):
        raise ValueError(f"{name} has {', '.join(foreign[:3])[:100]}, which this version does not know")
    hints = get_type_hints(section_class)
    if missing := [field.name for field in fields(section_class) if _is_required(field) and field.name not in values]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    if wrong := [key for key, value in values.items() if not _is(value, hints[key])]:
        raise ValueError(f"{name}.{wrong[0]} is of the wrong type")
    section = section_class(**values)
    if found := next(problems_by(DOMAIN_CHECKS, section), None):
        raise ValueError(f"{name}.{found.keys[0]} {found.message}"[:300])
    return section


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _is(value: object, hint: Any) -> bool:
    return any(_is_one(value, option) for option in options(hint))


def _is_one(value: object, kind: Any) -> bool:
    if isinstance(value, list | tuple) and type(value) is get_origin(kind):
        return len(value) <= LONGEST_LIST and all(_is(entry, get_args(kind)[0]) for entry in value)
    if get_origin(kind) is dict:
        key, inside = get_args(kind)
        return isinstance(value, dict) and all(_is(k, key) and _is(v, inside) for k, v in value.items())
    if kind is float:
        return type(value) in (int, float) and abs(cast(float, value)) < 1e30  # NaN is not
    if kind is int:
        return type(value) is int and abs(value) < 2**31
    return type(value) is kind
