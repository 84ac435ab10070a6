"""Pickles of plain values and arrays that every version of Python 3 and NumPy reads.

`pickle.dumps` under NumPy 2 refers to `numpy._core`, which NumPy before 1.26 does not have, so old readers fail. These
pickles of protocol 3 refer only to `numpy.core.multiarray._reconstruct`, `numpy.ndarray` and `numpy.dtype`. The same
values give the same bytes under all versions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_pickle(value: Any) -> bytes:
    """Return the pickle of a value made of None, bool, int, float, str, bytes, arrays, lists and mappings.

    Raises:
        TypeError: A value of another type.
    """
    return b"\x80\x03" + _encode(value) + b"."


def _encode(value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"I%d\n" % value
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case bytes() | bytearray():
            return b"B" + struct.pack("<I", len(value)) + value
        case np.ndarray():
            return _encode_array(value)
        case Mapping():
            pairs = (_encode(key) + _encode(part) for key, part in value.items())
            return b"}(" + b"".join(pairs) + b"u"
        case Sequence():
            return b"](" + b"".join(map(_encode, value)) + b"e"
    raise TypeError(f"a pickle for old readers cannot hold a {type(value).__name__}")


def _encode_array(array: NDArray[Any]) -> bytes:
    """Return the operations that build an array the way `numpy.ndarray.__reduce__` does."""
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a pickle for old readers cannot hold an array of {array.dtype}")
    order, kind = array.dtype.str[0], array.dtype.str[1:]
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(I0\nt" + _encode(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + _encode(kind) + b"\x89\x88\x87R"  # not aligned, a copy
    dtype += b"(K\x03" + _encode(order) + b"NNN" + _encode(-1) + _encode(-1) + b"K\x00tb"
    shape = b"(" + b"".join(map(_encode, array.shape)) + b"t"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _encode(array.tobytes()) + b"tb"


def append_key(keys: bytearray, key: bytes) -> None:
    """Append a byte string to the items of a list that `encode_key_list` completes; adds 2 to 5 bytes to its size."""
    keys += (b"C" + bytes([len(key)]) if len(key) < 256 else b"B" + struct.pack("<I", len(key))) + key


def encode_key_list(keys: bytearray) -> bytes:
    """Return the pickle of the list of byte strings that were passed to `append_key`."""
    return b"\x80\x03](" + keys + b"e."
