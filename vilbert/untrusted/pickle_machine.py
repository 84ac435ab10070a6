"""An interpreter for the opcodes of a pickle, independent of Python's own unpickler.

A pickle is a program. This machine builds lists, dicts, sets, tuples, strings and numbers. It imports nothing: a class
or function that a pickle names is replaced by the `Stub` that the caller provides, and only stubs are called.

Memory and time stay proportional to the size of the buffer: each length is compared with the bytes that are left
before it is used, the memo is a dict, whatever its keys, texts that are used again through the memo are counted, and so
is what a stub is given, which it may copy.
"""

from __future__ import annotations

import codecs
import mmap
import struct
from collections.abc import Callable
from typing import Any, NoReturn

Buffer = bytes | mmap.mmap


class PickleError(ValueError):
    """A pickle that is damaged, or uses operations that plain data does not need."""


class ForbiddenError(PickleError):
    """A pickle that names a class or function that is not allowed, or uses one in a way that is not allowed."""


class Stub:
    """Replacement for a class or function that a pickle names, and for the objects created from it."""

    __slots__ = ()

    def call(self, *arguments: Any) -> Any:
        """Return the result of calling the class or function with these arguments."""
        raise ForbiddenError(f"calls {self!r}")

    def set_state(self, state: Any) -> None:
        """Set the attributes of an object."""
        raise ForbiddenError(f"sets the state of {self!r}")

    def put(self, items: list[Any]) -> None:
        """Add items to an object that is a container."""
        raise ForbiddenError(f"puts items into {self!r}")


CONTAINERS = (list, dict, tuple, set, frozenset)
_PLAIN_KEYS = frozenset({str, bytes, int, float, bool, type(None)})
_MAX_INT_BYTES = 128
_MAX_INT_DIGITS = 310
_MAX_KEY_INT = 1 << 60  # larger integers can collide with the hash of smaller ones, which makes dicts slow
_MAX_KEY_TUPLE = 16
_MAX_MEMO = 1 << 32  # PUT accepts any index; pickle writes consecutive ones, and dicts of huge ones are slow
_ENTRY_BYTES = 16  # budget per entry of a container: copying it takes at least as many bytes


