"""A pickle machine that calls nothing of the file's choosing.

Python's own unpickler imports what a file names and calls it. This one reads the same instructions, but a name is only
looked up in a table, and everything in that table is a constructor of this folder that makes an inert value. No module
is imported, no attribute is fetched, set or called by a name from the file, so there is nothing for code to hang on.
What `torch.load(weights_only=True)` admits is admitted here too, with two differences: the work a file can ask for is
bounded, and no tensor can reach beyond the bytes that the file really holds.

Format: the instruction set of Python's pickle protocols 2 to 5 (Python standard library, pickletools).
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from hyperinverter.pretrained.reading.refusal import Refused, cut_short, shown
from hyperinverter.pretrained.reading.values import CONTAINER_STEPS, Budget, Buildable, Global, checked_key

LONGEST_INTEGER_BYTES = 64
SMALL_BYTES = 4096  # longer byte strings stay views of the file


class Machine:
    """Runs one pickle.

    Args:
        data: the file, or the part of it that holds the pickle.
        table: "module name" -> what the name stands for: a Global, or a constant.
        budget: shared by all machines of a file.
        start: where in `data` the pickle begins; `position` says where it ended.
        persistent: what a persistent id stands for; None when the format has none.
        unknown: (module, name) -> the refusal of a name that is not in the table.
    """

    def __init__(
        self,
        data: memoryview,
        table: Mapping[str, Any],
        budget: Budget,
        *,
        start: int = 0,
        persistent: Callable[[Any], Any] | None = None,
        unknown: Callable[[str, str], Refused] | None = None,
    ) -> None:
        self.data, self.table, self.budget = data, table, budget
        self.position, self.persistent, self.unknown = start, persistent, unknown
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            Refused: damaged, too much work, or a name or instruction that is not allowed.
        """
        while True:
            self.budget.spend(1)
            code = self.take(1)[0]
            if code == STOP:
                return self.pop()
            step = STEPS_BY_CODE.get(code)
            if step is None:
                raise Refused(f"it uses pickle instruction {hex(code)}, which no checkpoint needs")
            step(self)

    # -------------------------------------------------------------------------------------- bytes and stack

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise cut_short(f"{count} bytes are needed at byte {self.position}, {len(self.data)} there are")
        part = self.data[self.position : end]
        self.position = end
        return part

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Text up to the end of the line; only names of modules and classes are written so."""
        window = bytes(self.data[self.position : self.position + SMALL_BYTES])
        text, newline, _ = window.partition(b"\n")
        if not newline:
            raise Refused("a name in it does not end")
        self.position += len(text) + 1
        return text.decode("utf-8", "replace")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Refused("it is damaged: its instructions do not fit together")
        return self.stack.pop()

    def top(self, kind: type, instruction: str) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            found = type(self.stack[-1]).__name__ if self.stack else "nothing"
            raise Refused(f"it is damaged: {instruction} is applied to {found}")
        return self.stack[-1]

    def mark(self) -> None:
        self.budget.spend(CONTAINER_STEPS)
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("it is damaged: its instructions do not fit together")
        items, self.stack = self.stack, self.marks.pop()
        return items

    # ------------------------------------------------------------------------------------------ plain values

    def container(self, value: Any) -> None:
        self.budget.spend(CONTAINER_STEPS)
        self.push(value)

    def text(self, length: str) -> None:
        self.push(str(self.take(self.number(length)), "utf-8", "surrogatepass"))

    def old_text(self, length: str) -> None:
        # Python 2 wrote text and raw bytes alike; Latin-1 keeps each byte, so numpy's raw bytes can be had back
        self.push(str(self.take(self.number(length)), "latin-1"))

    def bytes(self, length: str) -> None:
        part = self.take(self.number(length))
        self.push(bytes(part) if len(part) <= SMALL_BYTES else part)

    def integer(self, length: str) -> None:
        count = self.number(length)
        if not 0 <= count <= LONGEST_INTEGER_BYTES:
            raise Refused(f"it holds an integer of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def last(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.container(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        self.top(list, "APPEND").extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict, "SETITEM")
        if len(items) % 2:
            raise Refused("it is damaged: a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def add_items(self) -> None:
        items = self.since_mark()
        self.top(set, "ADDITEMS").update(checked_key(item) for item in items)

    def pair(self) -> list[Any]:
        value, key = self.pop(), self.pop()
        return [key, value]

    def dictionary(self) -> None:
        items = self.since_mark()
        self.container({})
        self.set_items(items)

    def frame(self) -> None:
        if self.number("<Q") > len(self.data) - self.position:
            raise cut_short("a frame is longer than the rest of the file")

    # ------------------------------------------------------------------------------------------ names, calls

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("it is damaged: the name of a class is no text")
        module = PYTHON_2_MODULES.get(module, module)
        key = f"{module} {name}"
        if key not in self.table:
            if self.unknown is not None:
                raise self.unknown(module, name)
            raise not_allowed(module, name)
        self.push(self.table[key])

    def call(self) -> None:
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, Global) or target.make is None:
            name = target.name if isinstance(target, Global) else f"a {type(target).__name__}"
            raise Refused(f"it calls {name}, which is not a function")
        if not isinstance(arguments, tuple):
            raise Refused(f"it calls {target.name} with a {type(arguments).__name__} in place of arguments")
        self.budget.spend(CONTAINER_STEPS)
        try:
            self.push(target.make(self.budget, *arguments))
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # what wrong arguments make of them
            raise Refused(f"it calls {target.name} with arguments that do not fit it ({shown(str(error))})") from error

    def build(self) -> None:
        state = self.pop()
        self.top(Buildable, "BUILD").build(self.budget, state)

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise Refused("it refers to objects outside the file")
        self.push(self.persistent(self.pop()))

    def put(self, index: int) -> None:
        self.memo[index] = self.top(object, "PUT")

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Refused(f"it is damaged: it refers to value {index}, which it does not hold")
        self.push(self.memo[index])


def not_allowed(module: str, name: str) -> Refused:
    """A name that is in no table: the message tells it, and nothing was looked up."""
    return Refused(
        f"it needs {shown(module)}.{shown(name)}, which is not among the plain types and tensors that are read; "
        f"nothing was run",
        "fetch the authors' file again, or have its owner save only the state_dict() of the network",
    )


PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
STOP = ord(".")

# Left out on purpose, so refused by number: INST, OBJ, EXT1/2/4, PERSID, NEWOBJ_EX, out-of-band buffers, and the text
# instructions of protocol 0.
STEPS_BY_CODE: dict[int, Callable[[Machine], None]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: Machine.frame,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("G"): lambda m: m.push(m.number(">d")),
    0x8A: lambda m: m.integer("<B"),
    0x8B: lambda m: m.integer("<i"),
    ord("X"): lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    ord("U"): lambda m: m.old_text("<B"),
    ord("T"): lambda m: m.old_text("<i"),
    ord("B"): lambda m: m.bytes("<I"),
    ord("C"): lambda m: m.bytes("<B"),
    0x8E: lambda m: m.bytes("<Q"),
    0x96: lambda m: m.bytes("<Q"),  # BYTEARRAY8
    ord("("): Machine.mark,
    ord("0"): lambda m: m.pop() if m.stack else m.since_mark(),  # POP of a lone mark drops the mark
    ord("1"): lambda m: m.since_mark(),
    ord("2"): lambda m: m.push(m.top(object, "DUP")),
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.last(1),
    0x86: lambda m: m.last(2),
    0x87: lambda m: m.last(3),
    ord("t"): lambda m: m.container(tuple(m.since_mark())),
    ord("]"): lambda m: m.container([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("l"): lambda m: m.container(m.since_mark()),
    ord("}"): lambda m: m.container({}),
    ord("s"): lambda m: m.set_items(m.pair()),
    ord("u"): lambda m: m.set_items(m.since_mark()),
    ord("d"): Machine.dictionary,
    0x8F: lambda m: m.container(set()),
    0x90: Machine.add_items,
    0x91: lambda m: m.container(frozenset(map(checked_key, m.since_mark()))),
    ord("c"): lambda m: m.find(m.line(), m.line()),
    0x93: lambda m: m.find(*reversed([m.pop(), m.pop()])),  # STACK_GLOBAL
    ord("R"): Machine.call,
    0x81: Machine.call,  # NEWOBJ: a class and a call are the same here, both are names of the table
    ord("b"): Machine.build,
    ord("Q"): Machine.persistent_id,
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number("<B")),
    ord("j"): lambda m: m.get(m.number("<I")),
}
