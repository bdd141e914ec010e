"""What the pickle machine works with: a budget of work, names that a file may use, and mappings with a name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hyperinverter.pretrained.reading.refusal import Refused

STEPS = 2_000_000  # the largest published checkpoint with optimizer states needs about 100 000
CONTAINER_STEPS = 4  # an empty set takes 216 bytes for one byte of file, so containers count more than numbers
SPARE_BYTES = 2**24
LARGEST_KEY = 2**61 - 1  # smaller integers hash to themselves: no file can make all keys collide


@dataclass
class Budget:
    """How much work one file may still ask for, shared by everything nested in it."""

    steps: int = STEPS
    copied_bytes: int = SPARE_BYTES

    @classmethod
    def of(cls, file_bytes: int) -> "Budget":
        """For a file of that size: its bytes may be copied twice (unaligned numbers, the other byte order)."""
        return cls(copied_bytes=2 * file_bytes + SPARE_BYTES)

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Refused(f"it asks for more than {STEPS} steps to be read, far more than any checkpoint needs")

    def copy(self, count: int) -> None:
        """About to copy that many bytes out of the file."""
        self.copied_bytes -= count
        if self.copied_bytes < 0:
            raise Refused("it asks for many times its own size in memory")


@dataclass(frozen=True, eq=False)
class Global:
    """A name that a file may use.

    Attributes:
        name: as the file writes it, "module name".
        make: (budget, *arguments) -> inert value; None when it can only be handed on, as a dtype.
    """

    name: str
    make: Callable[..., Any] | None = None


class Buildable:
    """A value that takes its content in a second step, the BUILD instruction."""

    def build(self, budget: Budget, state: Any) -> None:
        raise Refused(f"a {type(self).__name__} takes no state")


class Held(dict, Buildable):
    """A mapping that the file names: OrderedDict, defaultdict, Counter, EasyDict, Namespace."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def fill(self, budget: Budget, items: Any) -> "Held":
        """From a mapping or from pairs."""
        pairs = list(items.items()) if isinstance(items, dict) else items
        if not isinstance(pairs, list | tuple):
            raise Refused(f"{self.kind} is made from a {type(items).__name__}")
        budget.spend(len(pairs))
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise Refused(f"{self.kind} is made from something other than pairs")
            self[checked_key(pair[0])] = pair[1]
        return self

    def build(self, budget: Budget, state: Any) -> None:
        if state is not None and not isinstance(state, dict):
            raise Refused(f"{self.kind} has a {type(state).__name__} as its state")
        if self.kind == "Namespace":  # its attributes are its content; the others' (as `_metadata`) are bookkeeping
            self.fill(budget, state or {})


def checked_key(key: Any) -> Any:
    """A key of a mapping or member of a set; hashing anything else could overflow the stack or take for ever."""
    if key is None or type(key) in (str, bytes, bool) or (type(key) is int and abs(key) < LARGEST_KEY):
        return key
    raise Refused(f"a {type(key).__name__} is used as a key; keys are text, bytes and integers")
