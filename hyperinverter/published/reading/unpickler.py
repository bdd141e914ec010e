"""Python's own pickle reader with an allow-list of names and bounds on work and memory.

A pickle names functions and has them called. Here a name is only looked up in a table of constructors that check their
arguments and make inert values; no module is imported and no attribute of the file's choosing is fetched, set or
called. The reader is the standard library's in pure Python: the one in C keeps its memo in an array, of which a file
may ask for any size, and hashes tuples of any depth.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hyperinverter.published.reading.refusal import Budget, UnreadableFile, cut_short, shown

CONTAINER_STEPS = 4  # an empty set takes 216 bytes for one byte of file, so containers count more than numbers
LARGEST_KEY = 2**61 - 1  # smaller integers hash to themselves: no file can make all keys collide
SMALL_BYTES = 4096  # longer byte strings stay views of the file
PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(frozen=True, eq=False)
class Global:
    """A name that a file may use.

    Attributes:
        name: as the file writes it, "module name".
        make: arguments -> inert value; None when it can only be handed on, as a class.
    """

    name: str
    make: Callable[..., Any] | None = None


class Buildable:
    """A value that takes its content in a second step, the BUILD instruction."""

    def build(self, state: Any) -> None:
        raise UnreadableFile(f"a {type(self).__name__} takes no state")


class Stream:
    """A file, or a part of it, as the pickle reader wants it; `position` says how far it was read."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.position = data, 0

    def read(self, count: int) -> bytes | memoryview:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise cut_short(f"{count} bytes are needed at byte {self.position}, {len(self.data)} there are")
        part = self.data[self.position : end]
        self.position = end
        return bytes(part) if count <= SMALL_BYTES else part

    def readline(self) -> bytes:
        """Only names of modules and classes are written so."""
        line, newline, _ = bytes(self.data[self.position : self.position + SMALL_BYTES]).partition(b"\n")
        if not newline:
            raise UnreadableFile("a name in it does not end")
        self.position += len(line) + 1
        return line + newline


class _Steps(dict[int, Callable[..., None]]):
    def __missing__(self, code: int) -> Callable[..., None]:
        raise UnreadableFile(f"it uses pickle instruction {hex(code)}, which no checkpoint needs")


class Unpickler(pickle._Unpickler):
    """Reads pickles of a stream, one `load()` each.

    Args:
        table: "module name" -> what the name stands for: a Global, or a constant.
        budget: shared by everything nested in a file.
        persistent: what a persistent id stands for; None when the format has none.
        unknown: (module, name) -> the refusal of a name that is not in the table.
    """

    def __init__(
        self,
        stream: Stream,
        table: Mapping[str, Any],
        budget: Budget,
        *,
        persistent: Callable[[Any], Any] | None = None,
        unknown: Callable[[str, str], UnreadableFile] | None = None,
    ) -> None:
        super().__init__(stream)
        self.stream, self.table, self.budget, self.persistent, self.unknown = stream, table, budget, persistent, unknown

    def find_class(self, module: str, name: str) -> Any:
        module = PYTHON_2_MODULES.get(module, module)
        if (key := f"{module} {name}") not in self.table:
            raise (self.unknown or not_allowed)(module, name)
        return self.table[key]

    def persistent_load(self, identity: Any) -> Any:
        if self.persistent is None:
            raise UnreadableFile("it refers to objects outside the file")
        return self.persistent(identity)

    def _decode_string(self, value: bytes | memoryview) -> str:
        return str(value, "latin-1")  # Python 2 wrote text and raw bytes alike; so NumPy's raw bytes can be had back

    def _frame(self) -> None:
        if struct.unpack("<Q", self.read(8))[0] > len(self.stream.data) - self.stream.position:
            raise cut_short("a frame is longer than the rest of the file")

    def _call(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, Global) or target.make is None:
            name = target.name if isinstance(target, Global) else f"a {type(target).__name__}"
            raise UnreadableFile(f"it calls {name}, which is not a function")
        if not isinstance(arguments, tuple):
            raise UnreadableFile(f"it calls {target.name} with a {type(arguments).__name__} in place of arguments")
        for argument in arguments:  # of which it may make a copy
            if isinstance(argument, list | tuple | dict | set | frozenset):
                self.budget.spend(len(argument))
            elif isinstance(argument, str | bytes | memoryview):
                self.budget.copy(len(argument))
        try:
            self.append(target.make(*arguments))
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # what wrong arguments make of them
            raise UnreadableFile(
                f"it calls {target.name} with arguments that do not fit it ({shown(str(error))})"
            ) from error

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Buildable):
            raise UnreadableFile(f"it is damaged: a {type(self.stack[-1]).__name__} is given a state")
        if isinstance(state, dict):
            self.budget.spend(len(state))
        self.stack[-1].build(state)

    def _step(
        self, step: Callable[[Any], None], cost: int, keys: Callable[[Any], tuple[Any, Any, type]] | None
    ) -> None:
        """One instruction, with what has to hold before it."""
        self.budget.spend(cost)
        if keys is not None:
            members, target, kind = keys(self)
            if not isinstance(target, kind):
                raise UnreadableFile(f"it is damaged: keys are put into a {type(target).__name__}")
            for key in members:
                checked_key(key)
        step(self)


