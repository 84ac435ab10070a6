"""NumPy's .npy files that came from outside, with a shape that agrees with the size of the file.

`numpy.load` sets aside what the header states, unpacks a .npz whatever the name of the file, and raises errors of many
kinds.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ArrayError(ValueError):
    """A file that is no .npy of plain values, or not as large as its header states."""


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file; raise ArrayError where it is damaged, OSError where it cannot be opened."""
    with open(path, "rb") as file:
        return parse_npy(file, os.fstat(file.fileno()).st_size)


def map_npy(path: Path) -> NDArray[Any]:
    """Return a read-only map of a .npy file's array, which need not fit into memory; errors as of `read_npy`."""
    import numpy as np

    with open(path, "rb") as file:
        shape, fortran_order, dtype = read_header(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    _check_shape(shape, dtype, size - start)
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, order="F" if fortran_order else "C")


def parse_npy(file: IO[bytes], size: int) -> NDArray[Any]:
    """Return the array of a .npy file of `size` bytes, open at its start; errors as of `read_npy`."""
    import numpy as np

    shape, fortran_order, dtype = read_header(file)
    left = size - file.tell()
    _check_shape(shape, dtype, left)
    count = math.prod(shape)
    data = file.read(left)
    if len(data) != left:
        raise ArrayError("it became shorter while it was read")
    flat = np.frombuffer(data, dtype=dtype) if left else np.empty(count, dtype=dtype)
    try:
        return flat.reshape(shape, order="F" if fortran_order else "C")
    except ValueError:  # a side, beside one of 0, that is larger than numpy counts
        raise ArrayError(
            f"its header describes an array of {list(shape[:8])} {dtype}, which numpy cannot create"
        ) from None


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], left: int) -> None:
    """Raise ArrayError for an array of objects, or one that does not take the `left` bytes that follow its header."""
    if dtype.hasobject:
        raise ArrayError("holds Python objects, which could run code")
    if len(shape) > 32:  # before the product, which many sides make slow
        raise ArrayError(f"its header describes an array of {len(shape):,} dimensions")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ArrayError(f"its header describes an array of {list(shape[:8])} {dtype}, and {left:,} bytes follow it")


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether it is in Fortran order, and dtype of a .npy file, and leave the file behind its header."""
    import tokenize

    import numpy as np

    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ArrayError(f"it is of version {version[0]}.{version[1]} of the .npy format, not 1.0 or 2.0")
        header = readers[version](file)
    except ArrayError:
        raise
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ArrayError(f"it is not a .npy file: {str(error).partition(chr(10))[0][:200]}") from None
    shape, fortran_order, dtype = header
    return shape, fortran_order, dtype
