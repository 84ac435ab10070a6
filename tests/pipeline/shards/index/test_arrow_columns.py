"""Arrays built from their buffers are those of pyarrow, and pandas is not imported for them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.shards.index.arrow_columns import arrow_array

TEXTS = st.text(st.characters(codec="utf-8"), max_size=9)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, max_size=40)


@given(optional(TEXTS), optional(st.integers(-(2**31), 2**31 - 1)), optional(st.lists(st.none() | TEXTS, max_size=3)))
def test_arrays_are_those_of_pyarrow(texts: list[Any], numbers: list[Any], lists: list[Any]) -> None:
    columns = [(texts, pa.string()), (numbers, pa.int32()), (numbers, pa.int64()), (lists, pa.list_(pa.string()))]
    for values, kind in columns:
        array = arrow_array(values, kind)
        array.validate(full=True)
        assert array.equals(pa.array(values, kind))
        assert array.null_count == values.count(None)


def test_what_arrow_cannot_hold_is_an_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        arrow_array(["\ud800"], pa.string())
    with pytest.raises(OverflowError):
        arrow_array([2**31], pa.int32())


def test_pandas_is_not_imported() -> None:
    code = (
        "import sys, pyarrow as pa\n"
        "from vilbert.pipeline.shards.index.arrow_columns import arrow_array\n"
        "arrow_array([['a'], None], pa.list_(pa.string()))\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
