"""An interpreter of the pickle opcodes that PyTorch writes.

The interpreter never imports or calls anything. Numbers, texts, tuples, lists and dicts become Python's own. Everything
else becomes a record: a reference to a name, or the construction of an object with its arguments. So a hostile pickle
can only build data, whose amount is bounded by the length of the pickle.

Source: CPython's pickletools.py, which describes every opcode.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

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
    """The value of a pickle, and all persistent ids in the pickle."""

    value: object
    persistent_ids: list[PersistentId]


def load(pickle: IO[bytes], most_opcodes: int) -> Loaded:
    """Interpret the pickle that begins at the position of a file. The position is then behind the pickle.

    Args:
        pickle: A binary file.
        most_opcodes: A longer pickle is refused.

    Raises:
        CheckpointError: The pickle is too long, or has an opcode that PyTorch does not write.
        Exception: The pickle is damaged. Errors have various types.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if count >= most_opcodes:
            raise CheckpointError(f"its pickle has more than {most_opcodes} opcodes: refused")
        if opcode.name in _PUSHED:
            machine.stack.append(argument)
        elif opcode.name in _OPERATIONS:
            _OPERATIONS[opcode.name](machine, argument)
        elif opcode.name not in ("PROTO", "FRAME", "STOP"):
            raise CheckpointError(f"its pickle has the opcode {opcode.name}, which PyTorch does not write: refused")
    (value,) = machine.stack
    return Loaded(value, machine.persistent_ids)


class _Machine:
    """The stack, the marks on the stack, and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.persistent_ids: list[PersistentId] = []

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


def _key(key: object) -> object:
    """A dict's key. A key that is no text or number is replaced, because its hash could be slow or recursive."""
    return key if key is None or isinstance(key, (bool, bytes, float, int, str)) else object()


_PUSHED = {  # opcodes whose argument is the value
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.last(1),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.since_mark()),
    "TUPLE1": lambda machine, _: machine.push_tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push_tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push_tuple(machine.last(3)),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append(machine.last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.last(2)),
    "REDUCE": lambda machine, _: machine.construct(2),
    "NEWOBJ": lambda machine, _: machine.construct(2),
    "NEWOBJ_EX": lambda machine, _: machine.construct(3),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.refer(),
    "BINPUT": lambda machine, argument: machine.put(argument),
    "LONG_BINPUT": lambda machine, argument: machine.put(argument),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "LONG_BINGET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
}
