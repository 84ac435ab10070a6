"""Read untrusted pickles as plain data, within bounds.

`load` is the only reader of pickles in this project. It runs none of the code that a pickle names (see
`pickle_machine`, and `plain_pickles` for pickles that name none). Its result is safe to walk, compare and write: nested
at most `MAX_DEPTH` levels, free of cycles, and, if parts are repeated, bounded by a multiple of the file's size.
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
"""Maximum ratio of content to file size, where repeated parts are counted each time."""
_FREE = 1 << 20
_TEXTS = frozenset({str, bytes, bytearray})
_ATOMS = frozenset({int, float, bool, type(None)})
# Errors that the operations of a damaged pickle raise.
_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, struct.error)


def refuse_globals(module: str, name: str) -> NoReturn:
    """Raise ForbiddenError for every class and function. The default of `load`."""
    raise ForbiddenError(f"asks for {module}.{name}, which could run code")


def refuse_references(pid: Any) -> NoReturn:
    """Raise ForbiddenError for references to external objects. The default of `load`."""
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
        data: The content of the file.
        lookup: Called with the module and the name of a class or function that the pickle names. It returns a `Stub` or
            a value that cannot be called, or raises PickleError.
        persistent_load: Called with references to external objects, which the files of PyTorch contain.
        encoding: Encoding of strings that Python 2 wrote. `bytes` keeps them as bytes.

    Raises:
        PickleError: The pickle is damaged, exceeds the bounds of this module, or names something that is refused.
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
    """Return the value of the pickle that begins at `start`, and the offset of its end. See `load`."""
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
    """Refuse a value that is nested too deeply, contains itself, or exceeds the limit when repeats are counted.

    Visits each container once per level, so that the time is proportional to the size of the pickle.
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
    """Return the beginning of a value's repr, or only the type of a container, whose repr could be huge."""
    if isinstance(value, CONTAINERS):
        return f"a {type(value).__name__}"
    return repr(value)[:80] if not isinstance(value, BaseException) else str(value)[:80] or type(value).__name__
