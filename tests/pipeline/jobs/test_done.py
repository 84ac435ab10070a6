"""Which shards are done: the same from notes and one listing as from every record, in little memory and time."""

from __future__ import annotations

import hashlib
import io
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilbert.pipeline.errors import ShardError, UnsupportedFormatError
from vilbert.pipeline.jobs import done
from vilbert.pipeline.jobs.done import DONE_FILE, DoneShards, find_done
from vilbert.pipeline.jobs.plan import finish_dataset
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, read_dataset, write_dataset
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import data_path, failures_path, record_path
from vilbert.pipeline.shards.location.listing import Entry
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.sample import describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

SHARDS = 6


def plan(shards: int = SHARDS) -> DatasetInfo:
    return DatasetInfo(
        storage="tar",
        shard_size=2,
        rows=2 * shards,
        manifest="m.parquet",
        manifest_hash="0" * 64,
        fields=describe_fields(feature_dim=8, top_classes=2, attributes=False),
        feature_dim=8,
        class_names=("background", "dog"),
        attribute_names=(),
        fingerprint=fingerprint_digest({}),
        fingerprint_fields={},
        software={},
    )


def write_shards(directory: Path, make_sample: Callable) -> None:
    for shard in range(SHARDS):
        rows = (2 * shard, 2 * shard + 2)
        failed = FailureRow(row=rows[0], image_id="a", uri="b", reason="corrupt", detail="as made")
        with ShardWriter(directory, shard=shard, format="tar") as writer:
            writer.add(make_sample(f"k{shard}"))
            writer.commit(rows=rows, failures=[failed], fingerprint=fingerprint_digest({}))


@pytest.fixture
def directory(tmp_path: Path, make_sample: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six finished shards of two rows, one of which failed."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    write_shards(tmp_path, make_sample)
    return tmp_path


def noted(directory: Path) -> DoneShards:
    """Find what is done and save the notes."""
    found = find_done(LocalFolder(directory), plan())
    found.save()
    return found


def test_all_are_found_and_their_failed_rows(directory: Path) -> None:
    found = noted(directory)
    assert found.pending() == []
    assert found.failed_rows == SHARDS


def test_with_notes_no_record_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted(directory)
    record_path(directory, 4).unlink()
    data_path(directory, 1, "tar").unlink()
    failures_path(directory, 2).unlink()

    def read(path: Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(done, "read_record", read)
    found = find_done(LocalFolder(directory), plan())
    assert found.pending() == [1, 2, 4]
    assert found.failed_rows == 3


DAMAGES: dict[str, Callable[[Path], object]] = {
    "delete": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "append": lambda path: path.write_bytes(path.read_bytes() + b"\n{"),
}


@given(
    st.dictionaries(
        st.tuples(st.integers(0, SHARDS - 1), st.sampled_from(["record", "data"])), st.sampled_from(sorted(DAMAGES))
    ),
    st.integers(0, SHARDS),
)
def test_notes_change_nothing_of_what_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    make_sample: Callable,
    damages: dict[tuple[int, str], str],
    known: int,
) -> None:
    directory = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        write_shards(directory, make_sample)
        noted = find_done(LocalFolder(directory), plan())
        noted.forget(range(known, SHARDS))
        noted.save()
        notes = (directory / DONE_FILE).read_bytes()
        (directory / DONE_FILE).unlink()
        for (shard, kind), damage in damages.items():
            path = record_path(directory, shard) if kind == "record" else data_path(directory, shard, "tar")
            DAMAGES[damage](path)
        without = find_done(LocalFolder(directory), plan())
        (directory / DONE_FILE).write_bytes(notes)
        with_notes = find_done(LocalFolder(directory), plan())
    assert with_notes.pending() == without.pending()
    assert with_notes.failed_rows == without.failed_rows
    # A record that lost its last newline still says all that it said.
    harmful = {shard for (shard, kind), damage in damages.items() if (kind, damage) != ("record", "cut")}
    assert without.pending() == sorted(harmful)


def _array(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=array.dtype == object)
    return content.getvalue()


def _archive(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not numpy",
        _array(np.zeros((SHARDS, 3), np.float64)),
        _array(np.zeros((SHARDS + 1, 3), np.int64)),
        _array(np.array([None])),
        _array(np.zeros((SHARDS, 3), np.int64))[:-5],
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(100),
        _archive(a=np.zeros((SHARDS, 3), np.int64)),
        _array(np.zeros((SHARDS, 3), np.int64)).replace(b"(6, 3), }        ", b"(9999999999, 3), }"),
    ],
)
def test_damaged_notes_are_no_notes(directory: Path, content: bytes) -> None:
    noted(directory)
    record_path(directory, 3).unlink()
    (directory / DONE_FILE).write_bytes(content)
    assert find_done(LocalFolder(directory), plan()).pending() == [3]


CHANGES: dict[str, Callable[[Path], object]] = {
    "a failure's row is another": lambda directory: _replace(failures_path(directory, 3), b'"row":6', b'"row":7'),
    "a failure's reason is another": lambda directory: _replace(failures_path(directory, 3), b"corrupt", b"missing"),
    "failures are gone": lambda directory: failures_path(directory, 3).write_bytes(b""),
    "a record names other failures": lambda directory: _replace(
        record_path(directory, 3), *_digests(failures_path(directory, 3), directory / "none")
    ),
    "a record has another fingerprint": lambda directory: _replace(
        record_path(directory, 3), fingerprint_digest({}).encode(), b"0" * 64
    ),
    "a record has other rows": lambda directory: _replace(record_path(directory, 3), b"[6,8]", b"[4,6]"),
    "a record is no JSON": lambda directory: _replace(record_path(directory, 3), b'"rows"', b'"rows '),
}


