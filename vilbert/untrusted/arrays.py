"""Read untrusted .npy files, checking that the shape in the header matches the size of the file.

`numpy.load` allocates the memory that the header asks for, unpacks a .npz file whatever its name, and raises many kinds
of errors.
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
    """A file that is not a .npy file of plain values, or whose size does not match its header."""


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file.

    Raises:
        ArrayError: The file is damaged.
        OSError: The file cannot be opened.
    """
    with open(path, "rb") as file:
        return parse_npy(file, os.fstat(file.fileno()).st_size)


def map_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file as a read-only memory map. Raises the errors of `read_npy`."""
    import numpy as np

    with open(path, "rb") as file:
        shape, fortran_order, dtype = read_header(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    _check_shape(shape, dtype, size - start)
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, order="F" if fortran_order else "C")


def parse_npy(file: IO[bytes], size: int) -> NDArray[Any]:
    """Return the array of a .npy file of `size` bytes that is open at its start. Raises the errors of `read_npy`."""
    import numpy as np

    shape, fortran_order, dtype = read_header(file)
    left = size - file.tell()
    _check_shape(shape, dtype, left)
    count = math.prod(shape)
    data = file.read(left)
    if len(data) != left:
        raise ArrayError("it was truncated while it was read")
    flat = np.frombuffer(data, dtype=dtype) if left else np.empty(count, dtype=dtype)
    try:
        return flat.reshape(shape, order="F" if fortran_order else "C")
    except ValueError:  # one dimension is 0 and another exceeds the range of numpy's integers
        raise ArrayError(
            f"its header describes an array of {list(shape[:8])} {dtype}, which numpy cannot create"
        ) from None


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], left: int) -> None:
    """Raise ArrayError for an array of objects, or one whose size is not the `left` bytes that follow the header."""
    if dtype.hasobject:
        raise ArrayError("holds Python objects, which could run code")
    if len(shape) > 32:  # checked before the product, which is slow for many dimensions
        raise ArrayError(f"its header describes an array of {len(shape):,} dimensions")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ArrayError(f"its header describes an array of {list(shape[:8])} {dtype}, and {left:,} bytes follow it")


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file and leave the file positioned after it.

    Returns:
        The shape, whether the array is in Fortran order, and the dtype.
    """
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
