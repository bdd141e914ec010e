"""The command line every command has: `--config FILE`, `key=value`, `--dry-run`; faults as text with exit code 2.

Nothing heavy is imported before it is needed: `--help`, a config's faults and photos that are not there come without
torch, `--dry-run` builds the networks to count their parameters, and only a real run imports the action.
"""

import argparse
import contextlib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, get_type_hints

from hyperinverter.config.faults import ConfigError, unknown_name
from hyperinverter.config.hints import meanings, short_type
from hyperinverter.config.load import list_configs, list_domains, load_config, to_yaml
from hyperinverter.config.schema import DomainConfig
from hyperinverter.config.words import as_settings, overrides
from hyperinverter.config.yaml_text import dump_yaml
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import NO_ROOM, check_writable
from hyperinverter.utils.held_folders import not_there, remove_empty
from hyperinverter.utils.kept_memory import keep_freed_memory
from hyperinverter.utils.paths import MissingDataError, check_given, expand
from hyperinverter.utils.text import expanded, printable
from hyperinverter.utils.waiting import close_bars, doing, signs_of_life

PACKAGE = Path(__file__).resolve().parents[1]
ANEW = "the same command begins anew"
GOES_ON = "the same command goes on where this one stopped"
FROM_CHECKPOINT = "the same command goes on from the last checkpoint, if there is one"
PIPE_CLOSED = 141  # as of a program that SIGPIPE ended
# keys of paths to images, which are looked at before PyTorch is loaded
INPUT_PATHS = ("data.root", "photos", "other_photos", "training_photos", "shown")
WIDEST = 120  # columns
INDENT = 6  # of a meaning


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        action: "package.module:function", called with the config; imported only when it runs.
        config: the YAML file used without --config and a domain's name of those beside it; None: the schema's defaults.
        inputs: the key that collects words without `=`, such as "data.root"; None: every word is key=value.
        inputs_help: what those words are; `inputs_name` stands for one of them in --help.
        plan: "package.module:function", called with the config by --dry-run; gives the text to print.
        again: what the same command does after Ctrl-C.
    """

    schema: type
    action: str
    config: str | None
    description: str
    inputs: str | None = None
    inputs_help: str = "photos, folders, .zip files or globs of these"
    inputs_name: str = "IMAGE"
    plan: str = "hyperinverter.models.plan:dry_run"
    again: str = ANEW
    needs_images: bool = True  # where `inputs` is data.root: without any the command has nothing to do
    looks_itself: bool = False  # the action names missing photos itself, together with whatever else is missing


def run(command: Command, argv: Sequence[str], program: str | None = None) -> None:
    """Parse the command line, load the config, and call the command's action with it.

    Args:
        argv: the words after the command's name.
        program: how --help calls the command; None: by the script's file name.
    Raises:
        SystemExit: 2 after a mistake that the user can mend, 130 after Ctrl-C.
    """
    try:
        with signs_of_life(wanted=not _is_spoken_for()):
            _obey(command, argv, program)
        sys.stdout.flush()
    except ConfigError as error:
        count = f"{len(error.faults)} settings" if len(error.faults) > 1 else "one setting"
        stop(f"{count} to mend:\n  " + "\n  ".join(map(str, error.faults)), error)
    except BrokenPipeError:  # `| head` has seen enough; nothing more can be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(PIPE_CLOSED) from None
    except (UserError, ValueError, OSError) as error:
        if "--traceback" in argv or not is_users(error):
            raise
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            message += "; what was written before is whole: make room, or give another output=FOLDER"
        stop(message, error)
    except KeyboardInterrupt:
        if not _is_spoken_for():
            print(f"\nstopped; {command.again}", file=sys.stderr)
        raise SystemExit(130) from None


def _obey(command: Command, argv: Sequence[str], program: str | None) -> None:
    words = as_settings(argv, command.schema)
    parser = _parser(command, program)
    options, unknown = parser.parse_known_intermixed_args(words)
    file = _config_file(command, options.config, [*options.words, *unknown])
    if options.help:
        print(parser.format_help() + settings_help(command.schema, load_config(command.schema, file)))
        return
    if bad_options := [word for word in unknown if word.startswith("-")]:
        there = next((word for word in bad_options if os.path.exists(word)), None)
        path = f"; the file of that name is written ./{there}" if there and command.inputs else ""
        raise UserError(f"no such option: {' '.join(bad_options)}; settings are written key=value or --key value{path}")
    settings = overrides([*options.words, *unknown], command.schema, command.inputs)
    config: Any = load_config(command.schema, file, settings)
    if (options.print_config or options.dry_run) and not _is_spoken_for():
        print(to_yaml(config), end="")
    if options.dry_run and not _is_spoken_for():
        with doing("loading PyTorch"):
            dry_run = _import(command.plan)
        print("\n" + dry_run(config))
    if not (options.print_config or options.dry_run):
        if not command.looks_itself:
            _check_inputs(config, given=command.inputs == INPUT_PATHS[0] and command.needs_images)
        with _output_folder(config):
            with doing("loading PyTorch"):
                keep_freed_memory()
                act = _import(command.action)
                from hyperinverter.utils.provenance import stated
            with stated(getattr(config, "provenance", True)):
                _checked_for_processes(act)(config)


def _config_file(command: Command, given: str | None, words: Sequence[str]) -> str | Path | None:
    """The config's file: that of --config, a path or the name of one of the command's own; without --config that of the
    domain named in `words`, where there is one, else the default one.

    Raises UserError: no config has that name.
    """
    own = list_configs(Path(command.config).parent) if command.config else {}
    if given is None:
        domain = next((word.partition("=")[2] for word in reversed(words) if word.startswith("domain=")), "")
        return own[domain] if domain in own and domain in list_domains() else command.config
    if os.path.isfile(given):
        return given
    path, name = given if Path(given).suffix else f"{given}.yaml", given.removesuffix(".yaml")
    if not own or Path(name).name != name or (name not in own and os.path.isfile(path)):
        return path
    if name not in own:
        raise UserError(f"--config: {unknown_name('config', name, own)}; or give the path of a YAML file")
    return own[name]


@contextlib.contextmanager
def _output_folder(config: Any) -> Iterator[None]:
    """The folder that the block writes into, if any: one that it makes and leaves empty is removed again.

    Raises UserError: it cannot be written; before hours are put into what goes there.
    """
    if getattr(config, "output", None):
        config.output = str(expanded(config.output))
    if not getattr(config, "output", None) or _is_spoken_for():
        yield
        return
    made = not_there(Path(config.output).absolute())
    check_writable(config.output)
    try:
        yield
    finally:
        remove_empty(made)


def _parser(command: Command, program: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=command.description, allow_abbrev=False, add_help=False, usage=argparse.SUPPRESS
    )
    name = command.inputs_name if command.inputs else ""
    parser.usage = f"{parser.prog} {f'[{name} ...] ' if name else ''}[KEY=VALUE ...] [options]"
    words = "KEY=VALUE, --KEY=VALUE or --KEY VALUE changes one setting"
    if command.inputs:
        words += f"; words without = are {command.inputs_help} ({command.inputs})"
    config = "YAML file (default: none)"
    if command.config:
        folder = Path(command.config).parent.as_posix()
        config = f"YAML file, or the name of one in {folder} (default: that of domain=NAME, else {command.config})"
    parser.add_argument("words", nargs="*", metavar=f"{name}|KEY=VALUE" if name else "KEY=VALUE", help=words)
    parser.add_argument("--config", metavar="FILE", help=config)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the plan, do nothing")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config only, at once")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    return parser


def _check_inputs(config: Any, given: bool) -> None:
    """Tell that photos or directions are missing before PyTorch is loaded; that photos must be `given`, too.

    Raises:
        MissingDataError: files or folders are not there; names all.
        FileNotFoundError: a direction is not there.
        UserError: none were given, or a folder of data.root holds none.
    """
    if given:
        check_given(config.data)
    faults = []
    for key in INPUT_PATHS:
        value = config
        for name in key.split("."):
            value = getattr(value, name, None)
        for root in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            try:
                expand(root)
            except MissingDataError as error:
                is_last = key == INPUT_PATHS[0] and isinstance(value, list) and value[1:][-1:] == [root]
                faults.append(f"{error}{'; a folder to write into is given as output=FOLDER' if is_last else ''}")
    if faults:
        raise MissingDataError("\n".join(dict.fromkeys(faults)))
    if root := getattr(getattr(config, "data", None), "root", None):
        _import("hyperinverter.data.sources:check_folders")(root)
    if hasattr(config, "edits"):
        _import("hyperinverter.releases.direction_files:check_directions")(config)


def _import(name: str) -> Callable[..., Any]:
    """A function by "module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def is_users(error: Exception) -> bool:
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


def stop(message: str, error: Exception | None = None) -> NoReturn:
    """Print a message as an error and end with its exit code, else that of a mistake that the user can mend."""
    close_bars()
    if not getattr(error, "is_reported", _is_spoken_for()):
        print(f"error: {printable(message, keep=chr(10))}", file=sys.stderr)
    raise SystemExit(getattr(error, "exit_code", UserError.exit_code)) from None


def settings_help(schema_class: type, config: Any) -> str:
    """All keys of a command, its own first, then sections; the sizes of the domain's networks come last.

    `config`: values that hold where the command line says nothing.
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
