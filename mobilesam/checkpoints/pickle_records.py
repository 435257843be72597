"""An interpreter of the pickle opcodes that PyTorch writes.

The interpreter never imports or calls anything. Numbers, texts, tuples, lists and dicts become Python's own. Everything
else becomes a record: a reference to a name, or the construction of an object with its arguments. So a hostile pickle
can only build data, whose amount is bounded by the length of the pickle.

Values may be nested to any depth, and may contain themselves. A reader of the values must not recurse, and must not
hash, compare or format a value other than a number or a text.

Source: CPython's pickletools.py, which describes every opcode.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import CheckpointError


class Name(NamedTuple):
    """A reference to a class or function. It is never resolved."""

    module: str
    name: str


class PersistentId(NamedTuple):
    """A reference to data outside the pickle, such as a tensor's storage."""

    value: object


@dataclass(eq=False, slots=True)
class Record:
    """An object that the pickle asks to construct.

    Attributes:
        function: The class or function that would be called. Usually a `Name`.
        arguments: The arguments of the call.
        items: The items that would be set on the object, such as those of an OrderedDict.
        state: The state that would be set on the object, or None.
    """

    function: object
    arguments: object
    items: dict[object, object] = field(default_factory=dict)
    state: object = None


class Loaded(NamedTuple):
    """A pickle's content.

    Attributes:
        value: The value.
        persistent_ids: All persistent ids in the pickle.
        end: The place behind the pickle.
        opcodes: The number of opcodes.
    """

    value: object
    persistent_ids: list[PersistentId]
    end: int
    opcodes: int


def load(data: bytes, start: int, most_opcodes: int) -> Loaded:
    """Interpret a pickle.

    Args:
        data: Bytes that contain the pickle.
        start: The place of the pickle in `data`.
        most_opcodes: A longer pickle is refused.

    Raises:
        CheckpointError: The pickle is too long, is cut off, or has an opcode that PyTorch does not write.
        Exception: The pickle is damaged. Errors have various types.
    """
    machine = _Machine(data, start)
    for count in range(1, most_opcodes + 1):
        code = machine.byte()
        if code == _STOP:
            (value,) = machine.stack
            return Loaded(value, machine.persistent_ids, machine.place, count)
        operation = _BY_CODE.get(code)
        if operation is None:
            raise CheckpointError(
                f"its pickle has the opcode {_NAMES.get(code, code)}, which PyTorch does not write: refused"
            )
        operation(machine)
    raise CheckpointError(f"its pickle has more than {most_opcodes} opcodes: refused")


class _Machine:
    """The bytes of a pickle and the place of the next byte, and the stack, the marks on the stack, and the memo."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.persistent_ids: list[PersistentId] = []

    def byte(self) -> int:
        if self.place >= len(self.data):
            raise CheckpointError("its pickle is cut off")
        self.place += 1
        return self.data[self.place - 1]

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self.place += count
        if self.place > len(self.data):
            raise CheckpointError("its pickle is cut off")
        return self.data[self.place - count : self.place]

    def number(self, layout: str) -> Any:
        """The next number, in the layout of `struct`."""
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return value

    def sized(self, layout: str) -> bytes:
        """The next number, which is a length, and this number of bytes behind it."""
        return self.take(self.number(layout))

    def line(self) -> str:
        """The next bytes up to a newline. Raises ValueError if there is none among the next `_LONGEST_LINE` bytes."""
        end = self.data.index(b"\n", self.place, self.place + _LONGEST_LINE)
        line = self.data[self.place : end]
        self.place = end + 1
        return line.decode()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def last(self, count: int) -> list[Any]:
        """Pop this number of values."""
        if count > len(self.stack):
            raise IndexError("the stack is too short")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def push_tuple(self, values: list[Any]) -> None:
        self.stack.append(tuple(values))

    def append(self, values: list[Any]) -> None:
        """Add values to the list, or to the record, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Record):
            target.items.update((object(), value) for value in values)
        else:
            target.extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        """Set items of the dict, or of the record, on top of the stack. `pairs` alternates keys and values."""
        target = self.stack[-1]
        items = target.items if isinstance(target, Record) else target
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            items[_key(key)] = value

    def construct(self, count: int) -> None:
        """Replace a class and its arguments by a record. The last argument of NEWOBJ_EX, keywords, is left out."""
        function, arguments, *_ = self.last(count)
        self.stack.append(Record(function, arguments))

    def build(self) -> None:
        """Set the state of the record on top of the stack."""
        (state,) = self.last(1)
        target = self.stack[-1]
        if not isinstance(target, Record):
            raise CheckpointError("its pickle sets the state of a value that is no object: refused")
        target.state = state

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("its pickle refers to a name that is no text: refused")
        self.stack.append(Name(module, name))

    def refer(self) -> None:
        """Replace a persistent id by a reference."""
        self.persistent_ids.append(PersistentId(*self.last(1)))
        self.stack.append(self.persistent_ids[-1])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])


