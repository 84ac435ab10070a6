"""New LMDB environments."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.exporters.lmdb_file import new_lmdb


def test_values_beyond_the_first_map_and_batch_are_kept(tmp_path: Path) -> None:
    value = bytes(range(256)) * 20_000  # 5 MB
    with new_lmdb(tmp_path / "x", subdir=True) as put:
        for number in range(15):
            put(b"%d" % number, value + b"%d" % number)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["data.mdb"]
    with lmdb.open(str(tmp_path / "x"), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert environment.stat()["entries"] == 15
        assert all(transaction.get(b"%d" % number) == value + b"%d" % number for number in range(15))


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with new_lmdb(tmp_path / name, subdir=False) as put:
            for number in range(100):
                put(b"%d" % (number * 37 % 100), b"v" * number)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    def write_twice() -> None:
        with new_lmdb(tmp_path / "x", subdir=True) as put:
            put(b"1", b"a")
            put(b"1", b"b")

    with pytest.raises(ShardError, match="two samples have the key '1'"):
        write_twice()


@pytest.mark.parametrize("key", [b"", b"k" * 512])
def test_a_key_of_no_allowed_length_is_refused(key: bytes, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="bytes long"), new_lmdb(tmp_path / "x", subdir=True) as put:
        put(key, b"a")
