"""Pickles for old readers."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.rebuild.formats.exporters.pickles import append_key, encode_key_list, encode_pickle

from .conftest import unpickle

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    assert pickle.loads(encode_pickle(value)) == value


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint16", ">f4", "bool", "int8"])
@pytest.mark.parametrize("shape", [(), (0, 4), (3,), (2, 300)])
def test_arrays_come_back_in_python_and_in_the_restricted_unpickler(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    data = encode_pickle({"a": array})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = pickle.loads(data)["a"]
    assert np.array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("<")
    if array.dtype.itemsize > 1:  # the dtype of single bytes has no byte order, which the test's reader expects
        assert np.array_equal(unpickle(data)["a"], array)


def test_every_name_is_one_that_numpy_had_in_2018_and_the_protocol_one_that_python_3_0_reads() -> None:
    operations = list(pickletools.genops(encode_pickle({"a": np.zeros((2, 3), np.float32)})))
    names = {argument for operation, argument, _ in operations if operation.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert max(operation.proto for operation, _, _ in operations) <= 3


def test_a_fortran_array_is_written_in_c_order() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.array_equal(unpickle(encode_pickle({"a": array}))["a"], array)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), np.array([object()])])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot hold"):
        encode_pickle(value)


@pytest.mark.parametrize("keys", [[], [b"1"], [b"17", b"x" * 255, b"y" * 300, b""]])
def test_a_list_of_keys(keys: list[bytes]) -> None:
    collected = bytearray()
    for key in keys:
        append_key(collected, key)
    assert pickle.loads(encode_key_list(collected)) == keys
