"""What can be wrong with a config: one `Fault` each, gathered so that a user sees all of them in one `ConfigError`."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from hyperinverter.utils.errors import UserError


@dataclass(frozen=True)
class Fault:
    """One thing to mend. `where` is FILE:LINE or "command line"; `key` the full dotted key, empty for a whole file."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        # a message that opens with the value reads on from the key: `start_step (600000) must be below ...`
        named = f"{self.key} {self.message}" if self.key and self.message.startswith("(") else None
        parts = (self.where, named) if named else (self.where, self.key, self.message)
        return ": ".join(part for part in parts if part)


class ConfigError(UserError, ValueError):
    """All that is wrong with a config, one line per fault: where, which key, what is wrong, what to write instead."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(dict.fromkeys(faults))  # a base file named twice reports once
        super().__init__("\n".join(map(str, self.faults)))


def did_you_mean(wrong: str, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one, None if nothing is close."""
    matches = get_close_matches(wrong.lower(), sorted(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(kind: str, wrong: str, known: Iterable[str]) -> str:
    """`no such loss 'lpip'; did you mean lpips? Known: ...`"""
    known = sorted(known)
    close = did_you_mean(wrong, known)
    hint = f"did you mean {close}? Known" if close else "known"
    return f"no such {kind} {wrong!r}; {hint}: {', '.join(known) or 'none'}"