# instruction -> (reader -> what becomes a key or member, of what, and which kind that has to be)
KEYS = {
    "SETITEM": lambda reader: (reader.stack[-2:-1], reader.stack[-3], dict),
    "SETITEMS": lambda reader: (reader.stack[::2], reader.metastack[-1][-1], dict),
    "DICT": lambda reader: (reader.stack[::2], {}, dict),
    "ADDITEMS": lambda reader: (reader.stack, reader.metastack[-1][-1], set),
    "FROZENSET": lambda reader: (reader.stack, set(), set),
}


def checked_key(key: Any) -> Any:
    """A key of a mapping or member of a set; hashing anything else could overflow the stack or take for ever."""
    if key is None or type(key) in (str, bytes, bool) or (type(key) is int and abs(key) < LARGEST_KEY):
        return key
    raise UnreadableFile(f"a {type(key).__name__} is used as a key; keys are text, bytes and integers")


def not_allowed(module: str, name: str) -> UnreadableFile:
    """A name that is in no table: the message names it, and nothing was looked up."""
    return UnreadableFile(
        f"it needs {shown(module)}.{shown(name)}, which is not among the plain types and tensors that are read; "
        f"nothing was run",
        "fetch the authors' file again, or have its owner save only the state_dict() of the network",
    )


CONTAINERS = """MARK TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT DICT EMPTY_SET FROZENSET REDUCE NEWOBJ"""
# Left out on purpose, so refused by number: INST, OBJ, EXT1/2/4, PERSID, NEWOBJ_EX, out-of-band buffers, and the text
# instructions of protocol 0.
AS_THEY_ARE = """PROTO STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT LONG1 LONG4 BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 SHORT_BINSTRING BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 MARK POP POP_MARK DUP
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET
    ADDITEMS FROZENSET GLOBAL STACK_GLOBAL BINPERSID BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET"""
OWN = {"FRAME": Unpickler._frame, "BUILD": Unpickler._build, "REDUCE": Unpickler._call, "NEWOBJ": Unpickler._call,
       "BYTEARRAY8": Unpickler.load_binbytes8}  # fmt: skip  # a class and a call are the same here: names of the table


def _steps() -> _Steps:
    steps = _Steps()
    for name in [*AS_THEY_ARE.split(), *OWN]:
        code = getattr(pickle, name)[0]
        step = OWN.get(name) or pickle._Unpickler.dispatch[code]
        cost = CONTAINER_STEPS if name in CONTAINERS.split() else 1
        steps[code] = partial(Unpickler._step, step=step, cost=cost, keys=KEYS.get(name))
    return steps


Unpickler.dispatch = _steps()
