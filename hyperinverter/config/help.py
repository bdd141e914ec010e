"""What --help says of a command's settings: every key with its type, its value if nothing is said, and its meaning."""

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hyperinverter.config.hints import meanings, short_type
from hyperinverter.config.load import list_domains
from hyperinverter.config.schema import DomainConfig
from hyperinverter.config.yaml_text import dump_yaml

WIDEST = 120  # columns
INDENT = 6  # of a meaning


def settings_help(schema_class: type, config: Any) -> str:
    """All keys of a command, its own first, then sections; the sizes of the domain's networks come last.

    Args:
        schema_class: the command's settings.
        config: values that hold where the command line says nothing.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = ["", "settings, each with its type and default:", *_keys(schema_class, config, "", width)]
    return "\n".join(lines)


def _keys(schema_class: type, values: Any, prefix: str, width: int) -> Iterator[str]:
    hints, said = get_type_hints(schema_class), meanings(schema_class)
    names = [field.name for field in fields(schema_class)]
    for name in (name for name in names if not is_dataclass(hints[name])):
        yield from _key(f"{prefix}{name}", short_type(hints[name]), getattr(values, name), said[name], width)
    sections = [name for name in names if is_dataclass(hints[name])]
    for name in sorted(sections, key=lambda name: hints[name] is DomainConfig):
        if hints[name] is DomainConfig:
            known = (
                f"a domain's name ({', '.join(list_domains())}) or its YAML file; what follows are single values of it"
            )
            yield from ("", *_key(name, "text", getattr(values, name).name, known, width))
        yield ""
        yield from _keys(hints[name], getattr(values, name), f"{prefix}{name}.", width)


def _key(key: str, kind: str, value: Any, meaning: str, width: int) -> Iterator[str]:
    shown = dump_yaml({"value": value}).removeprefix("value:").strip()
    if isinstance(value, dict) and value:
        shown = "{" + ", ".join(line.strip() for line in shown.splitlines()) + "}"
    yield from textwrap.wrap(f"{key} ({kind}) = {shown}", width, initial_indent="  ", subsequent_indent=" " * 8)
    if meaning:
        indent = " " * INDENT
        yield from textwrap.wrap(meaning, width, initial_indent=indent, subsequent_indent=indent)
