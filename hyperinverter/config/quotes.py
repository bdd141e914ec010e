"""Keys that a value quotes, as in `output: outputs/${domain.name}`; never the environment, nor a call."""

import re
from typing import Any

QUOTE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")  # ${domain.name}
MOST_QUOTES = 10  # in one value


def wrong_quote(value: Any) -> str | None:
    """What is wrong with the ${...} in a value: OmegaConf would also read the environment and call functions."""
    if isinstance(value, dict | list | tuple):
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return next(filter(None, map(wrong_quote, inside)), None)
    if not isinstance(value, str) or "${" not in value:
        return None
    rest, count = QUOTE.subn("", value)
    if "${" in rest:
        return f"only another key can be quoted, as ${{domain.name}}; got {value[:80]!r}: write the value itself"
    return None if count <= MOST_QUOTES else f"quotes {count} keys; write the value itself"


def wrong_key(quoted: str, whole: Any) -> str | None:
    """What is wrong with a quoted key of the `whole` config; one that quotes others in turn makes an endless text."""
    result = whole
    for name in quoted.split("."):
        if not isinstance(result, dict) or name not in result:
            return f"quotes {quoted}, which is no key here; of a variable of the shell write the value itself"
        result = result[name]
    if not isinstance(result, dict) and "${" in str(result):
        return f"quotes {quoted}, which quotes another key itself; write the value of one of them"
    return None
