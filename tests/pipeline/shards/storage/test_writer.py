"""A shard is there whole or not at all: killed at every step, refused by the disk, or left by an exception."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.failures import FailureRow, read_failures
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path, failures_path, record_path
from vilbert.pipeline.shards.record import is_done, read_records
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.atomic import HashingFile, sweep_temporary, write_atomic
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.writer import ShardWriter

MakeSample = Callable[..., Sample]
FINGERPRINT = "ab" * 32
STORAGES: list[StorageFormat] = ["tar", "lmdb"]
STEPS = [(os, "replace"), (os, "fsync"), (os, "open"), (Path, "open"), (Path, "unlink"), (Path, "mkdir")]


def failed(row: int, **changes: Any) -> FailureRow:
    fields = {"row": row, "image_id": f"i{row}", "uri": f"{row}.jpg", "reason": "corrupt", "detail": "x"}
    return FailureRow(**fields | changes)


def write_shard(directory: Path, make_sample: MakeSample, storage: StorageFormat, seed: int = 0) -> None:
    with ShardWriter(directory, shard=3, format=storage) as writer:
        for row in (30, 31):
            writer.add(make_sample(f"k{row}", boxes=4, seed=seed + row))
        writer.commit(rows=(30, 34), failures=[failed(33), failed(32, reason="missing")], fingerprint=FINGERPRINT)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def assert_no_record_without_data(directory: Path) -> None:
    for shard, record in read_records(directory).items():
        data = (directory / "shards" / record.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record.bytes, record.sha256)
        assert hashlib.sha256(failures_path(directory, shard).read_bytes()).hexdigest() == record.failures_sha256
        assert is_done(directory, shard)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_committed_shard_is_there_with_its_record(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat
) -> None:
    write_shard(tmp_path, make_sample, storage)
    assert set(tree(tmp_path)) == {f"shards/000003.{storage}", "shards/000003.json", "failures/000003.jsonl"}
    assert_no_record_without_data(tmp_path)
    record = read_records(tmp_path)[3]
    assert (record.shard, record.rows, record.samples, record.failures) == (
        3,
        (30, 34),
        2,
        {"corrupt": 1, "missing": 1},
    )
    assert (record.first_key, record.last_key, record.fingerprint) == ("k30", "k31", FINGERPRINT)
    assert [row.row for row in read_failures(failures_path(tmp_path, 3))] == [32, 33]
    with open_shard(tmp_path / "shards" / record.file) as reader:
        assert reader.keys() == ("k30", "k31")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_shard_whose_rows_all_failed_is_whole(tmp_path: Path, storage: StorageFormat) -> None:
    with ShardWriter(tmp_path, shard=0, format=storage) as writer:
        record = writer.commit(rows=(0, 2), failures=[failed(0), failed(1)], fingerprint=FINGERPRINT)
    assert (record.samples, record.first_key, record.last_key) == (0, None, None)
    assert_no_record_without_data(tmp_path)
    with open_shard(tmp_path / "shards" / record.file) as reader:
        assert len(reader) == 0
        assert list(reader) == []


def run_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(step: int) -> None:
    """Patch this process to die before its `step`-th file system call; in a write, after half of its bytes."""
    counter = iter(range(1, 10**9))

    def count(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if next(counter) == step:
                os._exit(9)
            return call(*arguments, **options)

        return counted

    for owner, name in STEPS:
        setattr(owner, name, count(getattr(owner, name)))
    whole_write = HashingFile.write

    def half_write(self: HashingFile, data: bytes) -> None:
        if next(counter) == step:
            whole_write(self, data[: len(data) // 2])
            self._file.flush()
            os._exit(9)
        whole_write(self, data)

    HashingFile.write = half_write  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "before",
    [pytest.param("nothing", marks=pytest.mark.slow), pytest.param("whole", marks=pytest.mark.slow), "damaged"],
)
@pytest.mark.parametrize("storage", ["tar", pytest.param("lmdb", marks=pytest.mark.slow)])
def test_killed_at_any_step_no_record_lacks_its_data_and_a_rerun_gives_the_same_bytes(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat, before: str
) -> None:
    whole = tmp_path / "whole"
    write_shard(whole, make_sample, storage)
    expected = tree(whole)

    def work(directory: Path, step: int) -> None:
        die_at(step)
        write_shard(directory, make_sample, storage)

    for step in range(1, 1000):
        directory = tmp_path / str(step)
        if before != "nothing":
            shutil.copytree(whole, directory)
        if before == "damaged":
            data_path(directory, 3, storage).write_bytes(b"damaged")
        status = run_child(lambda directory=directory, step=step: work(directory, step))
        data = data_path(directory, 3, storage)
        if not (before == "damaged" and data.read_bytes() == b"damaged"):  # as found; the writer never vouched for it
            assert_no_record_without_data(directory)
        if before == "whole":  # a worker that was given up, and comes back after its successor
            assert is_done(directory, 3)
        if status == 0:
            break
        assert status == 9
        sweep_temporary(directory)
        write_shard(directory, make_sample, storage)
        assert tree(directory) == expected
    assert status == 0
    assert step > 10
    assert tree(directory) == expected


@pytest.mark.parametrize("storage", STORAGES)
def test_killed_at_random_moments(tmp_path: Path, make_sample: MakeSample, storage: StorageFormat) -> None:
    draw = random.Random(0)

    def work() -> None:
        while True:
            write_shard(tmp_path, make_sample, storage)

    for _ in range(8):
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert_no_record_without_data(tmp_path)
    sweep_temporary(tmp_path)
    write_shard(tmp_path, make_sample, storage)
    assert len(tree(tmp_path)) == 3


def test_everything_is_on_the_disk_before_the_record_names_it(
    tmp_path: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may undo: content not fsynced before its rename, a rename before its folder's fsync."""
    trace: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        trace.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def traced_replace(source: Path, target: Path) -> None:
        trace.append(("replace", f"{source.name} -> {target.name}"))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    for storage in STORAGES:
        trace.clear()
        write_shard(tmp_path / storage, make_sample, storage)
        renames = [at for at, (call, _) in enumerate(trace) if call == "replace"]
        for at, folder in zip(renames, ("failures", "shards", "shards"), strict=True):
            assert ("fsync", trace[at][1].split(" -> ")[0]) in trace[:at]
            assert trace[at + 1] == ("fsync", folder)
        targets = [trace[at][1].split(" -> ")[1] for at in renames]
        assert targets == ["000003.jsonl", f"000003.{storage}", "000003.json"]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat, error: type[BaseException]
) -> None:
    def leave() -> None:
        with ShardWriter(tmp_path, shard=0, format=storage) as writer:
            writer.add(make_sample())
            raise error

    with pytest.raises(error):
        leave()
    assert tree(tmp_path) == {}
    with ShardWriter(tmp_path, shard=0, format=storage) as writer:
        writer.add(make_sample())
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat
) -> None:
    """A limit on the size of files stands in for the full disk: writes fail the same way."""
    import resource

    big = make_sample(boxes=100, feature_dim=2048)

    def write_big() -> None:
        with ShardWriter(tmp_path, shard=0, format=storage) as writer:
            writer.add(big)
            writer.commit(rows=(0, 1), failures=[], fingerprint=FINGERPRINT)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        with pytest.raises(ShardError, match=r"000000\.\w+: cannot be written .*free space"):
            write_big()

    assert run_child(work) == 0
    assert tree(tmp_path) == {}


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file where the folder should be")
    with pytest.raises(ShardError, match="cannot be written"):
        ShardWriter(tmp_path, shard=0, format="tar")


