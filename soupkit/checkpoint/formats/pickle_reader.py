"""Reads a pickle as the data that it is: nothing is imported, nothing is called.

A pickle is a program for a small stack machine (https://github.com/python/cpython/blob/main/Lib/pickletools.py). Here
names of classes and functions stay names, and what would be a call is kept as one, to be looked at: so anything may
stand in a file beside its weights, and none of it can do harm. Everything takes time and memory in proportion to the
file's size.
"""

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class PickleError(Exception):
    """The bytes are no pickle, or one that this machine does not read."""


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a class or a function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """An object that a pickle asks to be made: what is called with what, and what is put into the result after it:
    its state, its items where it is like a list, its entries where it is like a dict."""

    function: object
    arguments: object
    state: object = None
    items: list[object] = field(default_factory=list)
    entries: dict[Any, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """Something that is kept outside of the pickle: a storage of weights, by what names it."""

    key: object


# Made as plain dicts: nothing of what they are more matters here.
_DICTS = (Name("collections", "OrderedDict"), Name("collections", "defaultdict"))
_PLAIN_KEYS = (str, int, float, bool, bytes, type(None), Name, Call, Persistent)
_VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
})  # fmt: skip
_MARK = object()


def read_data(data: bytes) -> object:
    """Return the object that the pickle `data` describes: numbers, text, bytes, lists, tuples (frozen sets too), dicts,
    `Name`, `Call` and `Persistent`. Raises PickleError."""
    try:
        return _Machine().run(data)
    except PickleError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise PickleError(f"its pickle is damaged: {str(error)[:200]}") from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name == "STOP":
                return self.pop()
            elif (step := _STEPS.get(opcode.name)) is not None:
                step(self, argument)
            else:
                raise PickleError(f"its pickle uses {opcode.name}, which torch.save never writes")
        raise PickleError("its pickle has no end")

    def pop(self) -> Any:
        top = self.stack.pop()
        if top is _MARK:
            raise PickleError("its pickle is damaged: a mark stands where a value should")
        return top

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (top := self.stack.pop()) is not _MARK:
            values.append(top)
        values.reverse()
        return values

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise PickleError("its pickle is damaged: a mark stands where a value should")
        return self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, list):
            raise PickleError("its pickle is damaged: it appends to what is no list")
        items.extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.top()
        entries = target.entries if isinstance(target, Call) else target
        if not isinstance(entries, dict) or len(values) % 2:
            raise PickleError("its pickle is damaged: it sets entries of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if _checked_key(key) in entries:
                raise PickleError(f"its pickle is damaged: a dict has the key {key!r:.80} twice")
            entries[key] = value

    def call(self, arguments: Any, keywords: object = None) -> None:
        function = self.pop()
        if function in _DICTS if isinstance(function, Name) else False:
            self.stack.append({})
        else:
            self.stack.append(Call(function, arguments, keywords))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Call):
            target.state = state


def _checked_key(key: Any) -> Any:
    """Return `key` where it can be hashed without going deep: a tuple of tuples of tuples could overflow the stack."""
    if isinstance(key, _PLAIN_KEYS) or (isinstance(key, tuple) and all(isinstance(k, _PLAIN_KEYS) for k in key)):
        return key
    raise PickleError("its pickle has a dict with a key that is neither text nor a number")


def _push(make: Callable[[], object]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(make())


def _protocol(machine: _Machine, argument: Any) -> None:
    if argument > pickle.HIGHEST_PROTOCOL:
        raise PickleError(f"its pickle claims protocol {argument}; the latest is {pickle.HIGHEST_PROTOCOL}")


def _remember(machine: _Machine, argument: Any) -> None:
    machine.memo[int(argument)] = machine.top()


def _recall(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[int(argument)])


def _memoize(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, argument: Any) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return step


def _name(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(" ")
    machine.stack.append(Name(module, name))


def _stack_name(machine: _Machine, argument: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(Name(str(module)[:200], str(name)[:200]))


def _reduce(machine: _Machine, argument: Any) -> None:
    machine.call(machine.pop())


def _new_with_keywords(machine: _Machine, argument: Any) -> None:
    keywords, arguments = machine.pop(), machine.pop()
    machine.call(arguments, keywords)


def _instance(machine: _Machine, argument: Any) -> None:
    arguments = tuple(machine.pop_to_mark())
    module, _, name = str(argument).partition(" ")
    machine.stack.append(Call(Name(module, name), arguments))


def _object(machine: _Machine, argument: Any) -> None:
    function, *arguments = machine.pop_to_mark()
    machine.stack.append(Call(function, tuple(arguments)))


def _dict_of_marked(machine: _Machine, argument: Any) -> None:
    values = machine.pop_to_mark()
    machine.stack.append({})
    machine.update(values)


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _protocol,
    "FRAME": lambda machine, argument: None,
    "MARK": _push(lambda: _MARK),
    "POP": lambda machine, argument: machine.stack.pop(),
    "POP_MARK": lambda machine, argument: machine.pop_to_mark(),
    "DUP": lambda machine, argument: machine.stack.append(machine.top()),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_LIST": _push(list),
    "EMPTY_SET": _push(list),
    "EMPTY_TUPLE": _push(tuple),
    "EMPTY_DICT": _push(dict),
    "LIST": lambda machine, argument: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine, argument: machine.stack.append(tuple(machine.pop_to_mark())),
    "FROZENSET": lambda machine, argument: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict_of_marked,
    "APPEND": lambda machine, argument: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, argument: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, argument: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, argument: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine.update(machine.pop_to_mark()),
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": _memoize,
    "GET": _recall,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": lambda machine, argument: machine.build(),
    "PERSID": lambda machine, argument: machine.stack.append(Persistent(argument)),
    "BINPERSID": lambda machine, argument: machine.stack.append(Persistent(machine.pop())),
}
