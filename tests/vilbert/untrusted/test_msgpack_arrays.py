"""MessagePack with arrays from outside: what msgpack_numpy writes of numbers, and nothing that it would unpickle."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.msgpack_arrays import MessageError, load_msgpack


def packed(array: Any, **changes: Any) -> dict[bytes, Any]:
    """Return the mapping that msgpack_numpy makes of an array."""
    fields = {
        b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes(),
    }  # fmt: skip
    return {**fields, **{name.encode(): value for name, value in changes.items()}}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 5)])
def test_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    (found,) = load_msgpack(msgpack.packb([packed(array)]))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_scalars_texts_and_mappings() -> None:
    scalar = {b"nd": False, b"type": "<f4", b"data": np.float32(1.5).tobytes()}
    value = {
        "a": [1, "text", b"bytes", None],
        "b": {"nd": False, "type": b"<i8", "data": np.int64(7).tobytes()},
        "c": scalar,
    }
    assert load_msgpack(msgpack.packb(value)) == {"a": [1, "text", b"bytes", None], "b": 7, "c": 1.5}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": b"O"}, {"type": "|O"}, {"type": "|V8"}, {"type": "<U4"}, {"type": [["a", "<f4"]]}, {"type": 7},
        {"shape": [3]}, {"shape": [-1]}, {"shape": [2.0]}, {"shape": 2}, {"shape": [1 << 40, 0]}, {"shape": [1] * 40},
        {"data": "text"}, {"data": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        load_msgpack(msgpack.packb(packed(np.ones(2, np.float32), **changes)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x01\x01", b"\x81" * 5_000, b"\x91" * 100_000,
     msgpack.packb(msgpack.ExtType(5, b"abc")), b"\xd9\x01\xff"],
    ids=["empty", "unused", "array", "bytes", "two", "maps", "lists", "extension", "text"],
)  # fmt: skip
def test_damaged_messages_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        load_msgpack(data)


@given(st.data())
def test_damage_raises_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(msgpack.packb([packed(np.ones((2, 3), np.float32)), "7", {"a": packed(np.ones(1))}]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MessageError):
        load_msgpack(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
