"""From the words of a command line to `key=value` settings: `--key value`, `--key=value`, `--flag`, photos by name."""

import os
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hyperinverter.config.hints import hint_of
from hyperinverter.config.rules import options
from hyperinverter.config.yaml_text import parse_value
from hyperinverter.utils.errors import UserError

OWN_OPTIONS = ("config", "dry-run", "print-config", "traceback", "help")  # of every command; the others are settings


def as_settings(words: Sequence[str], schema_class: type) -> list[str]:
    """`--seed 3` and `--seed=3` become seed=3, `--align` align=true; what is no setting stays as it is.

    Hyphens stand for underscores: --base-url is base_url. An unknown key is passed on too: loading names the nearest.

    Raises UserError: a key without a value, or with the first part of one that the shell split at its spaces.
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
        elif hint_of(schema_class, key) is bool and " ".join(rest[:1]).lower() not in ("true", "false"):
            settings.append(f"{key}=true")
        elif rest and not rest[0].startswith("--"):
            settings.append(f"{key}={rest.pop(0)}")
        elif hint_of(schema_class, key) is None:
            settings.append(f"{key}=")
        else:
            raise UserError(f"{word} needs a value: {word} VALUE, or {key}=VALUE")
    for setting in settings:
        key, _, value = setting.partition("=")
        if hint_of(schema_class, key) is not None and _is_cut(value):
            whole = "{NAME: VALUE, NAME: VALUE}" if "{" in value else "[A, B]"
            raise UserError(
                f"{key} ends in the middle, at {value!r}: the shell splits words at spaces, so quote all of it, as in "
                f"'{key}={whole}'"
            )
    return settings


def _is_cut(value: str) -> bool:
    """Whether a list or mapping goes on in the next word."""
    is_open = value.startswith(("[", "{")) and any(value.count(a) > value.count(b) for a, b in ("[]", "{}"))
    return is_open or value.endswith(",")


def overrides(words: Sequence[str], schema_class: type, inputs: str | None) -> list[str]:
    """The key=value words, and the others as one for the key `inputs`.

    A file `a=b.png` that is there is a path, unless `a` is a key: then `./a=b.png` is.

    Raises UserError: a key stands alone where only photos do, as in `photo.jpg align`, or `inputs` is given both ways.
    """
    settings: list[str] = []
    paths: list[str] = []
    for word in words:
        key, equals, _ = word.partition("=")
        is_setting = bool(equals) and key.replace(".", "_").isidentifier()
        is_path = inputs is not None and hint_of(schema_class, key) is None and os.path.exists(word)
        (settings if inputs is None or (is_setting and not is_path) else paths).append(word)
    for path in paths if inputs == "data.root" else ():
        hint = hint_of(schema_class, path)
        if hint is not None and not is_dataclass(hint) and not os.path.exists(path):
            raise UserError(f"{path} is a setting and needs a value: {path}={'true' if hint is bool else 'VALUE'}")
    if inputs and paths:
        if twice := next((setting for setting in settings if setting.startswith(f"{inputs}=")), None):
            raise UserError(f"{paths[0]} and {twice} both say what to work on; leave one out")
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
