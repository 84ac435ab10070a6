"""Published LMDB files as a whole: damaged, hostile, unfinished, of another byte order."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published
from vilbert.pipeline.rebuild.formats.importers.lmdb_values import PackedKeys

from .published import Hostile, pictures, vilbert_lmdb_values, write_lmdb
from .samples import read_published, samples_of


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", vilbert_lmdb_values(pictures(8), "arrays"))
    data = (path / "data.mdb").read_bytes()
    for size in (len(data) - 4096, len(data) // 2, 8192, 5000, 100):
        (path / "data.mdb").write_bytes(data[:size])
        with pytest.raises(ShardError, match=r"a\.lmdb: (a damaged LMDB|not an LMDB, or truncated)"):
            open_published(path, "vilbert-lmdb")
        assert detect_format(path) is None


def test_a_file_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", vilbert_lmdb_values(pictures(8), "arrays"))
    data = bytearray((path / "data.mdb").read_bytes())
    for page in range(2, len(data) // 4096):
        data[4096 * page : 4096 * page + 16] = b"\xff" * 16
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(ShardError, match="a damaged LMDB"):
        open_published(path, "vilbert-lmdb")


def test_another_byte_order_is_named(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", vilbert_lmdb_values(pictures(), "arrays"))
    data = bytearray((path / "data.mdb").read_bytes())
    data[16:20] = data[16:20][::-1]
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(ShardError, match="an LMDB of another byte order"):
        open_published(path, "vilbert-lmdb")


def test_an_unfinished_conversion_is_refused(tmp_path: Path) -> None:
    values = vilbert_lmdb_values(pictures(), "arrays")
    absent = {**values}
    absent.pop(pictures()[2].image_id.encode())
    path = write_lmdb(tmp_path / "absent.lmdb", absent)
    with pytest.raises(ShardError, match=r"names 1 keys without a value, the first b'COCO_train2014_000000000003'"):
        open_published(path)
    path = write_lmdb(tmp_path / "more.lmdb", {**values, b"9": values[pictures()[0].image_id.encode()]})
    with pytest.raises(ShardError, match=r"has 4 keys, 0 of them repeated, and there are 5 values"):
        open_published(path)
    empty = write_lmdb(tmp_path / "empty.lmdb", {b"keys": pickle.dumps([])})
    with pytest.raises(ShardError, match="holds no rows; the output would be empty"):
        open_published(empty, "mmf-lmdb")


def test_a_file_without_a_list_of_keys_is_read_in_its_own_order(tmp_path: Path) -> None:
    found = pictures()
    values = vilbert_lmdb_values(list(reversed(found)), "arrays")
    listed = samples_of(read_published(write_lmdb(tmp_path / "listed.lmdb", values))[1])
    assert [sample.meta["image_id"] for sample in listed] == [picture.image_id for picture in reversed(found)]
    del values[b"keys"]
    samples = samples_of(read_published(write_lmdb(tmp_path / "a.lmdb", values, subdir=False))[1])
    assert [sample.meta["image_id"] for sample in samples] == [picture.image_id for picture in found]


def test_a_hostile_list_of_keys_runs_nothing(tmp_path: Path) -> None:
    values = vilbert_lmdb_values(pictures(), "arrays")
    values[b"keys"] = pickle.dumps(Hostile(tmp_path / "made"))
    path = write_lmdb(tmp_path / "a.lmdb", values)
    with pytest.raises(ShardError, match=r"refused: its list of keys asks for posix\.mkdir"):
        open_published(path, "vilbert-lmdb")
    assert not (tmp_path / "made").exists()


def test_a_lock_file_is_neither_needed_nor_made(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", vilbert_lmdb_values(pictures(), "arrays"))
    (path / "lock.mdb").unlink()
    (path / "data.mdb").chmod(0o400)
    assert len(samples_of(read_published(path)[1])) == 4
    assert [file.name for file in path.iterdir()] == ["data.mdb"]


def test_packed_keys_are_a_sequence() -> None:
    keys = PackedKeys([b"a", b"", b"ccc"])
    assert [keys[row] for row in range(len(keys))] == [b"a", b"", b"ccc"]
    assert len(PackedKeys([])) == 0
