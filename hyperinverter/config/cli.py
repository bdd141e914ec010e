"""The command line every script has: `--config FILE`, `key=value`, `--dry-run`; faults as plain text with exit code 2.

A script is one call of `run`. Nothing heavy is imported before it is needed: `--help` and a config's faults come
without torch, `--dry-run` builds the networks to count their parameters, and only a real run imports the action.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, get_type_hints

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import list_domains, load_config, to_yaml
from hyperinverter.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
USER_MISTAKE = 2  # exit code, as argparse's own


def run(
    schema_class: type,
    action: str,
    default_config: str,
    description: str,
    *,
    positional: str | None = None,
    positional_help: str = "images, folders, .zip files or globs",
    argv: Sequence[str] | None = None,
) -> None:
    """Parse the command line, load the config, and call the action with it.

    Args:
        schema_class: the `*Config` dataclass of this command.
        action: "package.module:function", called with the config; imported only when it runs.
        default_config: the YAML file used without --config.
        description: the first lines of --help.
        positional: a config key that collects words without `=`, such as "data.root"; None: every word is key=value.
        positional_help: what those words are.
        argv: the words of the command line; None takes sys.argv.
    Raises:
        SystemExit: 2 after a mistake that the user can mend, 130 after Ctrl-C.
    """
    parser = _parser(default_config, description, positional, positional_help)
    options, unknown = parser.parse_known_intermixed_args(argv)
    try:
        switches = {f"--{key}": f"{key}=true" for key, hint in get_type_hints(schema_class).items() if hint is bool}
        unknown = [switches.get(word, word) for word in unknown]  # --align is align=true
        if bad_options := [word for word in unknown if word.startswith("-")]:
            raise UserError(f"no such option: {' '.join(bad_options)}; settings are written key=value, without dashes")
        config = load_config(schema_class, options.config, _overrides([*options.words, *unknown], positional))
        if options.print_config or options.dry_run:
            print(to_yaml(config), end="")
        if options.dry_run:
            print("\n" + _import("hyperinverter.models.plan:describe")(config))
        if not (options.print_config or options.dry_run):
            _import(action)(config)
    except ConfigError as error:
        count = f"{len(error.faults)} settings" if len(error.faults) > 1 else "one setting"
        _stop(f"{count} to mend:\n  " + "\n  ".join(map(str, error.faults)))
    except (UserError, ValueError, OSError) as error:
        if options.traceback or not _is_users(error):
            raise
        _stop(str(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint, if it saves any", file=sys.stderr)
        raise SystemExit(130) from None


def _parser(
    default_config: str, description: str, positional: str | None, positional_help: str
) -> argparse.ArgumentParser:
    examples = f"data.root=FOLDER output=FOLDER device=cpu; domains: {', '.join(list_domains())}"
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"Settings: {examples}. --print-config shows every key of this command with its value.",
        allow_abbrev=False,
    )
    words = f"key=value changes one setting{f'; words without = are {positional_help}' if positional else ''}"
    metavar = "KEY=VALUE" if positional is None else "IMAGE|KEY=VALUE"
    parser.add_argument("words", nargs="*", metavar=metavar, help=words)
    parser.add_argument("--config", metavar="FILE", default=default_config, help="YAML file (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the networks, do nothing")
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


def _stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(USER_MISTAKE) from None
