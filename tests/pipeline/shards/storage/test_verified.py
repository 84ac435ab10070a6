"""A file of samples is compared with its record before it is used: a flipped bit in a value is no sample."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path, record_path
from vilbert.pipeline.shards.record import read_record
from vilbert.pipeline.shards.storage import verified
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.verified import (
    VerifiedFiles,
    compare_once,
    compare_with_record,
    file_sha256,
    read_compared,
)
from vilbert.pipeline.shards.storage.writer import ShardWriter

MakeSample = Callable
storages = pytest.mark.parametrize("storage", ["tar", "lmdb"])


def write_shard(folder: Path, make_sample: MakeSample, storage: StorageFormat = "tar", *, samples: int = 3) -> Path:
    """Write one shard and return the path of its samples."""
    with ShardWriter(folder, shard=0, format=storage) as writer:
        for number in range(samples):
            writer.add(make_sample(f"k{number}"))
        failed = FailureRow(row=samples, image_id="a", uri="b", reason="corrupt", detail="as made")
        writer.commit(rows=(0, samples + 1), failures=[failed], fingerprint="0" * 64)
    return data_path(folder, 0, storage)


def flip_a_value(path: Path) -> None:
    """Change one bit of the last sample's features, which leaves every name, size and shape what it was."""
    with open_shard(path, verify=False) as reader:
        value = reader[len(reader) - 1].regions.features.tobytes()
    content = bytearray(path.read_bytes())
    content[content.rindex(value[:64]) + 5] ^= 0x40
    path.write_bytes(content)


@storages
def test_a_flipped_bit_inside_a_value_is_refused(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat
) -> None:
    path = write_shard(tmp_path, make_sample, storage)
    flip_a_value(path)
    with pytest.raises(CorruptShardError, match=rf"000000\.{storage}: its SHA-256 is .* delete 000000\.{storage}"):
        open_shard(path)
    with open_shard(path, verify=False) as reader:
        assert len(list(reader)) == 3


@storages
def test_a_bit_that_flips_between_two_openings_is_seen(
    tmp_path: Path, make_sample: MakeSample, storage: StorageFormat
) -> None:
    path = write_shard(tmp_path, make_sample, storage)
    with open_shard(path) as reader:
        assert len(reader) == 3
    time.sleep(0.02)  # the clock of a file system ticks a hundred times a second
    flip_a_value(path)
    with pytest.raises(CorruptShardError, match="its SHA-256"):
        open_shard(path)


def test_a_whole_file_is_read_once_a_process(
    tmp_path: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path, make_sample)
    compare_with_record(path)
    monkeypatch.setattr(verified, "file_sha256", lambda path, stop=None: pytest.fail(f"{path} was read again"))
    with open_shard(path) as reader:
        assert reader[0].key == "k0"


def test_a_part_is_read_and_the_whole_file_compared_in_one_pass(
    tmp_path: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path, make_sample)
    monkeypatch.setattr(verified, "_READ_BYTES", 700)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert b"".join(map(bytes, read_compared(path, 512, 5000, sha256))) == content[512:5000]
    monkeypatch.setattr(verified, "file_sha256", lambda path, stop=None: pytest.fail(f"{path} was read again"))
    compare_with_record(path)
    assert b"".join(map(bytes, read_compared(path, 1, 3, sha256))) == content[1:3]
    flip_a_value(path)
    for _ in range(2):  # the first attempt does not stand in the way of the second
        with pytest.raises(CorruptShardError, match="its SHA-256"):
            b"".join(map(bytes, read_compared(path, 0, 512, sha256)))
    abandoned = read_compared(path, 0, 2000, sha256)
    next(abandoned)
    abandoned.close()
    with pytest.raises(CorruptShardError, match="its SHA-256"):
        b"".join(map(bytes, read_compared(path, 0, 512, sha256)))


def test_a_part_beyond_the_end_of_a_file_is_an_error(tmp_path: Path) -> None:
    path, sha256 = tmp_path / "000000.tar", hashlib.sha256(b"abc").hexdigest()
    path.write_bytes(b"abc")
    compare_once(path, sha256)
    with pytest.raises(CorruptShardError, match="has 3 bytes, 5 are expected"):
        b"".join(map(bytes, read_compared(path, 1, 5, sha256)))


