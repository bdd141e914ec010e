"""YAML in and out, stricter than PyYAML: every key remembers its line, duplicate keys are faults, numbers are numbers.

PyYAML alone follows YAML 1.1, where `1e-4` is a string, `1:30` is 90, `no` is false, `010` is 8 and a repeated key
silently wins. Here `1e-4` is a number, only `true` and `false` (also `True`, as Python writes it) are booleans, and the
rest stays the text it was.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from hyperinverter.config.faults import Fault
from hyperinverter.utils.errors import DAMAGED, reason_of

FLOAT = re.compile(
    r"""(?:[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?  # 1.  1.5  1.5e-4
      |\.\d[\d_]*(?:[eE][-+]?\d+)?                    # .5  .5e-4
      |\d[\d_]*[eE][-+]?\d+                            # 1e-4
      |\.inf)
      |\.nan)$""",
    re.VERBOSE,
)
MOST_BYTES = 200_000  # of a text; the longest config here has 10,000
MOST_VALUES = 20_000  # in it, written out


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # none of YAML 1.1's; ours follow


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][\d_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Lists on one line; quotes text that the loader above would take for a number."""

    def represent_inline(self, values: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(list, _Dumper.represent_inline)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


@dataclass
class YamlFile:
    """A parsed file: plain values, the line of every key (by its path of keys), and what was wrong with the text."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def read_yaml(path: Path, shown_as: str) -> YamlFile:
    """Read a YAML file whose top level is a mapping; nothing is raised, faults are returned.

    `shown_as`: how messages call it.
    """
    result = YamlFile()
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            result.faults.append(Fault(shown_as, "", f"has {size} bytes; a config has at most {MOST_BYTES}"))
            return result
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        result.faults.append(Fault(shown_as, "", f"cannot be read as text: {error}"))
        return result
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:  # an empty file, or only comments: every default stands
            return result
        if not isinstance(root, yaml.MappingNode):
            result.faults.append(
                Fault(f"{shown_as}:1", "", "expected lines `key: value`, got a single value or a list")
            )
            return result
        _check_size(root)
        result.values = _plain(loader, root, (), shown_as, result)
    except (yaml.YAMLError, *DAMAGED) as error:  # the last ones: `!!timestamp x`, an alias inside itself
        mark = getattr(error, "problem_mark", None)
        where = f"{shown_as}:{mark.line + 1}" if mark else shown_as
        problem = getattr(error, "problem", None) or reason_of(error)
        hint = "; indent with spaces, not tabs" if "\\t" in problem else ""
        result.faults.append(Fault(where, "", f"is not valid YAML: {problem}{hint}"))
    return result


def _check_size(root: yaml.Node) -> None:
    """Refuse a text whose aliases stand for very many values, or for themselves; each counts wherever it appears.

    Raises ValueError: there are more than MOST_VALUES.
    """
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if count + len(waiting) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES} values")


def _plain(loader: _Loader, node: yaml.Node, keys: tuple[str, ...], shown_as: str, result: YamlFile) -> Any:
    """Plain Python values of a node; notes lines and duplicate keys on the way."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, keys, shown_as, result) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        path = (*keys, key)
        if key in values:
            first = result.lines[path]
            message = f"is written twice (first in line {first}); keep one of them"
            result.faults.append(Fault(f"{shown_as}:{line}", ".".join(path), message))
            continue
        result.lines[path] = line
        values[key] = _plain(loader, value_node, path, shown_as, result)
    return values


def parse_value(text: str) -> Any:
    """The value of a `key=value` from the command line; text that is not YAML (a glob such as *.zip) stays text.

    Raises ValueError: a list or mapping that does not close.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"has {len(text)} characters; at most {MOST_BYTES} are read")
        if (root := _Loader(text).get_single_node()) is not None:
            _check_size(root)
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except yaml.YAMLError as error:
        if text.lstrip().startswith(("[", "{")):
            raise ValueError(f"cannot be read: {getattr(error, 'problem', None) or error}") from error
        return text
    except ValueError:
        raise
    except DAMAGED as error:  # `!!timestamp x`
        raise ValueError(f"cannot be read: {reason_of(error)}") from error


def dump_yaml(values: dict[str, Any]) -> str:
    """Block style in the given order, lists on one line; `read_yaml` gives the same values back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
