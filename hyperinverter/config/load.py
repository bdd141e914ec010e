"""From a YAML file and `key=value` overrides to a typed, checked config, reporting every fault in one `ConfigError`.

Layers, each over the one before: the defaults of the dataclasses, the file named by `base:` (relative to the file that
names it), the file, the command line. `domain: NAME` stands for all of configs/domains/NAME.yaml and replaces what
earlier layers said about the domain; keys such as `domain.generator.w_dim` then change single values of it. A mapping
of free names (`loss_weights`, `directions`, `attributes`) written in a file replaces the one before;
`loss_weights.lpips=0.5` on the command line changes one entry. A value may quote another key:
`output: outputs/${domain.name}`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hyperinverter.config import checks
from hyperinverter.config.faults import ConfigError, Fault, did_you_mean, unknown_name
from hyperinverter.config.hints import all_keys, defaults_of, described, is_list
from hyperinverter.config.quotes import QUOTE, wrong_key, wrong_quote
from hyperinverter.config.rules import options
from hyperinverter.config.schema import SHARED_FILES, DomainConfig
from hyperinverter.config.words import list_of
from hyperinverter.config.yaml_text import dump_yaml, parse_value, read_yaml
from hyperinverter.utils.checkout import REPOSITORY
from hyperinverter.utils.text import expanded

COMMAND_LINE = "command line"
NEAR = 0.75  # likeness of a wrong key and one of another section, from which on that is suggested
T = TypeVar("T")
WhereIs = Callable[[str], str]  # full dotted key -> FILE:LINE


def load_config(schema_class: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read, merge, type and check a config.

    Args:
        path: a YAML file; a relative one is looked up in the current folder, then in the repository. None: defaults.
        overrides: `key.sub=value`, the value in YAML (`[1, 2]`, `null`, `true`).
    Raises:
        ConfigError: every fault found, one line each.
    """
    builder = _Builder(schema_class)
    if path is not None:
        builder.add_file(path)
    # a domain is named before single values of it are changed, in whatever order they were typed
    for text in sorted(overrides, key=lambda text: not text.startswith("domain=")):
        builder.add_override(text)
    return builder.build()


def load_domain(name_or_path: str | Path) -> DomainConfig:
    """The domain of configs/domains/NAME.yaml, or of any YAML file given by its path.

    Raises ConfigError: there is no such domain (lists those that exist), or the file has faults.
    """
    builder = _Builder(DomainConfig)
    builder.set_domain("", str(name_or_path), "", Path())
    return builder.build()


def to_yaml(config: Any) -> str:
    """The resolved config as YAML, every key written; loading it again gives an equal config."""
    return dump_yaml(asdict(config))


def list_configs(folder: str | Path) -> dict[str, Path]:
    """Name -> file of every config in `folder`, of the repository and of the current folder, which comes before it."""
    return {file.stem: file for root in reversed(_roots()) for file in sorted((root / folder).glob("*.yaml"))}


def list_domains() -> dict[str, Path]:
    """Name -> file of every domain, as `list_configs`."""
    return list_configs("configs/domains")


def _roots() -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), REPOSITORY]))


def _shown(path: Path) -> str:
    """A path as messages show it: relative to the current folder or the repository where it lies below one of them."""
    for root in _roots():
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return str(path)


