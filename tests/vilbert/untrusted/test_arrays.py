"""A .npy file from outside is read where it is as large as its header states, and sets nothing aside otherwise."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.arrays import ArrayError, parse_npy, read_npy


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3),
        np.zeros((0, 4), np.float16),
        np.array(["a", "bcd"]),
        np.arange(3, dtype=">i4"),
    ],
    ids=str,
)
def test_an_array_is_read_as_it_was_saved(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def with_header(text: str, data: bytes = b"12345678") -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}"),
        with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"),
        with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}"),
        with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}"),
        with_header("{'descr': '|U1000000000', 'fortran_order': False, 'shape': (1,)}"),
        with_header("{'descr': '|V0', 'fortran_order': False, 'shape': (1099511627776,)}"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        with_header("{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 90),
        with_header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': {(10**70, 0)}}}", b""),
        with_header(f"{{'descr': '|i1', 'fortran_order': False, 'shape': {(1,) * 33}}}", b"1"),
        with_header("nonsense"),
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f",
        b"PK\x03\x04",
        b"",
    ],
)
def test_a_header_that_the_file_does_not_bear_out_is_refused(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArrayError):
            parse_npy(io.BytesIO(content), len(content))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@given(at=st.integers(0, 150), byte=st.integers(0, 255), keep=st.integers(0, 200))
def test_changed_bytes_give_an_array_or_an_array_error(at: int, byte: int, keep: int) -> None:
    stream = io.BytesIO()
    np.save(stream, np.arange(4))
    content = bytearray(stream.getvalue())
    content[at % len(content)] = byte
    del content[keep:]
    try:
        parse_npy(io.BytesIO(content), len(content))
    except ArrayError:
        return
