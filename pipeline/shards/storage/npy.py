"""Arrays as .npy files, version 1.0, the way NumPy writes them: little-endian, C order, never pickled.

Reading is strict (only the header that NumPy writes for such an array), makes no copy, and allocates nothing based on a
damaged file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_HEADER_BYTES = 256
USUAL_HEADER_BYTES = 128
"""Size of the header in the .npy files that NumPy writes for arrays of one or two axes."""
MAX_EMPTY_SIDE = 1 << 16
"""Maximum length of an axis of an array without elements, which cannot be checked against the data."""
_HEADER = re.compile(
    rb"\{'descr': '(<f2|<f4|<u2|\|i1|\|u1)', 'fortran_order': False, 'shape': \((\d{1,12}), ?(\d{0,12})\), \} *\n"
)


def encode_npy(array: NDArray[Any]) -> bytes:
    """Return the array as a .npy file."""
    buffer = io.BytesIO()
    little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    np.lib.format.write_array(buffer, little_endian, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(data: memoryview | bytes) -> NDArray[Any]:
    """Return a read-only view [N] or [N, M] of a .npy file's array, float16, float32, uint16, int8 or uint8.

    Raises ValueError if the bytes are not exactly such a file.
    """
    view = memoryview(data)
    if bytes(view[:8]) != _MAGIC:
        raise ValueError("is not a version 1.0 .npy file")
    start = 10 + int.from_bytes(view[8:10], "little")
    if start > _MAX_HEADER_BYTES or start % 64:
        raise ValueError(f"has a .npy header of {start} bytes, expected a multiple of 64 up to {_MAX_HEADER_BYTES}")
    dtype, shape, expected = _parse_header(bytes(view[10:start]))
    if len(view) - start != expected:
        raise ValueError(
            f"holds {len(view) - start} bytes of data, its header's {list(shape)} {dtype} needs {expected}"
        )
    check_empty(shape)
    return read_only_view(view, dtype, shape, start)


class NpyLayout(NamedTuple):
    """The content of the header of a .npy file."""

    dtype: np.dtype[Any]
    """Of the array."""
    shape: tuple[int, ...]
    """Of the array."""
    size: int
    """Size of the whole file, including its header."""


@lru_cache(maxsize=4096)
def usual_layout(header: bytes) -> NpyLayout | None:
    """Return the layout from a header of `USUAL_HEADER_BYTES`; None if `decode_npy` has to check the file.

    `decode_npy` accepts every file with this header and size, so each distinct header is checked once.
    """
    length = USUAL_HEADER_BYTES - 10
    if len(header) != USUAL_HEADER_BYTES or header[:10] != _MAGIC + length.to_bytes(2, "little"):
        return None
    try:
        dtype, shape, size = _parse_header(header[10:])
        check_empty(shape)
    except ValueError:
        return None
    return NpyLayout(dtype, shape, USUAL_HEADER_BYTES + size)


def concatenate_npy(contents: Iterable[memoryview]) -> tuple[NDArray[Any], list[int]]:
    """Concatenate the arrays of many .npy files along their first axis; also return the length of each.

    This is several times faster than decoding each file: most headers occur many times, and each distinct one is
    checked once.

    Raises ValueError if `decode_npy` would refuse a file, if a file has another dtype or another second axis than the
    first, or if no file is given.
    """
    checked: dict[bytes, tuple[int, int]] = {}  # header -> rows, bytes of data
    kinds: set[tuple[np.dtype[Any], tuple[int, ...]]] = set()
    parts: list[memoryview] = []
    rows: list[int] = []
    for view in contents:
        header = bytes(view[:USUAL_HEADER_BYTES])
        if (found := checked.get(header)) is None or len(view) != USUAL_HEADER_BYTES + found[1]:
            array = decode_npy(view)
            if len(view) - array.nbytes != USUAL_HEADER_BYTES:
                raise ValueError(f"has a header of {len(view) - array.nbytes} bytes")
            kinds.add((array.dtype, array.shape[1:]))
            found = checked[header] = len(array), array.nbytes
        parts.append(view[USUAL_HEADER_BYTES:])
        rows.append(found[0])
    if len(kinds) != 1:
        raise ValueError(f"are of {len(kinds)} dtypes or widths, expected one")
    ((dtype, tail),) = kinds
    return np.frombuffer(b"".join(parts), dtype).reshape(sum(rows), *tail), rows


def check_empty(shape: Sequence[int]) -> None:
    """Raise ValueError for an array without elements whose other axis is too long.

    The caller has compared the bytes that the shape needs with those that exist, which limits the axes of an array with
    elements. An array without elements needs no bytes, whatever the length of its other axis.
    """
    if 0 in shape and max(shape) > MAX_EMPTY_SIDE:
        raise ValueError(f"has the shape {list(shape)} without elements; a side has at most {MAX_EMPTY_SIDE}")


@lru_cache(maxsize=4096)  # a data set has few different shapes
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return the dtype, the shape and the number of data bytes in a .npy header."""
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError("has a .npy header other than NumPy writes for the dtypes of a sample in one or two axes")
    dtype = np.dtype(match[1].decode())
    shape = (int(match[2]), int(match[3])) if match[3] else (int(match[2]),)
    return dtype, shape, dtype.itemsize * shape[0] * (shape[1] if len(shape) == 2 else 1)


def read_only_view(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Return a read-only array over `data` without a copy; the caller has checked its size."""
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=data, offset=offset)
    array.flags.writeable = False
    return array