def test_a_file_without_a_record_beside_it_can_be_opened(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write_shard(tmp_path / "data", make_sample)
    alone = Path(shutil.copy(path, tmp_path / "000000.tar"))
    with open_shard(alone) as reader:
        assert reader.keys() == ("k0", "k1", "k2")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[" * 100_000, "nested deeper"), (b"{}", "format is None"), (b'{"format":1}', "is missing")],
)
def test_a_damaged_record_beside_it_is_named(
    tmp_path: Path, make_sample: MakeSample, content: bytes, message: str
) -> None:
    path = write_shard(tmp_path, make_sample)
    record_path(tmp_path, 0).write_bytes(content)
    with pytest.raises(CorruptShardError, match=rf"000000\.json.*{message}"):
        open_shard(path)


def test_the_record_of_another_file_vouches_for_none(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write_shard(tmp_path, make_sample)
    record = record_path(tmp_path, 0)
    record.write_bytes(record.read_bytes().replace(b"000000.tar", b"000000.lmdb"))
    with pytest.raises(CorruptShardError, match=r"is the record of 000000\.lmdb, not of 000000\.tar"):
        open_shard(path)


def test_a_log_tells_other_processes_and_later_runs(
    tmp_path: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path, make_sample)
    digest = read_record(record_path(tmp_path, 0)).sha256
    early = VerifiedFiles(tmp_path / "log")
    first = pickle.loads(pickle.dumps(early))
    first.require(path, digest)
    monkeypatch.setattr(verified, "file_sha256", lambda path, stop=None: pytest.fail(f"{path} was read again"))
    early.require(path, digest)
    VerifiedFiles(tmp_path / "log").require(path, digest)


def test_a_torn_log_costs_a_reading_and_no_more(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write_shard(tmp_path, make_sample)
    digest = read_record(record_path(tmp_path, 0)).sha256
    log = tmp_path / "log"
    VerifiedFiles(log).require(path, digest)
    log.write_bytes(b"\xff\x00" + log.read_bytes()[:20])
    flip_a_value(path)
    with pytest.raises(CorruptShardError):
        VerifiedFiles(log).require(path, digest)


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_changed_is_compared_again(tmp_path: Path, make_sample: MakeSample, cached: bool) -> None:
    path = write_shard(tmp_path, make_sample)
    digest = read_record(record_path(tmp_path, 0)).sha256
    files = VerifiedFiles()
    files.require(path, digest, cached=cached)
    damaged = tmp_path / "damaged"
    shutil.copy(path, damaged)
    flip_a_value(damaged.rename(damaged.with_suffix(".tar")))
    os.replace(damaged.with_suffix(".tar"), path)  # as a cache that fetches anew: another inode
    with pytest.raises(CorruptShardError):
        files.require(path, digest, cached=cached)


def test_the_time_of_use_is_no_change_of_a_cached_file(
    tmp_path: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path, make_sample)
    digest = read_record(record_path(tmp_path, 0)).sha256
    files = VerifiedFiles()
    files.require(path, digest, cached=True)
    os.utime(path, (1, 1))
    monkeypatch.setattr(verified, "file_sha256", lambda path, stop=None: pytest.fail(f"{path} was read again"))
    files.require(path, digest, cached=True)


def _require_all(files: VerifiedFiles, paths: list[Path], digest: str) -> None:
    for path in paths:
        files.require(path, digest)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_the_work(tmp_path: Path, make_sample: MakeSample, method: str) -> None:
    path = write_shard(tmp_path / "data", make_sample)
    digest = read_record(record_path(tmp_path / "data", 0)).sha256
    paths = [Path(shutil.copy(path, tmp_path / f"{number}.tar")) for number in range(20)]
    files = VerifiedFiles(tmp_path / "log")
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=_require_all, args=(files, paths, digest)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == len(paths)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptShardError, match=r"gone\.tar: cannot be read \(No such file"):
        VerifiedFiles().require(tmp_path / "gone.tar", "0" * 64)
    with pytest.raises(CorruptShardError, match=r"cannot be read"):
        file_sha256(tmp_path)


def test_a_folder_that_takes_no_log_is_no_hindrance(tmp_path: Path, make_sample: MakeSample) -> None:
    path = write_shard(tmp_path, make_sample)
    files = VerifiedFiles(tmp_path / "none" / "log")
    files.require(path, read_record(record_path(tmp_path, 0)).sha256)
    with pytest.raises(CorruptShardError):
        files.require(path, "0" * 64)


def test_kept_records_are_those_of_the_format(tmp_path: Path, make_sample: MakeSample) -> None:
    """What is compared is the whole file, as the record's writer hashed it."""
    path = write_shard(tmp_path, make_sample, "lmdb")
    assert file_sha256(path) == json.loads(record_path(tmp_path, 0).read_bytes())["sha256"]


def test_a_list_that_nobody_needs_is_closed(tmp_path: Path) -> None:
    process = psutil.Process()
    gc.collect()
    before = process.num_fds()
    for log in (None, tmp_path / "log"):
        files = VerifiedFiles(log)
        copy = pickle.loads(pickle.dumps(files))
        assert process.num_fds() == before + 2
        del files, copy
        gc.collect()
        assert process.num_fds() == before
