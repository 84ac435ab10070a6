"""Pickles that came from outside, read as plain data, within bounds.

`load` is the only reader of pickles of this project. It runs none of the code that a pickle names (`pickle_machine`, or
`plain_pickles` for those that name none), and what it returns can be walked, compared and written without harm: nested
at most `MAX_DEPTH` deep, without cycles, and, where a pickle repeats its parts, not many times larger than the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

from vilbert.untrusted.documents import MAX_DEPTH
from vilbert.untrusted.pickle_machine import CONTAINERS, Buffer, ForbiddenError, Machine, PickleError, Stub
from vilbert.untrusted.plain_pickles import NotPlainError, load_plain

__all__ = ["MAX_DEPTH", "Buffer", "ForbiddenError", "PickleError", "Stub", "load", "load_one"]

_REPEATS = 16
"""How many times larger than the file its content may be, once repeated parts are counted each time."""
_FREE = 1 << 20
_TEXTS = frozenset({str, bytes, bytearray})
_ATOMS = frozenset({int, float, bool, type(None)})
# What the operations of a damaged pickle raise.
_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, struct.error)


def refuse_globals(module: str, name: str) -> NoReturn:
    """Raise PickleError for every class and function; the default of `load`."""
    raise ForbiddenError(f"asks for {module}.{name}, which could run code")


def refuse_references(pid: Any) -> NoReturn:
    """Raise PickleError for references to something outside of the pickle; the default of `load`."""
    raise ForbiddenError(f"refers to an external object ({_brief(pid)})")


def load(
    data: Buffer,
    *,
    lookup: Callable[[str, str], Any] = refuse_globals,
    persistent_load: Callable[[Any], Any] = refuse_references,
    encoding: str = "latin1",
) -> Any:
    """Return the value of a pickle of any protocol.

    Args:
        data: The whole file.
        lookup: Called with the module and the name of a class or function that the pickle asks for. It returns a
            `Stub`, or a value that cannot be called, or raises PickleError.
        persistent_load: Called with references to something outside of the pickle, as torch's files have them.
        encoding: Of strings that Python 2 wrote; `bytes` leaves them as they are.

    Raises:
        PickleError: The pickle is damaged, beyond the bounds of this module, or asks for something refused.
    """
    if isinstance(data, bytes):
        with suppress(NotPlainError):
            value = load_plain(data, encoding)
            _check_shape(value, _REPEATS * len(data) + _FREE)
            return value
    return load_one(data, 0, lookup=lookup, persistent_load=persistent_load, encoding=encoding)[0]


def load_one(
    data: Buffer,
    start: int,
    *,
    lookup: Callable[[str, str], Any] = refuse_globals,
    persistent_load: Callable[[Any], Any] = refuse_references,
    encoding: str = "latin1",
) -> tuple[Any, int]:
    """Return the value of the pickle that begins at `start`, and where it ends; see `load`."""
    budget = _REPEATS * len(data) + _FREE
    machine = Machine(data, start, lookup=lookup, persistent=persistent_load, encoding=encoding, budget=budget)
    try:
        value = machine.run()
    except PickleError:
        raise
    except MemoryError:
        raise PickleError("does not fit into memory") from None
    except _DAMAGE as error:
        if machine.at > len(data) or (isinstance(error, IndexError) and machine.at == len(data)):
            raise PickleError("ends before its last operation") from None
        raise PickleError(f"is damaged before byte {machine.at:,} ({_brief(error)})") from None
    _check_shape(value, budget if machine.shares else None)
    return value, machine.at


def _check_shape(value: Any, limit: int | None) -> None:
    """Refuse a value that is nested too deeply, in itself, or, with a limit, too large once repeats are counted.

    Goes level by level, and visits a container once a level, so this takes no longer than the pickle is large.
    """
    level = {id(value): value} if isinstance(value, CONTAINERS) else {}
    counts = {id(value): 1}
    size = 0
    for _ in range(MAX_DEPTH):
        if not level:
            return
        deeper: dict[int, Any] = {}
        deeper_counts: dict[int, int] = {}
        for number, whole in level.items():
            times, weight = counts[number], 0
            for part in _parts(whole):
                kind = type(part)
                if kind in _TEXTS:
                    weight += len(part)
                    continue
                weight += 1
                if kind not in _ATOMS and isinstance(part, CONTAINERS):
                    deeper[id(part)] = part
                    deeper_counts[id(part)] = deeper_counts.get(id(part), 0) + times
            size += times * weight
            if limit is not None and size > limit:
                raise PickleError("expands its values to many times the size of the file")
        level, counts = deeper, deeper_counts
    if level:
        raise PickleError(f"is nested deeper than {MAX_DEPTH} levels, or in itself")


def _parts(whole: Any) -> Iterable[Any]:
    return [*whole, *whole.values()] if isinstance(whole, dict) else whole


def _brief(value: Any) -> str:
    """Return the beginning of a value's text, which for a container could be huge."""
    if isinstance(value, CONTAINERS):
        return f"a {type(value).__name__}"
    return repr(value)[:80] if not isinstance(value, BaseException) else str(value)[:80] or type(value).__name__
