"""Arrow arrays of Python values, built from their buffers.

`pyarrow.array` imports pandas on its first call if it is installed (Ray Train requires it). This takes a second of CPU
time, more than indexing ten thousand samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return the same array as `pyarrow.array(values, kind)`, for a column of a Parquet file.

    Args:
        values: Integers, strings or lists of strings; None for a missing value.
        kind: An integer type, `string` or `list<string>`.

    Raises:
        UnicodeEncodeError: A string cannot be encoded as UTF-8.
        OverflowError: An integer is out of range, or the strings take more than 2 GiB together.
    """
    import pyarrow as pa

    missing = np.fromiter((value is None for value in values), bool, len(values))
    nulls = int(missing.sum())
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if nulls else None
    if pa.types.is_integer(kind):
        numbers = np.array([0 if value is None else value for value in values], kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(numbers)], nulls)
    if pa.types.is_string(kind):
        texts = [b"" if value is None else value.encode() for value in values]
        buffers = [valid, _offsets(list(map(len, texts))), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(kind, len(values), buffers, nulls)
    lists = [value or () for value in values]
    items = arrow_array(list(chain.from_iterable(lists)), kind.value_type)
    buffers = [valid, _offsets(list(map(len, lists)))]
    return pa.Array.from_buffers(kind, len(values), buffers, nulls, children=[items])


def _offsets(lengths: list[int]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.array(list(accumulate(lengths, initial=0)), np.int32))
