"""From the words of a command line to `key=value` settings: `--key value`, `--key=value`, `--flag`, photos by name."""

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from hyperinverter.config.hints import hint_of
from hyperinverter.config.rules import options
from hyperinverter.config.yaml_text import parse_value
from hyperinverter.utils.errors import UserError

OWN_OPTIONS = ("config", "dry-run", "print-config", "traceback", "help")  # of every command; the others are settings


def as_settings(words: Sequence[str], schema_class: type) -> list[str]:
    """`--seed 3` and `--seed=3` become seed=3, `--align` align=true; what is no setting stays as it is.

    Hyphens stand for underscores: --base-url is base_url. An unknown key is passed on too: loading names the nearest.

    Raises UserError: a key without a value.
    """
    settings, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--config" and rest:
            settings += [word, rest.pop(0)]
            continue
        if not word.startswith("--") or name in OWN_OPTIONS or not name:
            settings.append(word)
            continue
        key = name.replace("-", "_")
        if equals:
            settings.append(f"{key}={value}")
        elif hint_of(schema_class, key) is bool and rest[:1] not in (["true"], ["false"]):
            settings.append(f"{key}=true")
        elif rest and not rest[0].startswith("--"):
            settings.append(f"{key}={rest.pop(0)}")
        elif hint_of(schema_class, key) is None:
            settings.append(f"{key}=")
        else:
            raise UserError(f"{word} needs a value: {word} VALUE, or {key}=VALUE")
    return settings


def overrides(words: Sequence[str], schema_class: type, inputs: str | None) -> list[str]:
    """The key=value words, and the others as one for the key `inputs`; `./a=b.png` is a path, `a=b.png` a setting."""
    settings: list[str] = []
    paths: list[str] = []
    for word in words:
        is_setting = word.partition("=")[0].replace(".", "_").isidentifier() and "=" in word
        (settings if is_setting or inputs is None else paths).append(word)
    if inputs and paths:
        quoted = ["'" + path.replace("'", "''") + "'" for path in paths]
        one = len(paths) == 1 and str in options(hint_of(schema_class, inputs))
        settings.append(f"{inputs}={quoted[0]}" if one else f"{inputs}=[{', '.join(quoted)}]")
    return settings


def list_of(raw: str, hint: Any) -> list[Any]:
    """What `key=a` and `key=a,b` mean where a list is expected; texts stay as typed.

    Raises ValueError: the values cannot be read.
    """
    inner = get_args(next(one for one in options(hint) if get_origin(one) is list))[0]
    return [part.strip() for part in raw.split(",")] if inner is str else parse_value(f"[{raw}]")