def _replace(path: Path, old: bytes, new: bytes) -> None:
    """Write other bytes of the same number in place of some, as an editor does."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def _digests(*paths: Path) -> list[bytes]:
    return [hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest().encode() for path in paths]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("keeps_its_time", [False, True])
def test_a_change_after_the_notes_is_seen_though_no_size_is_another(
    directory: Path, change: str, keeps_its_time: bool
) -> None:
    noted(directory)
    paths = failures_path(directory, 3), record_path(directory, 3)
    times = [path.stat().st_mtime_ns for path in paths]
    time.sleep(0.02)  # the clock of a file system ticks a hundred times a second
    CHANGES[change](directory)
    if keeps_its_time:
        for path, was in zip(paths, times, strict=True):
            os.utime(path, ns=(was, was))
    assert find_done(LocalFolder(directory), plan()).pending() == [3]


def test_what_was_read_again_is_not_read_a_third_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted(directory)
    time.sleep(0.02)
    failures_path(directory, 3).touch()
    time.sleep(0.02)
    assert noted(directory).pending() == []
    monkeypatch.setattr(done, "read_record", lambda path: pytest.fail(f"{path} was read"))
    assert find_done(LocalFolder(directory), plan()).pending() == []


def test_records_of_a_finished_set_that_were_edited_are_not_taken_for_its_own(directory: Path) -> None:
    write_dataset(directory, plan())
    folder = LocalFolder(directory)
    finished = finish_dataset(folder, written=SHARDS)
    assert finish_dataset(folder, written=0) == finished
    digest = read_records(directory)[2].sha256.encode()
    _replace(record_path(directory, 2), digest, b"0" * 64)
    with pytest.raises(ShardError, match=r"records in shards/ do not match dataset.json.*vilbert verify .*--deep"):
        finish_dataset(folder, written=0)
    assert read_dataset(directory) == finished


def test_a_record_that_contradicts_its_neighbours_is_none(directory: Path) -> None:
    failures_path(directory, 0).write_bytes(b"")
    record_path(directory, 1).write_bytes(record_path(directory, 2).read_bytes())
    record_path(directory, 5).write_bytes(record_path(directory, 5).read_bytes().replace(b"000005.tar", b"000005.lmdb"))
    assert find_done(LocalFolder(directory), plan()).pending() == [0, 1, 5]


def test_a_newer_versions_record_is_not_overwritten(directory: Path) -> None:
    record_path(directory, 1).write_bytes(b'{"format":99}')
    with pytest.raises(UnsupportedFormatError):
        find_done(LocalFolder(directory), plan())


@settings(max_examples=20)
@given(st.permutations(range(SHARDS)))
def test_the_notes_of_a_finished_set_do_not_tell_how_it_got_there(
    tmp_path_factory: pytest.TempPathFactory, make_sample: Callable, order: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        empty = find_done(LocalFolder(directory), plan())
        write_shards(directory, make_sample)
        records = read_records(directory)
        for shard in order:
            empty.note(records[shard])
        empty.save()
        grown = (directory / DONE_FILE).read_bytes()
        (directory / DONE_FILE).unlink()
        find_done(LocalFolder(directory), plan()).save()
    assert grown == (directory / DONE_FILE).read_bytes()


def test_notes_are_saved_now_and_then_and_only_where_they_change(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(done.time, "monotonic", lambda: clock[0])
    found = find_done(LocalFolder(directory), plan())
    records = read_records(directory)
    found.note(records[0])
    assert not (directory / DONE_FILE).exists()
    clock[0] += done.SAVE_SECONDS
    found.note(records[1])
    written = (directory / DONE_FILE).stat().st_mtime_ns
    found.save()
    find_done(LocalFolder(directory), plan()).save()
    assert (directory / DONE_FILE).stat().st_mtime_ns == written


def test_notes_that_cannot_be_written_do_not_end_the_run(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vilbert.pipeline.shards.location.folder.write_atomic", refuse)
    find_done(LocalFolder(directory), plan()).save()
    assert "No space left on device" in caplog.text


class ListedFolder:
    """A folder of very many shards, of which there is a listing and notes only."""

    name, remote = "s3://bucket/set", True

    def __init__(self, shards: int, notes: Path) -> None:
        self._shards, self._notes = shards, notes

    def listing(self, under: str, *, sweep: bool = False) -> Iterator[Entry]:
        for kind in ("json", "tar") if under == "shards" else ("jsonl",):
            yield from (Entry(f"{shard:06}.{kind}", 1000 + shard % 7, shard) for shard in range(self._shards))

    def changed(self, name: str) -> int:
        assert name == DONE_FILE
        return self._shards

    @contextmanager
    def local(self, names: Sequence[str]) -> Iterator[Path]:
        if any(name.startswith("shards/") for name in names):
            raise ShardError("a record was fetched")
        yield self._notes


@pytest.mark.slow
def test_the_shards_of_a_hundred_million_rows_are_found_in_seconds_and_little_memory(tmp_path: Path) -> None:
    shards = 100_000
    sizes = 1000 + np.arange(shards) % 7
    np.save(tmp_path / DONE_FILE, np.stack([sizes, sizes, np.ones_like(sizes)], axis=1))
    began = time.process_time()
    tracemalloc.start()
    try:
        found = find_done(ListedFolder(shards, tmp_path), plan(shards))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.pending() == []
    assert found.failed_rows == shards
    assert peak < 30e6
    assert time.process_time() - began < 20
