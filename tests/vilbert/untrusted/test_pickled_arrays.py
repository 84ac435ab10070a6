"""Pickles and .npy files of arrays from outside: NumPy's own, of all versions, are read; nothing else runs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted.arrays import ArrayError
from vilbert.untrusted.pickled_arrays import load_arrays, load_npy
from vilbert.untrusted.pickles import ForbiddenError, PickleError

VALUES: dict[str, Any] = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big-endian": np.arange(6, dtype=">f8"),
    "Fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "strided": np.arange(12, dtype=np.float16)[::2],
    "no dimensions": np.array(5, np.int16),
    "empty": np.zeros((0, 7), np.float32),
    "scalar": np.float64(1.5),
    "bool": np.array([True, False]),
}


def npy_of(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", list(VALUES))
def test_arrays_of_all_protocols(name: str, protocol: int) -> None:
    value = VALUES[name]
    found = load_arrays(pickle.dumps({"a": [value, "text"], "b": OrderedDict(c=value)}, protocol))
    for array in (found["a"][0], found["b"]["c"]):
        assert array.dtype == value.dtype
        np.testing.assert_array_equal(array, value)
    assert found["a"][1] == "text"


def test_the_names_of_numpy_1_and_2() -> None:
    data = pickle.dumps(VALUES["float32"], 2)
    names = [argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"]
    assert any("multiarray" in name for name in names)
    for core in (b"numpy.core", b"numpy._core"):
        renamed = data.replace(b"numpy._core", core)
        np.testing.assert_array_equal(load_arrays(renamed), VALUES["float32"])


def test_arrays_of_objects_are_lists_and_one_without_dimensions_its_object() -> None:
    assert load_npy(npy_of(np.array({"a": 1}, dtype=object))) == {"a": 1}
    mixed = np.array(["text", None, [1, 2]], dtype=object)
    assert load_npy(npy_of(mixed)) == ["text", None, [1, 2]]
    (inner,) = load_npy(npy_of(np.array([np.arange(3), None], dtype=object)[:1]))
    np.testing.assert_array_equal(inner, np.arange(3))
    np.testing.assert_array_equal(load_npy(npy_of(VALUES["Fortran"])), VALUES["Fortran"])


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_else_is_called(tmp_path: Path, protocol: int) -> None:
    for evil in (
        Hostile(os.mkdir, str(tmp_path / "made")),
        Hostile(eval, "1"),
        Hostile(np.load, "file"),
        Hostile(np.fromfile, "file"),
        Hostile(getattr, np.zeros(1), "tofile"),
    ):
        for value in (evil, [evil], {"a": evil}, np.array([evil], dtype=object)):
            with pytest.raises(ForbiddenError, match=r"names "):
                load_arrays(pickle.dumps(value, protocol))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([1j]),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
    ],
    ids=["text", "complex", "structured", "date"],
)
def test_arrays_of_anything_but_numbers_are_refused(array: Any) -> None:
    with pytest.raises(PickleError):
        load_arrays(pickle.dumps(array))
    with pytest.raises((PickleError, ArrayError)):
        load_npy(npy_of(array))


def test_lengths_and_shapes_must_agree() -> None:
    array = np.arange(4, dtype=np.float32)
    data = pickle.dumps(array, 2)
    longer = data.replace(b"K\x04\x85", b"M\xff\xff\x85")
    assert longer != data
    tracemalloc.start()
    with pytest.raises(ForbiddenError, match=r"holds 16 bytes as an array of \[65535\]"):
        load_arrays(longer)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_arrays_of_objects_nest_only_so_far() -> None:
    assert load_arrays(_chain(10)) == [[[[[[[[[[None]]]]]]]]]]
    with pytest.raises(PickleError, match="nests arrays of objects too deeply"):
        load_arrays(_chain(5_000))


def _chain(depth: int) -> bytes:
    """Return a pickle of arrays of objects, each inside the next, which Python's pickle would not write."""
    empty = np.empty(1, dtype=object)
    empty[0] = None
    one = pickle.dumps(empty, 2)[2:-1]
    before, after = one.split(b"]")[0] + b"]", b"a" + one.split(b"]", 1)[1].split(b"a", 1)[1]
    return b"\x80\x02" + before * depth + b"N" + after * depth + b"."


@given(st.data())
def test_damage_raises_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps({"a": VALUES["float32"], "b": [np.array([None, "x"], dtype=object)]}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PickleError):
        load_arrays(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