class Machine:
    """Runs one pickle."""

    __slots__ = ("_budget", "_encoding", "_lookup", "_memo", "_outer", "_persistent", "at", "data", "shares", "stack")

    def __init__(
        self,
        data: Buffer,
        start: int,
        *,
        lookup: Callable[[str, str], Any],
        persistent: Callable[[Any], Any],
        encoding: str,
        budget: int,
    ) -> None:
        self.data = data
        self.at = start
        self.stack: list[Any] = []
        self.shares = False
        """Whether a container may be in several places, or in itself."""
        self._outer: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._lookup = lookup
        self._persistent = persistent
        self._encoding = encoding
        self._budget = budget

    def run(self) -> Any:
        """Return the value of the pickle and leave `at` after its end.

        The operations used by lists of strings and numbers are inlined here for speed.
        """
        data, memo, handlers = self.data, self._memo, HANDLERS
        while True:
            at = self.at
            opcode = data[at]
            if opcode == 0x71:  # BINPUT
                memo[data[at + 1]] = self.stack[-1]
                self.at = at + 2
            elif opcode == 0x94:  # MEMOIZE
                memo[len(memo)] = self.stack[-1]
                self.at = at + 1
            elif opcode == 0x72:  # LONG_BINPUT
                memo[int.from_bytes(data[at + 1 : at + 5], "little")] = self.stack[-1]
                self.at = at + 5
            elif opcode == 0x8C:  # SHORT_BINUNICODE
                end = at + 2 + data[at + 1]
                self.stack.append(str(data[at + 2 : end], "utf-8"))
                self.at = end
            elif opcode == 0x58:  # BINUNICODE
                end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "little")
                self.stack.append(str(data[at + 5 : end], "utf-8"))
                self.at = end
            elif opcode == 0x28:  # MARK
                self._outer.append(self.stack)
                self.stack = []
                self.at = at + 1
            elif opcode == _STOP:
                self.at = at + 1
                return self.stack.pop()
            else:
                self.at = at + 1
                handler = handlers[opcode]
                if handler is None:
                    raise PickleError(f"holds the byte {opcode:#04x}, which is not an opcode of plain data")
                handler(self)

    # Arguments of opcodes, read from the buffer.

    def take(self, size: int) -> bytes:
        start = self.at
        self.at = start + size
        if self.at > len(self.data):
            raise PickleError(f"holds a value of {size:,} bytes, and has {len(self.data) - start:,} bytes left")
        return self.data[start : self.at]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        start = self.at
        end = self.data.find(b"\n", start)
        if end < 0:
            raise PickleError("ends within a line")
        self.at = end + 1
        return self.data[start:end]

    # Marks, memo.

    def mark(self) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """Return the items above the last mark."""
        items = self.stack
        self.stack = self._outer.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, index: int) -> None:
        if not 0 <= index < _MAX_MEMO:
            raise PickleError("uses an invalid memo index")
        self._memo[index] = self.stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push_again(self._memo[index])

    def push_again(self, value: Any) -> None:
        """Push a value that is also referenced elsewhere."""
        kind = type(value)
        if kind is str or kind is bytes:
            self._budget -= len(value)
            if self._budget < 0:
                raise PickleError("expands its strings to many times the size of the file")
        elif kind in CONTAINERS or kind is bytearray:
            self.shares = True
        self.stack.append(value)

    def charge(self, given: Any) -> None:
        """Charge the arguments of a stub to the budget: the memo repeats them cheaply, and a stub may copy them."""
        parts = given if type(given) in (tuple, list, dict) else (given,)
        self._budget -= _ENTRY_BYTES * len(parts)
        for part in parts:
            kind = type(part)
            if kind is str or kind is bytes or kind is bytearray:
                self._budget -= len(part)
            elif kind in CONTAINERS:
                self._budget -= _ENTRY_BYTES * len(part)
        if self._budget < 0:
            raise PickleError("expands its values to many times the size of the file")

    # Values.

    def number(self, text: bytes) -> None:
        if text in (b"00", b"01"):
            self.stack.append(text == b"01")
        else:
            self.long(text)

    def long(self, text: bytes) -> None:
        if len(text) > _MAX_INT_DIGITS:
            raise PickleError(f"holds an integer of {len(text):,} digits")
        self.stack.append(int(text.removesuffix(b"L")))

    def long_binary(self, size: int) -> None:
        if not 0 <= size <= _MAX_INT_BYTES:
            raise PickleError(f"holds an integer of {size:,} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def text(self, size: int) -> None:
        self.stack.append(str(self.take(size), "utf-8"))

    def escaped_text(self, line: bytes) -> None:
        text = str(line, "raw-unicode-escape")
        # Python 2 could write a character above U+FFFF as a surrogate pair; a lone surrogate is an error.
        self.stack.append(text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16"))

    def string(self, raw: bytes) -> None:
        """Push a string of Python 2."""
        self.stack.append(raw if self._encoding == "bytes" else str(raw, self._encoding))

    def quoted_string(self, line: bytes) -> None:
        line = line.strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
            raise PickleError("holds a string without quotes")
        self.string(codecs.escape_decode(line[1:-1])[0])  # the format is defined by it

    def frame(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise PickleError(f"holds a frame of {size:,} bytes, and has {len(self.data) - self.at:,} bytes left")

    def protocol(self, version: int) -> None:
        if version > 5:
            raise PickleError(f"is of protocol {version}, which does not exist")

    # Containers.

    def append_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif isinstance(target, Stub):
            target.put(items)
        else:
            raise PickleError(f"appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise PickleError("holds a key without a value")
        if isinstance(target, Stub):
            target.put(items)
        elif type(target) is dict:
            target.update(mapping(items))
        else:
            raise PickleError(f"sets items of a {type(target).__name__}")

    def add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        check_keys(items)
        if isinstance(target, Stub):
            target.put(items)
        elif type(target) is set:
            target.update(items)
        else:
            raise PickleError(f"adds to a {type(target).__name__}")

    def frozen_set(self, items: list[Any]) -> None:
        check_keys(items)
        self.stack.append(frozenset(items))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise PickleError("makes a tuple of more values than the stack holds")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    # What is named.

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise PickleError("refers to a class by a value that is not a string")
        self.stack.append(self._lookup(module, name))

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Stub) or type(arguments) is not tuple:
            raise PickleError(f"calls a {type(function).__name__}")
        self.charge(arguments)
        self.stack.append(function.call(*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub):
            self.charge(state)
            target.set_state(state)
        elif type(target) is not dict:  # the attributes of an OrderedDict are dropped
            raise PickleError(f"sets attributes of a {type(target).__name__}")

    def refer(self, pid: Any) -> None:
        self.charge(pid)
        self.stack.append(self._persistent(pid))


def check_keys(keys: list[Any]) -> None:
    """Refuse keys that are expensive to hash, or that can be chosen to collide with others."""
    kinds = set(map(type, keys))
    if kinds <= {str, bytes}:
        return
    for key in keys:
        for part in key if type(key) is tuple and len(key) <= _MAX_KEY_TUPLE else (key,):
            if type(part) not in _PLAIN_KEYS and not isinstance(part, Stub):
                raise PickleError(f"has a {type(key).__name__} as a key")
            if type(part) is int and abs(part) > _MAX_KEY_INT:
                raise PickleError("has a number as a key that is too large")


def mapping(items: list[Any]) -> dict[Any, Any]:
    """Return a dict from a list of alternating keys and values."""
    keys = items[::2]
    check_keys(keys)
    return dict(zip(keys, items[1::2], strict=True))


def _refuse_buffer(machine: Machine) -> NoReturn:
    raise PickleError("refers to an out-of-band buffer")


def _instance(m: Machine) -> None:
    module, name = m.line().decode(), m.line().decode()
    arguments = tuple(m.items())
    m.named(module, name)
    m.call(m.stack.pop(), arguments)


def _object(m: Machine) -> None:
    function, *arguments = m.items()
    m.call(function, tuple(arguments))


def _reduce(m: Machine) -> None:
    arguments = m.stack.pop()
    m.call(m.stack.pop(), arguments)


def _new_with_names(m: Machine) -> None:
    m.stack.pop()
    _reduce(m)


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.named(module, name)


_STOP = ord(".")
_OPERATIONS: dict[bytes, Callable[[Machine], Any]] = {
    b"(": Machine.mark,
    b"0": Machine.pop,
    b"1": Machine.items,
    b"2": lambda m: m.push_again(m.stack[-1]),
    b"p": lambda m: m.put(int(m.line()[:_MAX_INT_DIGITS])),
    b"q": lambda m: m.put(m.unsigned(1)),
    b"r": lambda m: m.put(m.unsigned(4)),
    b"\x94": Machine.memoize,
    b"g": lambda m: m.get(int(m.line()[:_MAX_INT_DIGITS])),
    b"h": lambda m: m.get(m.unsigned(1)),
    b"j": lambda m: m.get(m.unsigned(4)),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"I": lambda m: m.number(m.line()),
    b"L": lambda m: m.long(m.line()),
    b"J": lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),
    b"K": lambda m: m.stack.append(m.unsigned(1)),
    b"M": lambda m: m.stack.append(m.unsigned(2)),
    b"\x8a": lambda m: m.long_binary(m.unsigned(1)),
    b"\x8b": lambda m: m.long_binary(m.unsigned(4)),
    b"F": lambda m: m.stack.append(float(m.line())),
    b"G": lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    b"V": lambda m: m.escaped_text(m.line()),
    b"X": lambda m: m.text(m.unsigned(4)),
    b"\x8c": lambda m: m.text(m.unsigned(1)),
    b"\x8d": lambda m: m.text(m.unsigned(8)),
    b"S": lambda m: m.quoted_string(m.line()),
    b"T": lambda m: m.string(m.take(m.unsigned(4))),
    b"U": lambda m: m.string(m.take(m.unsigned(1))),
    b"B": lambda m: m.stack.append(m.take(m.unsigned(4))),
    b"C": lambda m: m.stack.append(m.take(m.unsigned(1))),
    b"\x8e": lambda m: m.stack.append(m.take(m.unsigned(8))),
    b"\x96": lambda m: m.stack.append(bytearray(m.take(m.unsigned(8)))),
    b"\x97": _refuse_buffer,
    b"\x98": _refuse_buffer,
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b")": lambda m: m.stack.append(()),
    b"\x8f": lambda m: m.stack.append(set()),
    b"l": lambda m: m.push(m.items()),
    b"d": lambda m: m.push(mapping(m.items())),
    b"t": lambda m: m.push(tuple(m.items())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"\x91": lambda m: m.frozen_set(m.items()),
    b"a": lambda m: m.append_items([m.stack.pop()]),
    b"e": lambda m: m.append_items(m.items()),
    b"s": _set_item,
    b"u": lambda m: m.set_items(m.items()),
    b"\x90": lambda m: m.add_items(m.items()),
    b"c": lambda m: m.named(m.line().decode(), m.line().decode()),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_with_names,
    b"i": _instance,
    b"o": _object,
    b"b": Machine.build,
    b"P": lambda m: m.refer(m.line().decode()),
    b"Q": lambda m: m.refer(m.stack.pop()),
    b"\x80": lambda m: m.protocol(m.unsigned(1)),
    b"\x95": lambda m: m.frame(m.unsigned(8)),
}
HANDLERS = [_OPERATIONS.get(bytes([opcode])) for opcode in range(256)]
