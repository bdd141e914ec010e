"""The command line every script has: `--config FILE`, `key=value`, `--dry-run`; faults as plain text with exit code 2.

A script is one call of `run`. Nothing heavy is imported before it is needed: `--help` and a config's faults come
without torch, `--dry-run` builds the networks to count their parameters, and only a real run imports the action.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, get_type_hints

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import list_domains, load_config, to_yaml
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import check_writable
from hyperinverter.utils.text import printable
from hyperinverter.utils.waiting import said_if_slow

PACKAGE = Path(__file__).resolve().parents[1]
USER_MISTAKE = 2  # exit code, as argparse's own
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a full or read-only disk says
PIPE_CLOSED = 141  # as of a program that SIGPIPE ended
EXAMPLES = {"data.root": "FOLDER", "output": "FOLDER", "device": "cpu"}  # for --help, where a command has the key


def run(
    schema_class: type,
    action: str,
    default_config: str | None,
    description: str,
    *,
    positional: str | None = None,
    positional_help: str = "images, folders, .zip files or globs",
    positional_name: str = "IMAGE",
    dashed: Sequence[str] = (),
    plan: str = "hyperinverter.models.plan:describe",
    argv: Sequence[str] | None = None,
) -> None:
    """Parse the command line, load the config, and call the action with it.

    Args:
        schema_class: the `*Config` dataclass of this command.
        action: "package.module:function", called with the config; imported only when it runs.
        default_config: the YAML file used without --config; None takes the schema's defaults.
        description: the first lines of --help.
        positional: a config key that collects words without `=`, such as "data.root"; None: every word is key=value.
        positional_help: what those words are; positional_name stands for one of them in --help.
        dashed: keys that may also be written `--key VALUE`; those that are true or false always may, as `--key`.
        plan: "package.module:function", called with the config by --dry-run; gives the text to print.
        argv: the words of the command line; None takes sys.argv.
    Raises:
        SystemExit: 2 after a mistake that the user can mend, 130 after Ctrl-C.
    """
    hints = get_type_hints(schema_class)
    parser = _parser(default_config, description, positional, positional_help, positional_name, hints)
    try:
        words = _as_settings(sys.argv[1:] if argv is None else argv, hints, dashed)
        options, unknown = parser.parse_known_intermixed_args(words)
        if bad_options := [word for word in unknown if word.startswith("-")]:
            raise UserError(f"no such option: {' '.join(bad_options)}; settings are written key=value, without dashes")
        config = load_config(schema_class, options.config, _overrides([*options.words, *unknown], positional))
        if (options.print_config or options.dry_run) and not _is_spoken_for():
            print(to_yaml(config), end="")
        if options.dry_run and not _is_spoken_for():
            with said_if_slow("loading PyTorch"):
                describe = _import(plan)
            print("\n" + describe(config))
        if not (options.print_config or options.dry_run):
            if getattr(config, "output", None):  # told before hours are put into what could not be written
                config.output = str(Path(config.output).expanduser())
                check_writable(config.output)
            with said_if_slow("loading PyTorch", wanted=not _is_spoken_for()):
                act = _import(action)
            _checked_for_processes(act)(config)
        sys.stdout.flush()
    except ConfigError as error:
        count = f"{len(error.faults)} settings" if len(error.faults) > 1 else "one setting"
        _stop(f"{count} to mend:\n  " + "\n  ".join(map(str, error.faults)), error)
    except BrokenPipeError:  # `| head` has seen enough; nothing more can be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(PIPE_CLOSED) from None
    except (UserError, ValueError, OSError) as error:
        if "--traceback" in (sys.argv if argv is None else argv) or not _is_users(error):
            raise
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            told += "; what was written before is whole: make room, or give another output=FOLDER"
        _stop(told, error)
    except KeyboardInterrupt:
        if not _is_spoken_for():
            print("\nstopped; the same command goes on from the last checkpoint, if it saves any", file=sys.stderr)
        raise SystemExit(130) from None


def _as_settings(words: Sequence[str], hints: dict[str, Any], dashed: Sequence[str]) -> list[str]:
    """`--align` becomes align=true; where `dashed` names base_url, `--base-url X` becomes base_url=X."""
    settings, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not word.startswith("--") or (key not in dashed and (equals or hints.get(key) is not bool)):
            settings.append(word)
        elif hints[key] is bool:
            settings.append(f"{key}=true")
        elif equals or rest:
            settings.append(f"{key}={value if equals else rest.pop(0)}")
        else:
            raise UserError(f"{word} needs a value: {word} VALUE, or {key}=VALUE")
    return settings


def _parser(
    default_config: str | None,
    description: str,
    positional: str | None,
    positional_help: str,
    positional_name: str,
    hints: dict[str, Any],
) -> argparse.ArgumentParser:
    examples = [f"{key}={of}" for key, of in EXAMPLES.items() if key.partition(".")[0] in hints]
    domains = f"; domains: {', '.join(list_domains())}" if "domain" in hints else ""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"Settings: {' '.join(examples)}{domains}. --print-config shows every key of this command with its "
        "value.",
        allow_abbrev=False,
    )
    words = f"key=value changes one setting{f'; words without = are {positional_help}' if positional else ''}"
    metavar = "KEY=VALUE" if positional is None else f"{positional_name}|KEY=VALUE"
    default = "(default: %(default)s)" if default_config else "(default: none)"
    parser.add_argument("words", nargs="*", metavar=metavar, help=words)
    parser.add_argument("--config", metavar="FILE", default=default_config, help=f"YAML file {default}")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the plan, do nothing")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config only, at once")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def _overrides(words: Sequence[str], positional: str | None) -> list[str]:
    """The key=value words, and the others as one for the positional key; `./a=b.png` is a path, `a=b.png` a setting."""
    settings, paths = [], []
    for word in words:
        is_setting = word.partition("=")[0].replace(".", "_").isidentifier() and "=" in word
        (settings if is_setting or positional is None else paths).append(word)
    if paths:
        quoted = ["'" + path.replace("'", "''") + "'" for path in paths]
        settings.append(f"{positional}=[{', '.join(quoted)}]")
    return settings


def _import(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _is_users(error: Exception) -> bool:
    """Whether the message helps the user: a UserError, another error that this package itself raised, or the operating
    system's word on a file (no permission, a file where a folder should be, disk full).

    Anything else that comes out of a library is a fault in the code and keeps its traceback.
    """
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
        return True
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and Path(last.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def _is_spoken_for() -> bool:
    """Of the processes that torchrun starts on a machine, the first one speaks where all have the same to say."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _checked_for_processes(action: Callable[..., Any]) -> Callable[..., Any]:
    if os.environ.get("WORLD_SIZE", "1") == "1" or getattr(action, "runs_in_all_processes", False):
        return action
    raise UserError("this command runs in one process: start it with python instead of torchrun")


def _stop(message: str, error: Exception) -> None:
    if not getattr(error, "told", _is_spoken_for()):
        print(f"error: {printable(message, keep=chr(10))}", file=sys.stderr)
    raise SystemExit(USER_MISTAKE) from None