def _key(key: object) -> object:
    """A dict's key. Only a text can be a tensor's name.

    Another key is replaced, because a hash can be recursive, and because a file can choose numbers of equal hashes, for
    which a dict takes quadratic time.
    """
    return key if isinstance(key, str) else object()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_LONGEST_LINE = 1000  # bytes
_STOP = ord(".")
_OPERATIONS: dict[str, Callable[[_Machine], object]] = {
    "PROTO": lambda machine: machine.take(1),
    "FRAME": lambda machine: machine.take(8),
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "BININT": lambda machine: machine.push(machine.number("<i")),
    "BININT1": lambda machine: machine.push(machine.byte()),
    "BININT2": lambda machine: machine.push(machine.number("<H")),
    "LONG1": lambda machine: machine.push(int.from_bytes(machine.sized("<B"), "little", signed=True)),
    "BINFLOAT": lambda machine: machine.push(machine.number(">d")),
    "BINSTRING": lambda machine: machine.push(machine.sized("<I").decode("latin-1")),
    "SHORT_BINSTRING": lambda machine: machine.push(machine.sized("<B").decode("latin-1")),
    "BINUNICODE": lambda machine: machine.push(_text(machine.sized("<I"))),
    "SHORT_BINUNICODE": lambda machine: machine.push(_text(machine.sized("<B"))),
    "BINUNICODE8": lambda machine: machine.push(_text(machine.sized("<Q"))),
    "BINBYTES": lambda machine: machine.push(machine.sized("<I")),
    "SHORT_BINBYTES": lambda machine: machine.push(machine.sized("<B")),
    "BINBYTES8": lambda machine: machine.push(machine.sized("<Q")),
    "BYTEARRAY8": lambda machine: machine.push(machine.sized("<Q")),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "EMPTY_DICT": lambda machine: machine.push({}),
    "EMPTY_SET": lambda machine: machine.push([]),
    "MARK": lambda machine: machine.marks.append(len(machine.stack)),
    "POP": lambda machine: machine.last(1),
    "POP_MARK": lambda machine: machine.since_mark(),
    "TUPLE": lambda machine: machine.push_tuple(machine.since_mark()),
    "TUPLE1": lambda machine: machine.push_tuple(machine.last(1)),
    "TUPLE2": lambda machine: machine.push_tuple(machine.last(2)),
    "TUPLE3": lambda machine: machine.push_tuple(machine.last(3)),
    "LIST": lambda machine: machine.push(machine.since_mark()),
    "FROZENSET": lambda machine: machine.push(machine.since_mark()),
    "APPEND": lambda machine: machine.append(machine.last(1)),
    "APPENDS": lambda machine: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine: machine.append(machine.since_mark()),
    "SETITEM": lambda machine: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine: machine.name(machine.line(), machine.line()),
    "STACK_GLOBAL": lambda machine: machine.name(*machine.last(2)),
    "REDUCE": lambda machine: machine.construct(2),
    "NEWOBJ": lambda machine: machine.construct(2),
    "NEWOBJ_EX": lambda machine: machine.construct(3),
    "BUILD": lambda machine: machine.build(),
    "BINPERSID": lambda machine: machine.refer(),
    "BINPUT": lambda machine: machine.put(machine.byte()),
    "LONG_BINPUT": lambda machine: machine.put(machine.number("<I")),
    "MEMOIZE": lambda machine: machine.put(len(machine.memo)),
    "BINGET": lambda machine: machine.get(machine.byte()),
    "LONG_BINGET": lambda machine: machine.get(machine.number("<I")),
}
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_BY_CODE = {code: _OPERATIONS[name] for code, name in _NAMES.items() if name in _OPERATIONS}