class _Builder:
    """Merges layers into one typed tree and remembers where every value came from."""

    def __init__(self, schema_class: type) -> None:
        self.schema_class = schema_class
        self.tree = defaults_of(schema_class)
        self.origin: dict[str, str] = {}  # full dotted key -> FILE:LINE or "command line"
        self.faults: list[Fault] = []

    def add_file(self, path: str | Path) -> None:
        result = self._find(path, "", "")
        if result:
            self._add_file(result, self.schema_class, "", ())

    def _add_file(self, file: Path, schema_class: type, prefix: str, below: tuple[Path, ...]) -> None:
        """Apply a file (after its `base`) to the section `prefix` of the tree, whose class is `schema_class`."""
        shown = _shown(file)
        content = read_yaml(file, shown)
        self.faults += content.faults
        values, lines = content.values, {".".join(keys): line for keys, line in content.lines.items()}
        if "base" in values:
            base, where = values.pop("base"), f"{shown}:{lines['base']}"
            if not isinstance(base, str):
                self.faults.append(Fault(where, "base", f"expected the path of a YAML file, got {base!r}"))
            elif result := self._find(base, where, "base", file.parent):
                if result in (*below, file):
                    self.faults.append(Fault(where, "base", f"{base} leads back to this file; name another file"))
                else:
                    self._add_file(result, schema_class, prefix, (*below, file))

        def where_is(key: str) -> str:
            inner = key[len(prefix) + 1 :] if prefix else key
            while inner and inner not in lines:
                inner = inner.rpartition(".")[0]
            return f"{shown}:{lines[inner]}" if inner else shown

        self._add_section(values, schema_class, prefix, where_is, file.parent)

    def _add_section(
        self, values: dict[str, Any], schema_class: type, prefix: str, where_is: WhereIs, folder: Path
    ) -> None:
        hints = get_type_hints(schema_class)
        for name, value in values.items():
            key = f"{prefix}.{name}" if prefix else name
            if name not in hints:
                if not _is_of_another(name, schema_class):
                    self.faults.append(Fault(where_is(key), key, self._unknown_key(name, hints)))
            elif not is_dataclass(hints[name]):
                self._set(key, value, hints[name], where_is)
            elif isinstance(value, dict):
                self._add_section(value, hints[name], key, where_is, folder)
            elif hints[name] is DomainConfig and isinstance(value, str):
                self.set_domain(key, value, where_is(key), folder)
            else:
                example = f"{key}.{fields(hints[name])[0].name}"
                got = "nothing below it" if value is None else repr(value)
                message = f"is a section, got {got}; set its keys, such as {example}, or leave it out"
                self.faults.append(Fault(where_is(key), key, message))

    def add_override(self, text: str) -> None:
        """Apply one `key=value` of the command line."""
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key:
            message = f"{text!r} is neither an option nor key=value; write for instance output=outputs/mine"
            self.faults.append(Fault(COMMAND_LINE, "", message))
            return
        schema_class, names = self.schema_class, key.split(".")
        for depth, name in enumerate(names):
            hints, here = get_type_hints(schema_class), ".".join(names[: depth + 1])
            if name not in hints:
                message = self._unknown_key(name, hints)
                if "edits" in hints and type(_parsed(raw)) in (int, float):  # as model.edit(inversion, smile=2)
                    message += f"{'' if message.endswith('?') else '.'} An edit is written 'edits={{{name}: {raw}}}'"
                self.faults.append(Fault(COMMAND_LINE, here, message))
                return
            if not is_dataclass(hints[name]):
                self._override_value(key, raw, hints[name], here, names[depth + 1 :])
                return
            schema_class = hints[name]
        if schema_class is DomainConfig:
            self.set_domain(key, raw, COMMAND_LINE, Path.cwd())
        else:
            first = fields(schema_class)[0].name
            value = raw if type(_parsed(raw)) in options(get_type_hints(schema_class)[first]) else "VALUE"
            self.faults.append(Fault(COMMAND_LINE, key, f"is a section; set its keys, such as {key}.{first}={value}"))

    def _override_value(self, key: str, raw: str, hint: Any, field_key: str, rest: list[str]) -> None:
        if rest:  # below a value: only an entry of a mapping of free names can be meant
            if get_origin(hint) is not dict:
                self.faults.append(Fault(COMMAND_LINE, key, f"has nothing below it; write {field_key}=VALUE"))
                return
            hint = get_args(hint)[1]
        try:
            value = parse_value(raw)
        except ValueError as error:
            self.faults.append(Fault(COMMAND_LINE, key, str(error)))
            return
        # text stays as typed: output=2024_01 or data.root=a: b are names, where no number may stand; null stays null
        if type(value) not in {*options(hint), type(None)} - {str} or not raw.strip():
            if str in options(hint) and not raw.lstrip().startswith(("[", "'", '"')):
                value = raw
            elif is_list(hint) and raw.strip() and not raw.lstrip().startswith(("[", "{", "'", '"')):
                value = list_of(raw, hint)
        self._set(key, value, hint, lambda _: COMMAND_LINE)

    def set_domain(self, key: str, name_or_path: str, where: str, folder: Path) -> None:
        """Replace the section `key` ("" for a whole DomainConfig) by a domain named or given by its file."""
        file = list_domains().get(name_or_path)
        is_path = "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
        if file is None and not is_path:
            message = unknown_name("domain", name_or_path, list_domains())
            self.faults.append(Fault(where, key, f"{message}; or give the path of a YAML file"))
            return
        file = file or self._find(name_or_path, where, key, folder)
        if file is None:
            return
        fresh = defaults_of(DomainConfig, name=file.stem)
        if key:
            OmegaConf.update(self.tree, key, fresh, merge=False)
        else:
            self.tree = fresh
        self.origin = {k: v for k, v in self.origin.items() if not k.startswith(f"{key}.")}
        self.origin[key] = where
        self._add_file(file, DomainConfig, key, ())

    def _set(self, key: str, value: Any, hint: Any, where_is: WhereIs) -> None:
        allowed = options(hint)
        if wrong := wrong_quote(value):
            self.faults.append(Fault(where_is(key), key, wrong))
            return
        try:
            # OmegaConf is lenient with booleans (3 is true, true is the text "True"); a config is not the place for it
            if (isinstance(value, bool) and bool not in allowed) or (hint is bool and not isinstance(value, bool)):
                raise TypeError
            OmegaConf.update(self.tree, key, _as_lists(value, hint), merge=False)
            self.origin[key] = where_is(key)
        except (OmegaConfBaseException, TypeError, ValueError):
            hint_text = " or ".join(map(described, allowed))
            is_whole = isinstance(value, float) and value.is_integer()
            got = f"got {value!r}" + (f"; write {int(value)}" if is_whole and int in allowed else "")
            where = where_is(key)
            if where == COMMAND_LINE and any(get_origin(one) is dict for one in allowed):
                got += f"; write '{key}={{NAME: VALUE}}', with a space behind each colon"
            self.faults.append(Fault(where, key, f"expected {hint_text}, {got}"))

    def _unknown_key(self, name: str, hints: dict[str, Any]) -> str:
        """The nearest key: of this section, or of another section of this command."""
        leaves = [(key.rpartition(".")[2], key) for key in all_keys(self.schema_class)]
        near = get_close_matches(name, {*hints, *(leaf for leaf, _ in leaves)}, n=1, cutoff=NEAR)
        elsewhere = [key for leaf, key in leaves if leaf in near]
        close = near[0] if near and near[0] in hints else did_you_mean(name, hints)
        if close and (not elsewhere or close in near):
            return f"unknown key, did you mean {close}?"
        if elsewhere:
            return f"unknown key, did you mean {' or '.join(elsewhere[:3])}?"
        if name == "output" and "files" in hints:  # of convert
            return "unknown key; the last word without = is what is written: FILE OUT"
        return f"unknown key; known here: {', '.join(hints)}"

    def _find(self, path: str | Path, where: str, key: str, folder: Path | None = None) -> Path | None:
        """An existing file: absolute, or below `folder`, the current folder or the repository; otherwise a fault."""
        wanted = expanded(path)
        roots = [*([folder] if folder else []), *_roots()]
        for root in roots:
            if os.path.isfile(root / wanted):  # False too for a name that no file system takes
                return (root / wanted).resolve()
        parents = {(root / wanted).parent for root in roots}
        present = sorted({file.name for parent in parents if os.path.isdir(parent) for file in parent.glob("*.yaml")})
        looked = "" if wanted.is_absolute() else f" (looked in {', '.join(map(str, dict.fromkeys(roots)))})"
        message = f"no such file{looked}"
        if present:
            message += f"; there are {', '.join(present)}"
        self.faults.append(Fault(where or str(path), key, f"{str(path)[:200]}: {message}" if where else message))
        return None

    def build(self) -> Any:
        """The typed config, or a ConfigError that names all faults, those of single values and those between values."""
        try:
            whole = OmegaConf.to_container(self.tree)
            self._check_quoted(whole, "", whole)
            config = OmegaConf.to_object(self.tree)
        except (OmegaConfBaseException, RecursionError) as error:  # a ${key} of nothing, or of another type
            key = getattr(error, "full_key", None) or ""
            where = self.origin.get(key, "")
            raise ConfigError([*self.faults, Fault(where, key, str(error).splitlines()[0])]) from error
        faulty = {fault.key for fault in self.faults}
        for problem in checks.problems(config):
            is_kept = problem.if_typed and self._origin_of(problem.keys[0]) != COMMAND_LINE  # for later, in a file
            # a value that could not be read still has its default; what that contradicts is not the user's doing
            if not is_kept and not any(self._is_left_over(key, faulty) for key in problem.keys):
                where = next(filter(None, map(self._origin_of, problem.keys)), "")
                self.faults.append(Fault(where, problem.keys[0], problem.message))
        if self.faults:
            raise ConfigError(self.faults)
        return config

    def _check_quoted(self, values: Any, key: str, whole: Any) -> None:
        """Refuse keys that are quoted and must not be."""
        if isinstance(values, dict | list):
            for name, value in values.items() if isinstance(values, dict) else enumerate(values):
                self._check_quoted(value, f"{key}.{name}".removeprefix("."), whole)
            return
        for quoted in QUOTE.findall(values) if isinstance(values, str) else ():
            if message := wrong_key(quoted, whole):
                raise ConfigError([*self.faults, Fault(self._origin_of(key), key, message)])

    def _is_left_over(self, key: str, faulty: set[str]) -> bool:
        """Whether a key stands at its default only because it, a part of it, or the section around it is faulty."""
        parts = any(bad == key or bad.startswith(f"{key}.") for bad in faulty)
        around = any(key.startswith(f"{bad}.") for bad in faulty if bad)
        return parts or (around and key not in self.origin)

    def _origin_of(self, key: str) -> str:
        while key and key not in self.origin:
            key = key.rpartition(".")[0]
        return self.origin.get(key, "")


def _parsed(raw: str) -> Any:
    """What a value of the command line is; None where it cannot be read."""
    try:
        return parse_value(raw)
    except ValueError:
        return None


def _is_of_another(name: str, schema_class: type) -> bool:
    """Whether another command that reads the same files has this key."""
    return any(name in get_type_hints(c) for line in SHARED_FILES if issubclass(schema_class, line) for c in line)


def _as_lists(value: Any, hint: Any) -> Any:
    """One value where a list is expected as a list of it, also among the values of a mapping."""
    if is_list(hint) and value is not None and not isinstance(value, list | dict):
        return [value]
    if get_origin(hint) is dict and isinstance(value, dict):
        return {name: _as_lists(one, get_args(hint)[1]) for name, one in value.items()}
    return value
