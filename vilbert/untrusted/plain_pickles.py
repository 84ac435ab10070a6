"""A fast path for pickles of lists, dicts, strings and numbers, such as annotation files written by Python 2.

A regular expression checks the pickle operation by operation at the speed of C. It matches plain data only: no class,
no call, no external reference, no tuple (whose hash recurses if it is a key), no long string or integer, no escaped
character beyond ASCII, and no memo index out of proportion to the file. Python's own unpickler then builds the value in
memory proportional to the file. All other pickles are read by `pickle_machine`.
"""

from __future__ import annotations

import io
import pickle
import re
from functools import lru_cache
from typing import Any, NoReturn

_SHORT = 256
_OPERATIONS_AT_ONCE = 5_000
"""Operations per match, because the matcher keeps some bytes for each operation of a match."""
_BYTES_OF_AN_INDEX = 2
"""Minimum file size per memo entry, because Python's unpickler allocates an array of twice the largest memo index."""


class NotPlainError(ValueError):
    """A pickle that is damaged or holds anything but plain data."""


def load_plain(data: bytes, encoding: str) -> Any:
    """Return the value of a pickle that ends with `data`. Depth, cycles and repeated parts are not checked.

    Raises:
        NotPlainError: The pickle is damaged, or this module does not read it.
    """
    operations = _operations(len(data))
    at = 0
    while (match := operations.match(data, at)) is not None:
        at = match.end()
    if data[at:] != b".":
        raise NotPlainError
    try:
        return _Unpickler(io.BytesIO(data), encoding=encoding).load()
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        raise NotPlainError from None


class _Unpickler(pickle.Unpickler):
    """Refuses all names, although the pickles that reach it have none."""

    def find_class(self, _module: str, _name: str) -> NoReturn:
        raise NotPlainError

    def persistent_load(self, _pid: Any) -> NoReturn:
        raise NotPlainError


def _operations(size: int) -> re.Pattern[bytes]:
    """Return the pattern that matches a series of operations in a pickle of `size` bytes."""
    entries = size // _BYTES_OF_AN_INDEX
    return _pattern(digits=max(len(str(entries)) - 1, 2), high=min(entries >> 16, 255))


@lru_cache(maxsize=8)
def _pattern(digits: int, high: int) -> re.Pattern[bytes]:
    """Return the pattern for memo indices of at most `digits` digits and below (high + 1) << 16."""
    number = rb"(?:0|-?[1-9][0-9]{0,17})"  # below 2**60: larger integers collide with the hashes of smaller ones
    operations = [
        rb"[(ldesau\]}N\x88\x89]",
        rb"p[0-9]{1,%d}\n" % digits,
        rb"g[0-9]{1,9}\n",
        rb"[qhK].",
        rb"r..[\x00-\x%02x]\x00" % high,
        rb"j....",
        rb"M..",
        rb"J....",
        rb"I(?:0[01]|%s)\n" % number,
        rb"L%sL\n" % number,
        rb"F-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?\n",
        rb"G.{8}",
        rb"\x8a(?:%s)" % b"|".join(rb"\x%02x.{%d}" % (size, size) for size in range(8)),
        rb"S(?:'[^\n]*'|\"[^\n]*\")\n",
        rb"V[^\\\n\x80-\xff]*\n",
        rb"U(?:%s)" % b"|".join(rb"\x%02x.{%d}" % (size, size) for size in range(_SHORT)),
        rb"X(?:%s)" % b"|".join(rb"\x%02x\x00\x00\x00[\x00-\x7f]{%d}" % (size, size) for size in range(_SHORT)),
        rb"\x80[\x00-\x03]",
    ]
    return re.compile(rb"(?:%s){1,%d}" % (b"|".join(operations), _OPERATIONS_AT_ONCE), re.DOTALL)
