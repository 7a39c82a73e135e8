"""A reader of pickles that imports and calls nothing: they become numbers, containers, tensors and records.

No object of Python's or torch's that could be called ever lies on its stack. A name in a pickle stays a name,
:class:`Global`; what a pickle builds by calling one becomes a :class:`Record` of the call, unless the name is in a
table of builders, which take and return plain values.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeAlias

from adapters.weights.pickle_records import AttackError, Global, InertPickleError, Record

#: Functions by the name under which a pickle asks for them; they are given what the pickle holds, so they check it.
Builders: TypeAlias = Mapping[str, Callable[..., Any]]

#: Modules of Python 2, by their present names.
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def read_pickle(stream: BinaryIO, builders: Builders, load_persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read one pickle of any protocol from a stream, which is left behind its end.

    Args:
        stream: seekable, of bytes.
        builders: called for the names that they are listed under.
        load_persistent: turns a persistent id into a value; None refuses them.

    Raises:
        InertPickleError: the data are damaged, or use what no checkpoint does.
        AttackError: the pickle calls what would run a program.
    """
    machine = _Machine(builders, load_persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _LITERALS:
                machine.stack.append(argument)
            elif (operation := _OPERATIONS.get(opcode.name)) is not None:
                operation(machine, argument)
            else:
                raise InertPickleError(f"it uses the operation {opcode.name}")
        return machine.stack.pop()
    except InertPickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InertPickleError(f"{type(error).__name__}: {error}") from error
    except (RuntimeError, MemoryError) as error:  # torch's, about a tensor that does not lie within its data
        raise InertPickleError(str(error)) from error


#: Operations that push their own argument.
_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
    ]
)


class _Machine:
    """The stack of a pickle that is being read."""

    def __init__(self, builders: Builders, load_persistent: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._builders = builders
        self._load_persistent = load_persistent

    def mark(self) -> None:
        """Start a group of values."""
        self._outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Return the group of values since the last mark."""
        group, self.stack = self.stack, self._outer.pop()
        return group

    def wrap(self, count: int) -> None:
        """Make a tuple of the last values."""
        if len(self.stack) < count:
            raise InertPickleError("its stack is empty")
        group = tuple(self.stack[len(self.stack) - count :])
        self.stack[len(self.stack) - count :] = [group]

    def name(self, module: Any, name: Any) -> None:
        """Push a name."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise InertPickleError("it names a class by what is no name")
        self.stack.append(Global(f"{_RENAMED_MODULES.get(module, module)}.{name}"))

    def call(self, called: Any, arguments: Any) -> None:
        """Push what a call gives: a plain value for the names that have a builder, else a record."""
        if not isinstance(called, Global | Record) or not isinstance(arguments, tuple):
            raise InertPickleError(f"it calls a {type(called).__name__}")
        if isinstance(called, Global) and called.is_attack:
            raise AttackError(called.path)
        builder = self._builders.get(called.path) if isinstance(called, Global) else None
        self.stack.append(Record(called.path, arguments) if builder is None else builder(*arguments))

    def make(self) -> None:
        """Push an object of a class, from the class, its arguments, and its arguments by name."""
        named, arguments, called = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.call(called, arguments)
        if isinstance(self.stack[-1], Record) and isinstance(named, dict):
            self.stack[-1].arguments += tuple(named.values())

    def build(self) -> None:
        """Give the last object its state; of a dictionary's, the versions of a model's modules are kept."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and "_metadata" in state:
            vars(target)["_metadata"] = state["_metadata"]
        elif isinstance(target, Global | int | str | bytes | tuple | None):
            raise InertPickleError(f"it sets attributes of a {type(target).__name__}")

    def extend(self, values: list[Any]) -> None:
        """Append to the last list or record, or add to the last set."""
        target = self.stack[-1]
        if type(target) is set:
            target.update(plain_key(value) for value in values)
        elif type(target) is list:
            target.extend(values)
        elif isinstance(target, Record):
            target.values.extend(values)
        else:
            raise InertPickleError(f"it appends to a {type(target).__name__}")

    def set_items(self, pairs: list[Any]) -> None:
        """Set items of the last dictionary or record: keys and values in turn."""
        target = self.stack[-1].entries if isinstance(self.stack[-1], Record) else self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(pairs) % 2:
            raise InertPickleError(f"it sets items of a {type(target).__name__}")
        target.update((plain_key(key), value) for key, value in zip(pairs[::2], pairs[1::2], strict=True))

    def persistent(self, identity: Any) -> None:
        """Push what a persistent id stands for."""
        if self._load_persistent is None:
            raise InertPickleError("it refers to data outside of it")
        self.stack.append(self._load_persistent(identity))

    def remember(self, index: int | None) -> None:
        """Put the last value into the memo."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]


def plain_key(key: Any) -> Any:
    """Return a key that is quickly and safely hashed: a container becomes a record."""
    return key if isinstance(key, str | int | float | bytes | Record | Global | None) else Record(type(key).__name__)


def _pop_group(machine: _Machine, make: Callable[[list[Any]], Any]) -> None:
    group = machine.pop_mark()
    machine.stack.append(make(group))


def _pairs(group: list[Any]) -> dict[Any, Any]:
    return {plain_key(key): value for key, value in zip(group[::2], group[1::2], strict=True)}


def _call_grouped(machine: _Machine, name: str | None) -> None:
    """Call with the values since the mark; the first of them is the class where no name is given."""
    group = machine.pop_mark()
    if name is None:
        machine.stack.append(group.pop(0))
    else:
        machine.name(*name.split(" ", 1))
    called = machine.stack.pop()
    machine.call(called, tuple(group))


def _reduce(machine: _Machine) -> None:
    arguments = machine.stack.pop()
    machine.call(machine.stack.pop(), arguments)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _stack_global(machine: _Machine) -> None:
    name = machine.stack.pop()
    machine.name(machine.stack.pop(), name)


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


_OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _machine, _argument: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.stack.append(m.memo[index])),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_SET": lambda m, _: m.stack.append(set()),
    "LIST": lambda m, _: _pop_group(m, list),
    "TUPLE": lambda m, _: _pop_group(m, tuple),
    "DICT": lambda m, _: _pop_group(m, _pairs),
    "FROZENSET": lambda m, _: _pop_group(m, lambda group: frozenset(map(plain_key, group))),
    "TUPLE1": lambda m, _: m.wrap(1),
    "TUPLE2": lambda m, _: m.wrap(2),
    "TUPLE3": lambda m, _: m.wrap(3),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: _pop(m),
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.pop_mark()),
    "SETITEM": lambda m, _: _set_item(m),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "GLOBAL": lambda m, path: m.name(*path.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _stack_global(m),
    "REDUCE": lambda m, _: _reduce(m),
    "INST": _call_grouped,
    "OBJ": lambda m, _: _call_grouped(m, None),
    "NEWOBJ": lambda m, _: _reduce(m),
    "NEWOBJ_EX": lambda m, _: m.make(),
    "BUILD": lambda m, _: m.build(),
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda m, _: m.persistent(m.stack.pop()),
}