@pytest.mark.parametrize(
    ("rows", "failures", "message"),
    [
        ((0, 3), [], "1 samples and 0 failures for 3 rows"),
        ((0, 1), [failed(0)], "1 samples and 1 failures for 1 rows"),
        ((0, 3), [failed(1), failed(1)], "list a row twice"),
        ((0, 2), [failed(2)], "outside of"),
    ],
)
def test_rows_that_do_not_add_up_are_refused(
    tmp_path: Path, make_sample: MakeSample, rows: tuple[int, int], failures: list[FailureRow], message: str
) -> None:
    with ShardWriter(tmp_path, shard=0, format="tar") as writer:
        writer.add(make_sample())
        with pytest.raises(ShardError, match=message):
            writer.commit(rows=rows, failures=failures, fingerprint=FINGERPRINT)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("storage", STORAGES)
def test_samples_that_do_not_go_together_are_refused(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat
) -> None:
    with ShardWriter(tmp_path, shard=0, format=storage) as writer:
        writer.add(make_sample("a"))
        with pytest.raises(ShardError, match="key 'a' appears twice"):
            writer.add(make_sample("a"))
        for other in ({"feature_dim": 9}, {"top_classes": 3}, {"attributes": True}):
            with pytest.raises(ShardError, match="sample b has the arrays"):
                writer.add(make_sample("b", **other))
        writer.add(make_sample("b", boxes=7))


def test_sweep_takes_temporary_files_only(tmp_path: Path, make_sample: MakeSample) -> None:
    write_shard(tmp_path, make_sample, "tar")
    write_atomic(tmp_path / "dataset.json", b"{}")
    for name in (".lock", ".notes.tmp", "shards/.mine.7.tmp"):
        (tmp_path / name).write_text("")
    kept = tree(tmp_path)
    stale = [
        ".dataset.json.7.00abcdef.tmp",
        "shards/.000004.tar.7.00abcdef.tmp",
        "failures/.000004.jsonl.7.00abcdef.tmp",
    ]
    for name in stale:
        (tmp_path / name).write_text("half")
    assert sorted(str(path.relative_to(tmp_path)) for path in sweep_temporary(tmp_path)) == sorted(stale)
    assert tree(tmp_path) == kept
    assert sweep_temporary(tmp_path / "absent") == []


def test_is_done_wants_record_data_and_failures_to_agree(tmp_path: Path, make_sample: MakeSample) -> None:
    assert not is_done(tmp_path, 3)
    for spoil in (
        lambda: record_path(tmp_path, 3).unlink(),
        lambda: record_path(tmp_path, 3).write_bytes(b"{"),
        lambda: (tmp_path / "shards/000003.tar").unlink(),
        lambda: (tmp_path / "shards/000003.tar").write_bytes(b"short"),
        lambda: failures_path(tmp_path, 3).unlink(),
        lambda: failures_path(tmp_path, 3).write_bytes(b""),
    ):
        write_shard(tmp_path, make_sample, "tar")
        assert is_done(tmp_path, 3)
        spoil()
        assert not is_done(tmp_path, 3)
