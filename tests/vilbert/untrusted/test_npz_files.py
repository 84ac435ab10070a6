"""A .npz file from outside is unpacked within bounds."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.untrusted import npz_files
from vilbert.untrusted.arrays import ArrayError
from vilbert.untrusted.npz_files import load_npz
from vilbert.untrusted.pickles import PickleError


def npz(*, compressed: bool = True, **arrays: object) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_and_a_mapping(compressed: bool) -> None:
    found = load_npz(npz(compressed=compressed, x=np.arange(3.0), n=7, info={"a": np.arange(2)}))
    np.testing.assert_array_equal(found["x"], np.arange(3.0))
    assert found["n"] == 7
    np.testing.assert_array_equal(found["info"]["a"], np.arange(2))
    assert load_npz(npz(x=1, y={}), skip=("y",)).keys() == {"x"}


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_files, "MAX_BYTES", 1 << 16)
    with pytest.raises(ArrayError, match="unpacks to more than"):
        load_npz(npz(x=np.zeros(1 << 16)))
    with pytest.raises(ArrayError, match="unpacks to more than"):
        load_npz(npz(**{f"x{number}": np.zeros(1 << 12) for number in range(4)}))


def test_a_member_that_is_longer_than_it_says_is_refused() -> None:
    data = bytearray(npz(compressed=False, x=np.zeros(64)))
    for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        struct.pack_into("<I", data, at, 160)
    with pytest.raises(ArrayError):
        load_npz(bytes(data))


def test_names_and_methods() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(ArrayError, match="compressed by a method that NumPy does not use"):
        load_npz(file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", _array())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", _array())
    with pytest.raises(ArrayError, match="holds 'x' twice"):
        load_npz(file.getvalue())


def _array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(1))
    return file.getvalue()


@given(st.data())
def test_damage_raises_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(npz(x=np.arange(50.0), info={"a": 1}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArrayError, PickleError):
        load_npz(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
